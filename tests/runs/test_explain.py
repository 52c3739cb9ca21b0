"""An explanation is saved as one picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

import regraft
from regraft.runs.run import Run


def test_the_picture_has_the_suffix_s_format_and_the_image_s_size(
    squares_run: Run, squares_folder: Path, tmp_path: Path
) -> None:
    good, bad = regraft.explain(squares_run, [squares_folder / "red" / name for name in ("00.png", "broken.png")])
    good.save(tmp_path / "gradcam.jpg")
    with Image.open(tmp_path / "gradcam.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (40, 40))
    with pytest.raises(regraft.UsageError, match="has no heat map"):
        bad.save(tmp_path / "bad.jpg")
    with pytest.raises(regraft.UsageError, match=r"'\.txt'; expected one of an image"):
        good.save(tmp_path / "gradcam.txt")
    assert [file.name for file in tmp_path.iterdir()] == ["gradcam.jpg"]
