"""Pictures that are kept: the strangest and a random part, within their limits."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.serving.sample_folder import SampleFolder


def content(number: int, size: int = 0) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + number.to_bytes(4, "big") + b"\0" * size


def kept(folder: Path, kind: str) -> list[int]:
    return sorted(int.from_bytes(file.read_bytes()[8:12], "big") for file in (folder / kind).iterdir())


def test_the_strangest_stay(tmp_path: Path) -> None:
    samples = SampleFolder(tmp_path, count=10, limit_bytes=10**6)
    order = np.random.default_rng(0).permutation(200).tolist()
    for number in order:
        samples.consider("photos", content(number), number / 200)
    assert kept(tmp_path, "strange") == [0, 1, 2, 3, 4]
    assert len(kept(tmp_path, "random")) == 5
    names = [file.name for file in (tmp_path / "strange").iterdir()]
    assert all(name.startswith("photos-0.") and name.endswith(".png") for name in names)


def test_a_name_is_that_of_the_kept_file(tmp_path: Path) -> None:
    samples = SampleFolder(tmp_path, count=4, limit_bytes=10**6)
    names = samples.consider("photos", content(1), 0.5)
    assert [name.partition("/")[0] for name in names] == ["strange", "random"]
    assert {(tmp_path / name).read_bytes() for name in names} == {content(1)}
    samples = SampleFolder(tmp_path, count=1, limit_bytes=10**6)  # one random picture, no strange one
    assert kept(tmp_path, "strange") == []
    for number in range(50):
        samples.consider("photos", content(number), 0.1)
    assert len(kept(tmp_path, "random")) == 1


def test_every_picture_is_as_likely_to_stay_also_after_a_restart(tmp_path: Path) -> None:
    counts = np.zeros(40)
    for turn in range(30):
        folder = tmp_path / str(turn)
        for half in (range(20), range(20, 40)):
            samples = SampleFolder(folder, count=10, limit_bytes=10**6)
            for number in half:
                samples.consider("photos", content(number), None)
        counts[kept(folder, "random")] += 1
    assert counts.sum() == 30 * 5
    assert counts[:20].sum() == pytest.approx(75, abs=25)  # four standard deviations


def test_bytes_are_limited(tmp_path: Path) -> None:
    samples = SampleFolder(tmp_path, count=100, limit_bytes=20_000)
    for number in range(60):
        samples.consider("photos", content(number, 1500), number / 60)
        for kind in ("strange", "random"):
            assert sum(file.stat().st_size for file in (tmp_path / kind).iterdir()) <= 10_000
    assert kept(tmp_path, "strange") == [0, 1, 2, 3, 4, 5]
    assert samples.consider("photos", content(99, 20_000), 0.0) == []


def test_a_picture_is_kept_once_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "notes.txt").write_text("mine")
    samples = SampleFolder(tmp_path, count=6, limit_bytes=10**6)
    for _ in range(9):
        samples.consider("photos", content(7), 0.2)
    assert len(list((tmp_path / "strange").iterdir())) == 2
    assert (tmp_path / "strange" / "notes.txt").read_text() == "mine"


def test_the_suffix_is_that_of_the_content(tmp_path: Path) -> None:
    samples = SampleFolder(tmp_path, count=8, limit_bytes=10**6)
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "JPEG")
    for data, suffix in ((file.getvalue(), ".jpg"), (b"unknown", "")):
        name = samples.consider("photos", data, 0.1)[0]
        assert name.endswith(suffix)
        assert name.count(".") == 1 + bool(suffix)
