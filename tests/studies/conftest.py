"""Images in groups and images of grades, which the studies share."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

GRADES = ("none", "mild", "severe")


@pytest.fixture(scope="session")
def lesions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 20 lesions of two kinds, red and blue, with one or two pictures each and the width of the lesion."""
    folder, rng = tmp_path_factory.mktemp("lesions"), np.random.default_rng(0)
    rows = [("path", "kind", "width", "lesion")]
    for number in range(20):
        kind, width = ("red", "blue")[number % 2], 8 + number
        for picture in range(1 + number % 3 // 2):
            pixels = rng.integers(60, 120, (32, 32, 3))
            pixels[2 : 2 + width, 2 : 2 + width] = (220, 40, 30) if kind == "red" else (30, 60, 220)
            name = f"{number:02d}_{picture}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
            rows.append((name, kind, str(width), f"lesion{number}"))
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "table.csv"


@pytest.fixture(scope="session")
def grades(write_squares: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of each grade, with a darker square the higher it is."""
    colors = {name: (230 - 90 * number,) * 3 for number, name in enumerate(GRADES)}
    return write_squares(tmp_path_factory.mktemp("ordinal") / "grades", colors)
