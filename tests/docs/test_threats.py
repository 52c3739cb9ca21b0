"""Every threat on the page is held by tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/threats.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/.]+\.py)::(\w+)`", PAGE)


def test_every_test_that_the_page_names_exists() -> None:
    lost = [
        f"{file}::{name}"
        for file, name in NAMED
        if not (ROOT / file).is_file() or not re.search(rf"^def {name}\(", (ROOT / file).read_text("utf-8"), re.M)
    ]
    assert not lost
    assert len(NAMED) > 50


def test_every_row_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| threat |")]
    assert len(rows) > 50
    assert [row for row in rows if "`tests/" not in row.rsplit(" | ", 1)[-1]] == []


def test_every_surface_has_a_table() -> None:
    surfaces = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    assert [text.partition("\n")[0] for text in surfaces if "| threat | what holds | test |" not in text] == []
