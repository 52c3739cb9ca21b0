"""What is said of the images of a training before it begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import regraft
from regraft.runs.scan_and_split import describe


def test_files_that_are_left_out_are_named_with_their_reasons(
    write_squares: Callable[..., Path], tmp_path: Path
) -> None:
    root = write_squares(tmp_path / "squares", {"dark": (0, 0, 0), "light": (255, 255, 255)})
    for number in range(7):
        (root / "dark" / f"empty{number}.png").touch()
    said = describe(regraft.split(regraft.scan(root)))
    assert "7 cannot be read and are left out: dark/empty0.png (empty file); and 6 more for the same reason in" in said
    (root / "light" / "letter.png").write_text("dear")
    said = describe(regraft.split(regraft.scan(root)))
    assert "dark/empty4.png (empty file); and 3 more in metrics.json." in said
