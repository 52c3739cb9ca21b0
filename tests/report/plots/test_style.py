import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from regraft.report.plots.style import DPI, drawable, prepare, save


@given(st.text(st.characters(), max_size=20))
def test_any_text_draws_without_a_warning(text: str) -> None:
    figure = Figure(figsize=(2, 1), dpi=40)
    figure.text(0, 0, drawable(text), parse_math=False)
    figure.canvas.draw()


def test_a_character_without_a_glyph_becomes_a_box() -> None:
    assert drawable("a\U00100000b") == "a□b"
    assert drawable("a\nb\tc") == "a b c"
    assert drawable("кошка ✓ ✗ → …") == "кошка ✓ ✗ → …"


@pytest.mark.parametrize("text", ["$x^2$", r"\$", r"$\frac{1}{$", "$$", "100 % _a_ {b}"])
def test_text_is_never_a_formula(tmp_path: Path, text: str) -> None:
    figure = Figure(figsize=(2, 1))
    shown = figure.text(0, 0, text)
    save(figure, tmp_path / "picture.png")
    assert not shown.get_parse_math()


@pytest.mark.parametrize("aspect", ["equal", "auto"])
def test_a_tight_picture_is_that_of_matplotlib(tmp_path: Path, aspect: Literal["equal", "auto"]) -> None:
    def figure() -> Figure:
        drawn = Figure(figsize=(4, 2))
        left, right = drawn.subplots(1, 2)
        left.imshow(np.arange(12).reshape(3, 4), aspect=aspect)
        left.set_xticks(range(4), ["a long name of a class"] * 4, rotation=60, ha="right")
        left.set_title("A title that is wider than its axes", loc="left")
        right.plot([1, 30_000], [2, 4])
        right.set_ylabel("images")
        right.annotate("beside", (1, 1), xycoords="axes fraction", xytext=(20, 9), textcoords="offset points")
        return drawn

    expected = figure()
    prepare(expected)
    expected.savefig(tmp_path / "theirs.png", dpi=DPI, facecolor="white", bbox_inches="tight", pad_inches=0.3)
    save(figure(), tmp_path / "ours.png", tight=True)
    theirs, ours = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("theirs", "ours"))
    assert np.array_equal(theirs, ours)


def test_a_failed_save_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")
    figure = Figure()

    def fail(*args: object, **options: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        save(figure, path)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("picture.png", b"old")]


def test_charts_need_neither_pyplot_nor_torch() -> None:
    code = (
        "import sys, regraft.report.plots.training_curve, regraft.report.plots.confusion, "
        "regraft.report.plots.samples, regraft.report.run_page, "
        "regraft.evaluation.metrics as m; "
        "print([n for n in ('matplotlib.pyplot', 'torch', 'timm') if n in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
