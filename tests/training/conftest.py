"""A model and options with which a training takes about a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from regraft.data.dataset import Split
from regraft.models.classifier import Classifier, build


@pytest.fixture
def make_model(squares_split: Split) -> Callable[..., Classifier]:
    """Build a model for the classes of the squares, always with the same initial weights."""

    def make(**options: Any) -> Classifier:
        return build(**{"classes": squares_split.classes, "image_size": 32, **options})

    return make


@pytest.fixture(scope="session")
def fast() -> dict[str, Any]:
    """Options of a short fine-tuning."""
    return {"finetune_epochs": 2, "views": 2, "batch_size": 8}
