"""The site builds without a warning, needs nothing from elsewhere and shows what the code is today."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from regraft.cli import app

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr  # a dead link, a lost anchor or a page that no menu names is a warning
    return folder


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        fetched = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"(https?:[^\"]+)", page.read_text())
        fetched += re.findall(
            r"<link\b[^>]*rel=\"(?:stylesheet|preconnect|icon)\"[^>]*href=\"(https?:[^\"]+)", page.read_text()
        )
        assert not fetched, (page, fetched)


def test_every_command_setting_and_name_is_there(site: Path) -> None:
    import regraft

    commands = (site / "reference" / "commands.html").read_text()
    for verb, command in get_command(app).commands.items():  # type: ignore[attr-defined]  # a group
        assert f"regraft {verb}</code>" in commands
        for option in command.params:
            assert option.param_type_name == "argument" or option.opts[0] in commands, (verb, option.name)
    settings = (site / "reference" / "settings.html").read_text()
    assert "finetune_epochs" in settings
    python = (site / "reference" / "python.html").read_text()
    for name in regraft.__all__:
        assert name == "__version__" or re.search(rf"id=\"regraft\.[\w.]*{name}\"", python), name


def test_every_picture_says_what_it_shows() -> None:
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        for words in re.findall(r"!\[(.*?)\]\(", page.read_text(encoding="utf-8")):
            assert len(words) > 10, (page, words)


def test_no_picture_is_left_over() -> None:
    text = "".join(
        p.read_text(encoding="utf-8") for p in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "mkdocs.yml")
    )
    for picture in (ROOT / "docs" / "images").rglob("*.*"):
        assert picture.name in text, picture
