"""Samples with made-up stats, for tests of the quality checks."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regraft.data.dataset import Dataset, Sample
from regraft.data.image_stats import ImageStats

TYPICAL = ImageStats(
    bytes=5000, width=200, height=150, format="JPEG", mode="RGB", orientation=1, frames=1, largest=0.0, brightness=0.5,
    contrast=0.2, sharpness=0.05,
)  # fmt: skip


def make_sample(
    path: str,
    label: str,
    content: str = "",
    *,
    part: Any = None,
    near_duplicates: str | None = None,
    **image_stats: Any,
) -> Sample:
    stats = dataclasses.replace(TYPICAL, **image_stats)
    digest = hashlib.sha256((content or path).encode()).hexdigest()
    return Sample(path, label, digest, part, None, (stats.width, stats.height), stats, near_duplicates)


@pytest.fixture(scope="session")
def sample() -> Callable[..., Sample]:
    """Makes a sample; keywords change its stats."""
    return make_sample


@pytest.fixture(scope="session")
def plain() -> Callable[..., list[Sample]]:
    """Makes a number of samples of one class."""

    def make(label: str, count: int, **more: Any) -> list[Sample]:
        return [make_sample(f"{label}/{i:03d}.jpg", label, **more) for i in range(count)]

    return make


@pytest.fixture(scope="session")
def dataset() -> Callable[..., Dataset]:
    """Makes a data set of samples."""

    def make(samples: list[Sample], **more: Any) -> Dataset:
        return Dataset(Path("data"), tuple(samples), tuple(sorted({s.label for s in samples})), **more)

    return make
