import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from regraft.report.style import drawable, save


@given(st.text(st.characters(), max_size=20))
def test_any_text_draws_without_a_warning(text: str) -> None:
    figure = Figure(figsize=(2, 1), dpi=40)
    figure.text(0, 0, drawable(text), parse_math=False)
    figure.canvas.draw()


def test_what_no_font_has_becomes_a_box() -> None:
    assert drawable("a\U00100000b") == "a□b"
    assert drawable("a\nb\tc") == "a b c"
    assert drawable("кошка ✓ ✗ → …") == "кошка ✓ ✗ → …"


@pytest.mark.parametrize("text", ["$x^2$", r"\$", r"$\frac{1}{$", "$$", "100 % _a_ {b}"])
def test_a_dollar_starts_no_formula(tmp_path: Path, text: str) -> None:
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


def test_pictures_need_neither_pyplot_nor_torch() -> None:
    code = (
        "import sys, regraft.report.history, regraft.report.confusion, regraft.report.samples, "
        "regraft.evaluation.metrics as m; "
        "print([n for n in ('matplotlib.pyplot', 'torch', 'timm') if n in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
