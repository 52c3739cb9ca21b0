"""Real solar cells with planted faults."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from regraft.runs.demo import demo_images


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """62 solar cells, among them a copy, a smaller copy and a truncated file."""
    root = tmp_path / "cells"
    chosen: Counter[str] = Counter()
    for line in (demo_images() / "labels.csv").read_text().splitlines()[::3]:
        name, probability, _ = line.split()
        label = {0.0: "functional", 1.0: "defective"}.get(float(probability))
        if label and chosen[label] < 30:
            chosen[label] += 1
            (root / label).mkdir(parents=True, exist_ok=True)
            (root / label / Path(name).name).write_bytes((demo_images() / name).read_bytes())
    first, second = sorted((root / "defective").iterdir())[:2]
    (root / "defective" / "copy.png").write_bytes(first.read_bytes())
    Image.open(second).resize((150, 150)).save(root / "defective" / "small.png")
    (root / "functional" / "broken.png").write_bytes(first.read_bytes()[:2000])
    return root


@pytest.fixture
def mislabeled(squares_folder: Path, tmp_path: Path) -> Path:
    """36 squares of three colors, of which two red ones are labeled green."""
    root = tmp_path / "mislabeled"
    shutil.copytree(squares_folder, root)
    for name in ("00.png", "01.png"):
        (root / "red" / name).rename(root / "green" / f"red-{name}")
    return root
