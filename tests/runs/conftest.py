"""Images for runs that start from other runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def yellow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one class that no run knows, whose images have the names of others."""
    folder = tmp_path_factory.mktemp("new") / "more"
    (folder / "yellow").mkdir(parents=True)
    rng = np.random.default_rng(5)
    for i in range(8):
        pixels = rng.integers(90, 160, (40, 40, 3), dtype=np.uint8)
        pixels[5:25, 5:25] = (230, 220, 30)
        Image.fromarray(pixels).save(folder / "yellow" / f"{i:02d}.png")
    return folder
