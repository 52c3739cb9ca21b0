"""Files that are not used are counted by extension, with what to do about them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from regraft.data.ignored import describe_ignored


def describe(folder: Path, *names: str) -> list[str]:
    return describe_ignored([str(folder / name) for name in names], Path)


def test_a_line_for_each_extension_the_most_frequent_first(tmp_path: Path) -> None:
    lines = describe(tmp_path, "1.nii", "2.NII", "a.psd", "clip.mp4", "d.npz", "e.cr2", "f.txt", "g.zip")
    assert lines[0] == f".nii: 2 files ignored, such as {tmp_path}/1.nii. Export medical images as PNG."
    assert [line.partition(":")[0] for line in lines] == [
        ".nii", ".cr2", ".mp4", ".npz", ".psd", ".txt", ".zip",
    ]  # fmt: skip


def test_what_an_unknown_file_is(images: Callable[..., Path]) -> None:
    root = images("a.jpeg_large", "b")
    (root / "c.odd").write_bytes(b"\x80")
    (root / "d.page").write_bytes(b"<html>")
    os.mkfifo(root / "e.pipe")
    assert describe(root, "a.jpeg_large", "b", "c.odd", "d.page", "e.pipe", "f.gone") == [
        f"No extension: 1 file ignored, such as {root}/b, which is a PNG image. Rename such files with the extension "
        "of their format.",
        f".gone: 1 file ignored, such as {root}/f.gone.",
        f".jpeg_large: 1 file ignored, such as {root}/a.jpeg_large, which is a PNG image. Rename such files with the "
        "extension of their format.",
        f".odd: 1 file ignored, such as {root}/c.odd.",
        f".page: 1 file ignored, such as {root}/d.page, which is an HTML page, as after a failed download.",
        f".pipe: 1 file ignored, such as {root}/e.pipe.",
    ]


def test_hidden_files_and_images_apart(tmp_path: Path) -> None:
    assert describe(tmp_path, "._x.jpg", ".DS_Store", "Thumbs.db", "a.jpg", "b.HEIC") == [
        f"Hidden and system files: 3 files ignored, such as {tmp_path}/._x.jpg."
    ]
    assert describe(tmp_path) == []


def test_a_split_of_ours_is_no_ignored_file(tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_text("path,label,part,sha256,source\na.jpg,cat,train,0,b.jpg\n")
    assert describe(tmp_path, "split.csv") == []
    (tmp_path / "split.csv").write_text("file,part\n")
    assert describe(tmp_path, "split.csv") == [f".csv: 1 file ignored, such as {tmp_path}/split.csv."]


@pytest.mark.parametrize("name", ["scan.{:03}", "x.{}-{}", "y.a very long ending {}"])
def test_numbers_and_prose_are_no_extensions(tmp_path: Path, name: str) -> None:
    lines = describe(tmp_path, *(name.format(i, i) for i in range(20)))
    assert [line.partition(",")[0] for line in lines] == ["No extension: 20 files ignored"]


def test_ten_lines_at_most(tmp_path: Path) -> None:
    lines = describe(tmp_path, *(f"{i}.x{i:02}" for i in range(30)))
    assert len(lines) == 11
    assert lines[-1].startswith("20 more extensions: 20 files ignored, such as ")
