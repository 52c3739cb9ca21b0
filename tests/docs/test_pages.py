"""The code on the pages of the site runs, and the runner reports failures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from pages import DOCS, PageError, pages, run_page, steps
from terminal import regraft, run_python

from regraft.models.registry import BACKBONES
from regraft.runs import backbone_search, subprocess_train
from regraft.runs.run import Run
from regraft.studies.compare import compare

PAGES = [page for page in pages() if page.name != "projects.md"]  # test_projects.py runs it


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_what_a_page_says_can_be_done(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else a cluster's processes wait for the tests beside them
    # Comparing runs starts a process for each, to time its predictions; tests/studies/compare does so.
    monkeypatch.setattr(compare, "time_in_subprocess", lambda run, reporter: subprocess_train.measure_timing(Run(run)))

    monkeypatch.setattr(subprocess_train, "_MIN_SECONDS", 0.1)
    # `auto` has two backbones to choose from, and not every one that is installed.
    here = {name: (BACKBONES[name], "wheel") for name in ("efficientnet_lite0", "mobilenetv2")}
    monkeypatch.setattr(backbone_search, "local_backbones", lambda: here)

    def typed(words: Sequence[str], place: Path) -> tuple[int, str, str]:
        done = run_python(words[1], cwd=place) if words[0] == "python" else regraft(*words[1:], cwd=place)
        return done.returncode, done.stdout, done.stderr

    run_page(page, quick=True, regraft=typed)


def test_every_tutorial_is_tried() -> None:
    assert set((DOCS / "tutorials").glob("*.md")) <= {*PAGES, DOCS / "tutorials" / "index.md"}


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("```sh\nregraft train missing\n```\n", "exited with"),
        ("```python\nassert False\n```\n", "AssertionError"),
        ("```sh\npip install '.[nothing]'\n```\n", "extra 'nothing' does not exist"),
        ("```sh\ntrue\n```\n<!-- output -->\n```text\n```\n", "printed nothing"),
        ('```sh\necho one\n```\n<!-- output: 1 from "two" -->\n```text\n```\n', "no line of the output contains 'two'"),
        ("<!-- picture: runs/a.png -->\n![a](a.png)\n", "runs/a.png does not exist"),
        ("<!-- picture: runs/a.png -->\nwords\n", "no matching block follows 'picture'"),
        ("<!-- with: one -> two -->\n```sh\necho three\n```\n", "'one' to replace is not in the block"),
        ("<!-- not run -->\n```sh\nfalse\n```\n", "reason why it is not run is missing"),
        ("```sh\ntrue\n", "does not end"),
    ],
)
def test_errors_in_a_page_are_reported(page: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("<!-- run: images 0 -->\n" + page)
    with pytest.raises(PageError, match=words):
        run_page(file)


def test_outputs_are_written_into_the_page(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(
        "<!-- run: images 0 -->\n<!-- before: echo three > file -->\n```sh\ncat file  # a comment\necho four\n```\n\n"
        "<!-- output: last 1 -->\n```text\nold\nlines\n```\n\nmore\n\n"
        "<!-- save: say.py -->\n```python\nprint(5)\n```\n\n"
        "<!-- with: 6 -> 5 -->\n```sh\npython say.py 6\n```\n\n<!-- output -->\n```text\n```\n"
    )
    run_page(file, write=True)
    assert file.read_text().count("```text\nfour\n```\n\nmore\n") == 1
    assert file.read_text().endswith("```text\n5\n```\n")
    assert "python say.py 6" in file.read_text()


def test_what_is_not_run_is_no_step() -> None:
    assert steps("<!-- not run: needs a hub -->\n```sh\nfalse\n```\n\n```text\nwords\n```\n") == []
