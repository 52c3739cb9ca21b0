"""An inspection of images that have a number."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import regraft
from regraft.cache import Cache
from regraft.cli import app
from regraft.data.quality.findings import Inspection
from regraft.studies.inspect.page import write_page


@pytest.fixture(scope="module")
def wrong_manifest(numbers_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images with their brightness, but the number of one bright image is that of a black one."""
    folder = tmp_path_factory.mktemp("wrong") / "data"
    shutil.copytree(numbers_manifest.parent, folder)
    with (folder / "brightness.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    brightest = max(rows[1:], key=lambda row: float(row[1]))
    brightest[1] = "1.5"
    with (folder / "brightness.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (folder / "wrong.txt").write_text(brightest[0])
    return folder / "brightness.csv"


@pytest.fixture(scope="module")
def inspection(wrong_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    cache = Cache(tmp_path_factory.mktemp("cache"))
    found = regraft.inspect(wrong_manifest, task="regression", cache=cache)
    again = regraft.inspect(wrong_manifest, task="regression", cache=cache)  # all from the cache
    assert again.findings == found.findings
    return found


def test_a_wrong_number_is_found_by_the_features(inspection: Inspection, wrong_manifest: Path) -> None:
    (finding,) = [finding for finding in inspection.findings if finding.kind == "label_error"]
    wrong = (wrong_manifest.parent / "wrong.txt").read_text()
    assert finding.files[0] == (wrong,)
    assert finding.details[0].startswith("labeled 1.5, predicted ")
    assert "likely wrong" in finding.title


def test_the_page_shows_the_distribution(inspection: Inspection, tmp_path: Path) -> None:
    write_page(inspection, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "mean brightness" in page
    assert "Standard deviation" in page
    assert "of each range of the numbers" in page
    assert "<svg" in page
    assert ">Numbers<" in page
    assert ">Classes<" not in page


def test_the_command_prints_the_numbers(numbers_manifest: Path, tmp_path: Path) -> None:
    words = ["inspect", str(numbers_manifest), "--task", "regression", "--no-labels", "--out", str(tmp_path / "p.html")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "80 images with brightness from" in done.output
    assert "--task regression" in done.output.split("Train")[1]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(done.stdout)["statistics"]["numbers"]["parts"]["all"]["images"] == 80


def test_the_proposed_commands_run(numbers_manifest: Path, tmp_path: Path) -> None:
    data = shutil.copytree(numbers_manifest.parent, tmp_path / "data") / "brightness.csv"
    rows = list(csv.reader(data.read_text().splitlines()))
    shutil.copy(data.parent / rows[1][0], data.parent / "copy.png")
    with data.open("w", newline="") as file:
        written = csv.writer(file)
        written.writerow([*rows[0], "age"])  # so that the column must be named
        written.writerows([*row, "8"] for row in [*rows[1:], ["copy.png", rows[1][1]]])
    words = ["inspect", str(data), "--task", "regression", "--label-column", "brightness", "--no-labels"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "p.html")], env={"COLUMNS": "400"})
    assert done.exit_code == 0, done.output
    (proposed,) = re.findall(r"Clean\s+regraft (clean .* --out )clean\.csv", done.output)
    cleaned = CliRunner().invoke(app, [*shlex.split(proposed), str(tmp_path / "clean.csv")])
    assert cleaned.exit_code == 0, cleaned.output
    assert (tmp_path / "clean.csv").is_file()
    assert "--task regression" in cleaned.output.split("regraft train")[1]


def test_equal_numbers_are_a_finding_and_no_weak_model(numbers_manifest: Path, tmp_path: Path) -> None:
    equal = shutil.copytree(numbers_manifest.parent, tmp_path / "data") / "brightness.csv"
    names = [row.split(",")[0] for row in equal.read_text().splitlines()[1:13]]
    equal.write_text("path,brightness\n" + "".join(f"{name},7\n" for name in names))
    found = regraft.inspect(equal, task="regression", cache=Cache(tmp_path / "cache"))
    assert "structure" in {finding.kind for finding in found.findings}
    assert not any("not checked" in note for note in found.notes)


def test_what_can_be_guessed_of_a_number_is_its_range(inspection: Inspection) -> None:
    titles = [finding.title for finding in inspection.findings if finding.kind == "shortcut"]
    assert titles
    assert all(title.startswith("The range of the numbers can be guessed from") for title in titles)
