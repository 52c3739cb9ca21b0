"""The exported network gives the probabilities that the classifier gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from regraft.exporting.inference_module import InferenceModule
from regraft.models.classifier import build
from regraft.models.inference import predict_batch


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_probabilities_are_those_of_the_classifier(activation: Any) -> None:
    torch.manual_seed(0)
    model = build("cnn", classes=("a", "b", "c"), weights="none", image_size=32)
    model.eval()
    model.head.activation, model.head.temperature = activation, 1.7
    pixels = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    module = InferenceModule(model)
    expected = predict_batch(model, pixels.permute(0, 3, 1, 2))[0]
    assert np.abs(module(pixels).numpy() - expected).max() < 1e-6
    program = module.exported_program()
    assert module.exported_program() is program
    assert np.abs(program.module()(pixels).numpy() - expected).max() < 1e-6
    model.head.temperature = 1.0  # the module has a copy
    assert np.abs(module(pixels).numpy() - expected).max() < 1e-6
