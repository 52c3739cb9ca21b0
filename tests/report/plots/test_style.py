import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from regraft.report.plots.style import drawable, save


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
