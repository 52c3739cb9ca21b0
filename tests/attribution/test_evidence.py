"""Grad-CAM from evidence alone equals Grad-CAM by gradients, or is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from regraft.attribution.cam import explain_pixels
from regraft.attribution.evidence import Evidence, evidence_weights, gradcam_from_evidence
from regraft.errors import UsageError
from regraft.exporting.inference_module import InferenceModule
from regraft.models.classifier import Classifier, build


def _model(backbone: str = "test_efficientnet", classes: int = 3, **options: Any) -> Classifier:
    names = [f"class {i}" for i in range(classes)]
    model = build(backbone, classes=names, weights="none", image_size=64, seed=1, **options)
    with torch.no_grad():
        model.head.classifier.weight.mul_(20)  # so that the shares of the other classes differ
    return model


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("test_efficientnet", {}),  # the head reads lower stages too
        ("test_efficientnet", {"pooling": "max"}),
        ("test_efficientnet", {"pooling": "flatten"}),
        ("test_efficientnet", {"activation": "sigmoid"}),
        ("test_efficientnet", {"classes": 20}),
        ("cnn", {}),
    ],
)
def test_equals_gradcam_by_gradients(backbone: str, options: dict[str, Any]) -> None:
    activation = options.pop("activation", "softmax")
    model = _model(backbone, **options)
    model.head.activation = activation
    pixels = torch.randint(0, 256, (4, 64, 64, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    module = InferenceModule(model, with_maps=True)
    assert module.stage is not None
    with torch.inference_mode():
        probabilities, logits, maps = (output.numpy() for output in module(pixels))
        plain = InferenceModule(model)(pixels).numpy()
    np.testing.assert_array_equal(probabilities, plain)
    evidence = Evidence(probabilities, logits, maps)
    largest = []
    for target in range(3):
        targets = torch.full((4,), target)
        expected = explain_pixels(
            model, pixels.permute(0, 3, 1, 2), targets, method="gradcam", stage=module.stage
        ).numpy()
        heat = gradcam_from_evidence(
            evidence, targets.numpy(), activation=model.head.activation, shape=(64, 64)
        ).numpy()
        np.testing.assert_allclose(heat, expected, atol=2e-3)
        largest.append(expected.max())
    assert max(largest) == 1


def test_average_pooling_adds_the_mean_evidence_to_the_logit() -> None:
    model = _model(head_stages="last")
    with torch.no_grad():
        model.head.classifier.bias.zero_()
        pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
        _, logits, maps = InferenceModule(model, with_maps=True)(pixels)
    torch.testing.assert_close(maps.mean(dim=(2, 3)), logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("backbone", "options", "reason"),
    [
        ("test_efficientnet", {"head": "mlp"}, "no linear function"),
        ("test_convnext", {}, "no linear function"),  # a norm follows its pooling
        ("ann", {}, "no stage with spatial axes"),
    ],
)
def test_what_needs_gradients_is_refused(backbone: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        evidence_weights(_model(backbone, **options))
