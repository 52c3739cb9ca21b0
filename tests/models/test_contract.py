"""The contract that every backbone of the registry keeps, with random weights and small images."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from regraft.models.checkpoint import load_classifier, save_classifier
from regraft.models.classifier import Classifier, build
from regraft.models.registry import BACKBONES

SIZE = 64
CLASSES = ("ape", "bee", "cat")


@lru_cache(maxsize=1)  # the tests of one backbone follow one another
def _built(name: str) -> Classifier:
    return build(name, classes=CLASSES, weights="none", image_size=SIZE)


@pytest.fixture(params=list(BACKBONES), scope="module")
def model(request: pytest.FixtureRequest) -> Classifier:
    return _built(request.param)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_figures_of_the_registry_are_true(model: Classifier) -> None:
    spec = model.spec
    whole = timm.create_model(spec.timm_name, pretrained=False, num_classes=0).to("meta")
    if type(whole).__name__ == "VGG":
        whole.pre_logits = nn.Identity()
    size = timm.models.get_pretrained_cfg(spec.timm_name).input_size[-1]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        whole(torch.zeros(1, 3, size, size, device="meta"))
    assert spec.image_size == size
    assert spec.gmac == pytest.approx(counter.get_total_flops() / 2e9, abs=0.002)
    assert spec.parameters == sum(p.numel() for p in whole.parameters())


def test_stages_hold_every_parameter_once(model: Classifier) -> None:
    in_stages = [id(p) for stage in model.stages for p in stage.parameters()]
    assert len(in_stages) == len(set(in_stages))
    assert set(in_stages) == {id(p) for p in model.backbone.parameters()}
    assert len(model.stages) >= 8
    assert len({stage.name for stage in model.stages}) == len(model.stages)


def test_prefix_then_tail_is_the_whole_at_every_cut(model: Classifier, pixels: torch.Tensor) -> None:
    with torch.inference_mode():
        whole = model(pixels)
        for boundary, stage in enumerate(model.stages):
            cached = model.activations(pixels, boundary)
            if boundary:
                assert tuple(cached.values.shape[1:]) == model.stages[boundary - 1].shape
            assert cached.taps.shape == (2, model.taps_below(boundary))
            torch.testing.assert_close(
                model.logits_from(cached, boundary),
                whole,
                rtol=1e-5,
                atol=1e-5,
                msg=f"cut before {stage.name}",
            )


def test_backbone_is_timms(model: Classifier, pixels: torch.Tensor) -> None:
    """The stages give what timm's own forward gives."""
    normalised = (pixels.float() - model.mean) / model.std
    with torch.inference_mode():
        maps = model.backbone.forward_features(normalised)
        expected = (
            maps.mean((2, 3))
            if type(model.backbone).__name__ == "VGG"
            else model.backbone.forward_head(maps, pre_logits=True)
        )
        torch.testing.assert_close(model.activations(pixels, len(model.stages)).values, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wanted", ["all", "auto", "none"])
def test_what_trains_gets_a_gradient_and_the_rest_none(model: Classifier, pixels: torch.Tensor, wanted: str) -> None:
    boundary = model.resolve(wanted)
    model.freeze(boundary)
    model.train()
    model.zero_grad(set_to_none=True)
    model.logits_from(model.activations(pixels, boundary), boundary).square().sum().backward()
    try:
        trainable = dict(model.trainable())
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


def test_training_leaves_the_statistics_alone(model: Classifier, pixels: torch.Tensor) -> None:
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
    assert again.description() == model.description()
    assert again.weights == model.weights


def test_flattened_map_is_a_head_input_too(model: Classifier, pixels: torch.Tensor) -> None:
    flat = build(
        model.spec.name,
        classes=CLASSES,
        weights="none",
        image_size=SIZE,
        pooling="flatten",
        head="mlp",
        head_widths=(8,),
    )
    with torch.inference_mode():
        assert flat(pixels).shape == (2, 3)
    assert flat.head.features == int(torch.tensor(flat.stages[-2].shape).prod())


def test_a_head_reads_upper_stages_by_default(model: Classifier, pixels: torch.Tensor) -> None:
    assert len(model.taps) >= 2
    assert all(tap > len(model.stages) // 4 for tap in model.taps)
    assert model.head.features == model.stages[-1].shape[0] + model.taps_below(len(model.stages))
    with torch.inference_mode():
        features = model.features_from(model.activations(pixels, 0), 0)
        last, taps = features.split([model.stages[-1].shape[0], model.taps_below(len(model.stages))], dim=1)
        torch.testing.assert_close(last, model.activations(pixels, len(model.stages)).values)
        values, place = model.activations(pixels, 0).values, 0
        for index, stage in enumerate(model.stages):
            values = stage.forward(values)
            if index in model.taps:
                channels = values.flatten(2) if values.ndim == 4 else values.transpose(1, 2)
                width = channels.shape[1]
                torch.testing.assert_close(taps[:, place : place + width], channels.mean(2), rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(taps[:, place + width : place + 2 * width], channels.amax(2))
                place += 2 * width
    last_only = build(model.spec.name, classes=CLASSES, weights="none", image_size=SIZE, head_stages="last")
    assert last_only.head.features == model.stages[-1].shape[0]
