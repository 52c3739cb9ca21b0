"""`regraft report`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from terminal import regraft


@pytest.mark.parametrize(
    ("name", "file"), [("model-card", "MODEL_CARD.md"), ("datasheet", "DATASHEET.md"), ("annex-iv", "ANNEX_IV.md")]
)
def test_a_document_is_written_and_its_places_are_counted(name: str, file: str, run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    done = regraft("report", copy, "--template", name)
    assert done.returncode == 0, done.stderr
    text = (copy / file).read_text(encoding="utf-8")
    places = text.count("**To be written by a person:**")
    assert places > 5
    assert done.stdout.split() == [str(copy / file), *f"{places} places are for you to fill.".split()]
    done = regraft("report", copy, "--template", name, "--out", tmp_path / "new" / "own.md", "--json")
    assert json.loads(done.stdout) == {name.replace("-", "_"): str(tmp_path / "new" / "own.md"), "places": places}
    assert (tmp_path / "new" / "own.md").read_text(encoding="utf-8") == text
    (copy / file).write_text(text.replace("**To be written by a person:**", "", 1), encoding="utf-8")
    done = regraft("report", copy, "--template", name)
    assert done.returncode == 2
    assert "by a person" in " ".join(done.stderr.split())


def test_a_changed_card_is_kept_and_that_is_said(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    with (copy / "MODEL_CARD.md").open("a", encoding="utf-8") as card:
        card.write("By Ada.\n")
    done = regraft("report", copy)
    assert done.returncode == 0, done.stderr
    assert "was changed by a person and is kept as it is" in " ".join(done.stdout.split())
    assert (copy / "MODEL_CARD.md").read_text(encoding="utf-8").endswith("By Ada.\n")


def test_options_without_effect_are_refused(run: Path, tmp_path: Path) -> None:
    for flags, words in (
        (("--out", tmp_path / "x.md"), "no effect without template"),
        (("--template", "datasheet", "--data", run), "data has no effect with template"),
        (("--template", "readme"), "readme"),
    ):
        done = regraft("report", run, *flags)
        assert done.returncode == 2
        assert words in " ".join(done.stderr.split())


def test_the_report_is_written_again(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    before = (copy / "report.html").read_bytes()
    (copy / "report.html").unlink()
    done = regraft("report", copy)
    assert done.returncode == 0, done.stderr
    assert str(copy / "report.html") in done.stdout
    assert (copy / "report.html").read_bytes() == before
    done = regraft("report", copy, "--json")
    files = json.loads(done.stdout)
    assert files["model_card"] == str(copy / "MODEL_CARD.md")
    assert files["bill_of_materials"] == str(copy / "mlbom.json")
    done = regraft("report", copy, "--data", tmp_path / "nowhere")
    assert done.returncode == 2
    assert "does not exist" in done.stderr
