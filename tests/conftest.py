"""What tests of several steps share: small sets of real-looking images that a classifier can learn in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from regraft.data.dataset import Dataset
from regraft.data.dataset import Split as SplitValue
from regraft.data.split import split

COLOURS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 40, 30)}


def picture(label: str, rng: np.random.Generator, size: int = 40) -> np.ndarray:
    """A noisy square of the class's colour somewhere on a noisy ground."""
    image = rng.integers(90, 160, (size, size, 3))
    side = int(rng.integers(size // 3, size // 2))
    top, left = rng.integers(0, size - side, 2)
    image[top : top + side, left : left + side] = np.array(COLOURS[label]) + rng.integers(-30, 30, (side, side, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests for a GPU run where there is one."""
    if torch.cuda.is_available():
        return
    left_out = [item for item in items if item.get_closest_marker("gpu")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests share a store of their own and leave the user's alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGRAFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def squares() -> Dataset:
    """Sixteen images of each of three colours, in memory."""
    rng = np.random.default_rng(0)
    labels = [label for label in COLOURS for _ in range(16)]
    return Dataset.from_arrays([picture(label, rng) for label in labels], labels)


@pytest.fixture(scope="session")
def squares_split(squares: Dataset) -> SplitValue:
    """The same, split."""
    return split(squares, train=0.5, val=0.25, test=0.25)


@pytest.fixture(scope="session")
def squares_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve PNG files a class, and one file that is no image."""
    root = tmp_path_factory.mktemp("data") / "squares"
    rng = np.random.default_rng(1)
    for label in COLOURS:
        (root / label).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(picture(label, rng)).save(root / label / f"{i:02d}.png")
    (root / "red" / "broken.png").write_bytes(b"not an image at all")
    return root
