"""The contract of every backbone in the registry, with random weights and small images."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from regraft.models.classifier import Classifier, build
from regraft.models.registry import BACKBONES, BackboneSpec
from regraft.models.serialization import load_classifier, save_classifier
from regraft.models.weights import WeightsRecord

CLASSES = ("ape", "bee", "cat")


@lru_cache(maxsize=1)  # the tests of one backbone run in sequence
def _built(name: str) -> Classifier:
    size = 56 if "patch14" in BACKBONES[name].timm_name else 64
    model = build(name, classes=CLASSES, weights="none", image_size=size)
    model.weights = WeightsRecord("file")  # a network with random weights would train from scratch
    return model


#: Backbones that differ from another one only in width, depth or weights; their registry entries are still checked.
SCALED = {
    "efficientnet_lite1", "efficientnet_lite2", "vit_b16", "convnextv2_tiny", "convnextv2_base", "dinov2_vitb14",
    "dinov2_vitb14_reg", "dinov3_vitb16", "dinov3_convnext_tiny", "siglip2_vitb16",
}  # fmt: skip
#: Backbones without a small member, which are built narrower here.
NARROW = {"siglip2_vitb32": {"embed_dim": 96, "num_heads": 2}}


@pytest.fixture(params=[name for name in BACKBONES if name not in SCALED], scope="module")
def model(request: pytest.FixtureRequest) -> Iterator[Classifier]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "regraft.models.weights.timm.create_model", partial(timm.create_model, **NARROW.get(request.param, {}))
        )
        yield _built(request.param)


@pytest.fixture
def pixels(model: Classifier) -> torch.Tensor:
    size, generator = model.preprocessing.size, torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("spec", BACKBONES.values(), ids=lambda spec: spec.name)
def test_figures_of_the_registry_are_true(spec: BackboneSpec) -> None:
    cfg = timm.models.get_pretrained_cfg(spec.timm_name)
    # The positions of DINOv2 are for 518 pixels; its own probes read images at 224.
    assert spec.image_size == (224 if "dinov2" in spec.name else cfg.input_size[-1])
    options = {"img_size": spec.image_size} if cfg.fixed_input_size else {}
    with torch.device("meta"):
        whole = timm.create_model(spec.timm_name, pretrained=False, num_classes=0, **options)
    if type(whole).__name__ == "VGG":
        whole.pre_logits = nn.Identity()
    whole.requires_grad_(False)  # the counter cannot follow a gradient to an expanded parameter
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        whole(torch.zeros(1, 3, spec.image_size, spec.image_size, device="meta"))
    assert spec.gmac == pytest.approx(counter.get_total_flops() / 2e9, abs=0.002)
    assert spec.parameters == sum(p.numel() for p in whole.parameters())


def test_every_parameter_is_in_one_stage(model: Classifier) -> None:
    in_stages = [id(p) for stage in model.stages for p in stage.parameters()]
    assert len(in_stages) == len(set(in_stages))
    assert set(in_stages) == {id(p) for p in model.backbone.parameters()}
    assert len(model.stages) >= 8
    assert len({stage.name for stage in model.stages}) == len(model.stages)


def test_prefix_and_tail_equal_the_model_at_every_boundary(model: Classifier, pixels: torch.Tensor) -> None:
    end = len(model.stages)
    with torch.inference_mode():
        expected = model(pixels)
        prefix = model.activations(pixels, 0)
        for boundary, stage in enumerate(model.stages):
            if boundary:
                assert tuple(prefix.values.shape[1:]) == model.stages[boundary - 1].shape
            assert prefix.taps.shape == (2, model.taps_below(boundary))
            actual = model.forward_from(prefix, boundary)
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5, msg=f"boundary at {stage.name}")
            prefix = model.run_stages(prefix, boundary, boundary + 1)
        for step, whole in zip(prefix, model.activations(pixels, end), strict=True):
            torch.testing.assert_close(step, whole, rtol=1e-5, atol=1e-5)


def test_the_stages_compute_timms_features(model: Classifier, pixels: torch.Tensor) -> None:
    normalized = (pixels.float() - model.mean) / model.std
    with torch.inference_mode():
        maps = model.backbone.forward_features(normalized)
        expected = (
            maps.mean((2, 3))
            if type(model.backbone).__name__ == "VGG"
            else model.backbone.forward_head(maps, pre_logits=True)
        )
        torch.testing.assert_close(model.activations(pixels, len(model.stages)).values, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wanted", ["all", "auto", "none"])
def test_only_trainable_parameters_get_a_gradient(model: Classifier, pixels: torch.Tensor, wanted: str) -> None:
    boundary = model.resolve(wanted)
    model.freeze(boundary)
    model.train()
    model.zero_grad(set_to_none=True)
    model.forward_from(model.activations(pixels, boundary), boundary).square().sum().backward()
    try:
        trainable = dict(model.trainable_parameters())
        assert trainable
        for name, parameter in model.named_parameters():
            if name in trainable:
                assert parameter.grad is not None, name
                assert torch.isfinite(parameter.grad).all(), name
            else:
                assert parameter.grad is None, name
        frozen = {id(p) for stage in model.stages[:boundary] for p in stage.parameters()}
        assert not frozen & {id(p) for p in trainable.values()}
        assert {id(p) for stage in model.stages[boundary:] for p in stage.parameters()} <= {
            id(p) for p in trainable.values()
        }
        for module in model.backbone.modules():
            assert not (isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training)
    finally:
        model.zero_grad(set_to_none=True)
        model.freeze(len(model.stages))
        model.eval()


def test_training_does_not_change_the_statistics(model: Classifier, pixels: torch.Tensor) -> None:
    before = {name: value.clone() for name, value in model.named_buffers()}
    model.freeze(0)
    model.train()
    model(pixels)
    model.freeze(len(model.stages))
    model.eval()
    for name, value in model.named_buffers():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_save_then_load_is_the_identity(model: Classifier, pixels: torch.Tensor, tmp_path: Path) -> None:
    save_classifier(model, tmp_path)
    again = load_classifier(tmp_path)
    with torch.inference_mode():
        assert torch.equal(again(pixels), model(pixels))
    assert again.get_config() == model.get_config()
    assert again.weights == model.weights


def _with_head(model: Classifier, **options: Any) -> Classifier:
    """Another head on the same backbone."""
    return Classifier(model.spec, model.backbone, CLASSES, model.preprocessing, **options)


def test_flattened_map_is_a_head_input_too(model: Classifier, pixels: torch.Tensor) -> None:
    flat = _with_head(model, pooling="flatten", widths=(8,))
    with torch.inference_mode():
        assert flat(pixels).shape == (2, 3)
    assert flat.head.features == int(torch.tensor(flat.stages[-2].shape).prod())


def test_a_head_reads_upper_stages_by_default(model: Classifier, pixels: torch.Tensor) -> None:
    # Of convnextv2_nano the last but two resolutions are in the lowest third, from which nothing is read.
    assert len(model.taps) >= (1 if model.spec.name == "convnextv2_nano" else 2)
    assert all(tap > len(model.stages) // 4 for tap in model.taps)
    assert model.head.features == model.stages[-1].shape[0] + model.taps_below(len(model.stages))
    with torch.inference_mode():
        features = model.forward_tail(model.activations(pixels, 0), 0)
        last, taps = features.split([model.stages[-1].shape[0], model.taps_below(len(model.stages))], dim=1)
        torch.testing.assert_close(last, model.activations(pixels, len(model.stages)).values)
        values, start = model.activations(pixels, 0).values, 0
        prefix = getattr(model.backbone, "num_prefix_tokens", 0)
        for index, stage in enumerate(model.stages):
            values = stage.forward(values)
            if index in model.taps:
                channels = values.flatten(2) if values.ndim == 4 else values.transpose(1, 2)
                patches = channels[:, :, prefix:].mean(2)
                if not prefix:
                    expected = [channels.mean(2), channels.amax(2)]
                elif index < len(model.stages) - 2:
                    expected = [channels[:, :, 0], patches]
                else:  # what the pooling has left out
                    expected = [patches if model.backbone.global_pool == "token" else channels[:, :, 0]]
                for part in expected:
                    end = start + part.shape[1]
                    torch.testing.assert_close(taps[:, start:end], part, rtol=1e-4, atol=1e-5)
                    start = end
        assert start == taps.shape[1]
    assert _with_head(model).head.features == model.stages[-1].shape[0]
