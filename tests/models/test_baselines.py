"""The plain networks follow the contract of a backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from regraft.errors import WeightsError
from regraft.models.classifier import Classifier, build
from regraft.models.registry import BASELINES
from regraft.models.serialization import load_classifier, save_classifier


@pytest.fixture(params=list(BASELINES), scope="module")
def model(request: pytest.FixtureRequest) -> Classifier:
    return build(request.param, classes=("ape", "bee"))


def test_figures_of_the_registry_are_true(model: Classifier) -> None:
    spec = model.spec
    whole = timm.create_model(spec.timm_name).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        whole(torch.zeros(1, 3, spec.image_size, spec.image_size, device="meta"))
    assert model.preprocessing.size == spec.image_size
    assert spec.gmac == pytest.approx(counter.get_total_flops() / 2e9, abs=0.002)
    assert spec.parameters == sum(p.numel() for p in whole.parameters())


def test_every_parameter_trains_by_default(model: Classifier) -> None:
    assert model.resolve("auto") == 0
    assert model.weights.source == "none"
    in_stages = {id(p) for stage in model.stages for p in stage.parameters()}
    assert in_stages == {id(p) for p in model.backbone.parameters()}


def test_prefix_and_tail_equal_the_model_at_every_boundary(model: Classifier) -> None:
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        whole = model(pixels)
        for boundary in range(len(model.stages) + 1):
            torch.testing.assert_close(model.forward_from(model.activations(pixels, boundary), boundary), whole)


def test_save_then_load_is_the_identity(model: Classifier, tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    save_classifier(model, tmp_path)
    with torch.inference_mode():
        assert torch.equal(load_classifier(tmp_path)(pixels), model(pixels))


def test_the_dense_network_has_the_size_of_the_images() -> None:
    assert build("ann", classes=("ape", "bee"), image_size=32).backbone.dense1.in_features == 3 * 32 * 32


def test_they_have_no_pretrained_weights() -> None:
    with pytest.raises(WeightsError, match="no pretrained weights"):
        build("cnn", classes=("ape", "bee"), weights="hub")
