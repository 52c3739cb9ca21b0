from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.markup import escape
from rich.table import Table
from terminal import regraft as command

from regraft.terminal import PrintableConsole, printable

#: Clears the screen, sets the title, sets the clipboard, and shows the rest of a line from right to left.
COMMANDS = ["\x1b[2J", "\x1b]0;owned\x1b\\", "\x1b]52;c;ZWNobw==\x07", "\x9b2J", "\u202egnp.exe", "a\rb", "\x08\x08"]


@pytest.mark.parametrize("text", COMMANDS)
@pytest.mark.parametrize("place", ["line", "table"])
def test_a_console_obeys_no_text(text, place):
    out = io.StringIO()
    console = PrintableConsole(file=out, width=200, force_terminal=False, soft_wrap=True)
    if place == "line":
        console.print(f"[bold]Error[/bold] {escape(text)}")
    else:
        table = Table("file")
        table.add_row(escape(text))
        console.print(table)
    assert set(out.getvalue()).isdisjoint({"\x1b", "\x07", "\x9b", "\u202e", "\r", "\x08"})
    assert printable(text) in out.getvalue()


@given(st.text())
def test_what_is_printable_stays(text):
    shown = printable(text)
    assert printable(shown) == shown
    assert shown == text or len(shown) > len(text)


def test_the_name_of_an_unreadable_file_does_not_command_the_terminal(tmp_path: Path, squares_folder: Path):
    """`regraft inspect` names the file, which is not an image."""
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number, file in enumerate(sorted((squares_folder / "blue").iterdir())[:3]):
            (tmp_path / "data" / name / f"{name}{number}.png").write_bytes(file.read_bytes() + name.encode())
    (tmp_path / "data/a/\x1b[2Jevil.png").write_bytes(b"not an image")
    done = command("inspect", tmp_path / "data", "--out", tmp_path / "page.html")
    assert "evil.png" in done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr
