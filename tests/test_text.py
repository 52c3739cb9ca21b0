import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regraft.text import display_width, encodable, one_line, shorten


@pytest.mark.parametrize(
    ("text", "width"), [("", 0), ("cat", 3), ("日本", 4), ("e\u0301", 1), ("кошка", 5), ("한글", 4)]
)
def test_display_width_counts_columns(text: str, width: int) -> None:
    assert display_width(text) == width


@given(st.text(st.characters()))
def test_one_line_has_nothing_that_moves_the_cursor_and_can_be_encoded(text: str) -> None:
    shown = one_line(text)
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert shown.encode("utf-8").decode("utf-8") == shown


@given(st.text(), st.integers(1, 40))
def test_shorten_keeps_to_the_width(text: str, width: int) -> None:
    short = shorten(text, width)
    assert display_width(short) <= width
    assert short == text or "…" in short


def test_shorten_keeps_both_ends() -> None:
    assert shorten("species number 17", 10) == "specie…17"
    assert shorten("species", 7) == "species"


def test_encodable_escapes_what_stands_for_invalid_bytes() -> None:
    assert encodable("a\udcff日") == "a\\udcff日"
