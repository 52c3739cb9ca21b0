"""A classifier of three patterns, whose position in the image is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from regraft.data.dataset import Dataset
from regraft.data.split import split
from regraft.models.classifier import Classifier, build
from regraft.runs.train import train

PATTERNS = ("across", "along", "dots")

Scene = Callable[..., torch.Tensor]


def _scene(top: int, left: int, pattern: str = "along", seed: int = 7) -> torch.Tensor:
    """A patch of black and white on a noisy ground, uint8 (3, 128, 128); blurred, all patterns have the same gray."""
    image = np.random.default_rng(seed).integers(100, 156, (128, 128, 1)).repeat(3, axis=2)
    down, right = np.indices((40, 40)) // 4 % 2
    image[top : top + 40, left : left + 40] = 255 * {
        "across": down, "along": right, "dots": down & right,
    }[pattern][..., None]  # fmt: skip
    return torch.from_numpy(image.astype(np.uint8)).permute(2, 0, 1)


@pytest.fixture(scope="session")
def scene() -> Scene:
    """Draws an image with a pattern at a position."""
    return _scene


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """A head for the three patterns on pretrained features."""
    rng = np.random.default_rng(0)
    labels = [pattern for pattern in PATTERNS for _ in range(20)]
    images = [_scene(*rng.integers(0, 88, 2).tolist(), label, seed).permute(1, 2, 0).numpy()
              for seed, label in enumerate(labels)]  # fmt: skip
    model = build(classes=PATTERNS, image_size=128)
    parts = split(Dataset.from_arrays(images, labels), train=0.6, val=0.2, test=0.2)
    run = train(model, parts, out=tmp_path_factory.mktemp("patterns") / "run", finetune_epochs=0)
    assert run.evaluate().accuracy == 1
    return model
