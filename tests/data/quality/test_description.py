"""What the files of a data set are, beside a count by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from regraft.data.dataset import Dataset
from regraft.data.quality.description import describe_files
from regraft.data.scan import scan


def test_formats_sizes_and_copies_are_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i, (width, kind) in enumerate([(20, "png"), (30, "png"), (50, "jpg")]):
            pixels = rng.integers(0, 256, (40 + i, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.{kind}")
    shutil.copy(tmp_path / "a/0.png", tmp_path / "a/copy.png")
    dataset = scan(tmp_path, group_by=r"(\d)\.png")
    files = describe_files(dataset)
    assert json.loads(json.dumps(files)) == files
    size = sum(file.stat().st_size for file in tmp_path.glob("*/*"))
    assert files == {
        "images": 7, "bytes": size, "formats": {"PNG": 5, "JPEG": 2}, "modes": {"RGB": 7}, "width": [20, 30, 50],
        "height": [40, 41, 42], "contents": 6, "pictures": 6, "groups": 2, "in_groups": 4,
    }  # fmt: skip


def test_images_in_memory_have_sizes_and_no_formats() -> None:
    files = describe_files(Dataset.from_arrays([np.zeros((8, 9, 3), np.uint8)] * 2, ["a", "b"], groups=["x", "x"]))
    assert (files["formats"], files["bytes"]) == ({}, 0)
    assert (files["width"], files["height"]) == ([9, 9, 9], [8, 8, 8])
    assert (files["images"], files["contents"], files["groups"], files["in_groups"]) == (2, 1, 1, 2)
