from __future__ import annotations

import pytest
import timm

from regraft.models.classifier import build
from regraft.models.keras.applications import APPLICATIONS
from regraft.models.registry import BACKBONES, KERAS_BACKBONES, keras_backbone


@pytest.mark.parametrize("name", list(APPLICATIONS))
def test_the_layers_are_all_the_weights_of_the_network(name: str) -> None:
    model = timm.create_model(name, num_classes=0)
    paths = [path for _, path in APPLICATIONS[name].layers]
    owners = {key.rpartition(".")[0] for key, _ in model.named_parameters() if not key.startswith("pre_logits")}
    assert sorted(paths) == sorted(owners)
    assert len({layer for layer, _ in APPLICATIONS[name].layers}) == len(paths)


@pytest.mark.parametrize("name", list(KERAS_BACKBONES))
def test_figures_are_those_of_the_network(name: str) -> None:
    spec = KERAS_BACKBONES[name]
    model = build(name, classes=["a", "b"], weights="none", image_size=32, head_stages="last")
    assert sum(p.numel() for p in model.backbone.parameters()) == spec.parameters
    assert len(model.stages) > 5  # it can be frozen at any of them


def test_backbones_with_a_form_in_keras() -> None:
    found = {name: keras.name for name, spec in BACKBONES.items() if (keras := keras_backbone(spec))}
    assert found == {name.removeprefix("keras_"): name for name in KERAS_BACKBONES}
    assert all(keras_backbone(spec) is spec for spec in KERAS_BACKBONES.values())
