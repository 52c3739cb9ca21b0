"""What is said of the licenses of pretrained weights."""

from __future__ import annotations

import pytest
import timm

from regraft.licenses import describe_conditions, find_license
from regraft.models.registry import BACKBONES


def test_every_backbone_has_a_license_that_is_known() -> None:
    for spec in BACKBONES.values():
        for name in (spec.license, spec.wheel.license if spec.wheel else spec.license):
            found = find_license(name)
            assert found.conditions is not None, name
            assert found.url.startswith("https://")
            assert found.is_spdx == (found.name != "DINOv3 License")
    with_conditions = {name for name, spec in BACKBONES.items() if find_license(spec.license).conditions}
    assert with_conditions == {name for name in BACKBONES if name.startswith(("convnextv2_", "dinov3_"))}


def test_timm_names_the_licenses_of_the_registry_in_its_own_way() -> None:
    for spec in BACKBONES.values():
        stated = timm.models.get_pretrained_cfg(spec.timm_name).license
        assert find_license(stated or spec.license) == find_license(spec.license), spec.name


@pytest.mark.parametrize(
    ("weights", "published", "words"),
    [
        ({"source": "hub", "name": "timm/a", "license": "cc-by-nc-4.0"}, "",
         ["timm/a have the license CC-BY-NC-4.0, which has conditions: no commercial use.", "/by-nc/4.0/"]),
        ({"source": "hub", "name": "timm/a", "license": "dinov3-license"}, "", ["DINOv3 License", "dinov3-license/"]),
        ({"source": "hub", "name": "timm/a", "license": "gemma"}, "",
         ["the license gemma, which may have conditions. ", "https://huggingface.co/timm/a"]),
        ({"source": "hub", "name": "timm/a", "license": "other"}, "",
         ["timm/a state no license. ", "https://huggingface.co/timm/a"]),
        ({"source": "hub", "name": "https://example.org/a.pth", "license": ""}, "", ["state no license"]),
        ({"source": "run", "name": "/home/me/runs/a", "license": "DINOv3"}, "", ["The pretrained weights have the"]),
        ({"source": "file", "name": "a.pth", "license": ""}, "DINOv3",
         ["is not known. Those that are published for this backbone have the DINOv3 License"]),
    ],
)  # fmt: skip
def test_conditions_are_named_with_a_place_to_read_them(
    weights: dict[str, str], published: str, words: list[str]
) -> None:
    (text,) = describe_conditions(weights, published)
    assert all(word in text for word in words), text
    assert "Before you use the model commercially, read " in text
    assert "/home" not in text


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"source": "none", "license": ""},
        {"source": "wheel", "name": "a", "license": "Apache-2.0"},
        {"source": "file", "name": "a.pth", "license": ""},
        {"source": "hub", "name": "timm/a", "license": "mit"},
    ],
)
def test_nothing_is_said_without_conditions(weights: dict[str, str]) -> None:
    assert describe_conditions(weights, "Apache-2.0") == []


def test_each_license_of_several_weights_is_named_once() -> None:
    one = {"source": "hub", "name": "timm/a", "license": "cc-by-nc-4.0"}
    members = [one, {"source": "wheel", "name": "b", "license": "MIT"}, one | {"name": "timm/c", "license": "DINOv3"}]
    texts = describe_conditions({"source": "several", "license": "CC-BY-NC-4.0, MIT, DINOv3", "members": members})
    assert ["timm/a" in texts[0], "timm/c" in texts[1], len(texts)] == [True, True, 2]
