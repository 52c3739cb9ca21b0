from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from regraft.models.classifier import Classifier, build
from regraft.models.weights import WeightsRecord


@pytest.fixture
def with_statistics() -> Callable[..., Classifier]:
    """Build a model with random weights and random statistics of its norms, which counts as pretrained."""

    def made(name: str, size: int = 64) -> Classifier:
        model = build(name, classes=("a", "b"), image_size=size, weights="none")
        model.weights = WeightsRecord("file")
        generator = torch.Generator().manual_seed(0)
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                norm.running_mean.copy_(torch.randn(norm.running_mean.shape, generator=generator) / 10)
                norm.running_var.copy_(torch.rand(norm.running_var.shape, generator=generator) + 0.5)
        return model

    return made
