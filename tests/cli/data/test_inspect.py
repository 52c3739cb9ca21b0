"""`regraft inspect`"""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image
from terminal import contents, regraft


def test_faults_are_found_and_a_page_is_written(cells: Path, tmp_path: Path) -> None:
    before = contents(cells)
    done = regraft("inspect", cells, "--out", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert contents(cells) == before
    for words in ("62 images in 2 classes", "truncated", "duplicates", "near_duplicates", "copy.png", "Clean", "Train"):
        assert words in done.stdout
    assert "Labels were not checked" not in done.stdout
    proposed = next(line for line in done.stdout.splitlines() if "--drop" in line)
    assert "label_error" not in proposed  # label errors are for people to judge
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "data:image/" in page
    assert "small.png" in page
    again = regraft("inspect", cells, "--out", tmp_path / "page.html", "--json")
    report = json.loads(again.stdout)
    kinds = {finding["kind"]: finding for finding in report["findings"]}
    assert kinds["truncated"]["files"] == [["functional/broken.png"]]
    assert "label_error" not in kinds  # seven of these labels are doubted, no more than such a model is wrong
    small = next(pair for pair in report["pairs"] if "defective/small.png" in (pair["first"], pair["second"]))
    assert 0.5 < small["features"] <= 1
    assert any("feature similarity" in detail for detail in kinds["near_duplicates"]["details"])
    assert report["statistics"]["images"] == 62
    assert report["page"].endswith("page.html")


def test_a_swapped_label_is_named(mislabeled: Path, tmp_path: Path) -> None:
    done = regraft("inspect", mislabeled, "--out", tmp_path / "page.html", "--json")
    kinds = {finding["kind"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert sorted(kinds["label_error"]["files"]) == [["green/red-00.png"], ["green/red-01.png"]]
    assert kinds["label_error"]["details"][0].startswith("labeled green (")


def test_the_exit_code_is_a_check(cells: Path, tmp_path: Path) -> None:
    command = ["inspect", cells, "--no-labels", "--out", tmp_path / "page.html", "--fail-on"]
    assert regraft(*command, "error").returncode == 1
    (cells / "functional" / "broken.png").unlink()
    assert regraft(*command, "error").returncode == 0
    assert regraft(*command, "warning").returncode == 1
    wrong = regraft(*command, "grave")
    assert wrong.returncode == 2
    assert "--fail-on grave: expected error, warning, info." in wrong.stderr
    assert regraft("inspect", tmp_path / "nowhere").returncode == 2
    (tmp_path / "empty").mkdir()
    for verb in (["inspect"], ["train"], ["split"]):
        done = regraft(*verb, tmp_path / "empty", *([tmp_path / "parts"] if verb == ["split"] else []), cwd=tmp_path)
        assert done.returncode == 1
        assert "has no classes" in done.stdout + done.stderr
        assert "regraft train" not in done.stdout


def test_data_that_cannot_be_trained_on_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "data" / "one").mkdir(parents=True)
    (tmp_path / "data" / "empty").mkdir()
    Image.linear_gradient("L").save(tmp_path / "data" / "one" / "1.png")
    (tmp_path / "data" / "one" / "2.psd").touch()
    done = regraft("inspect", tmp_path / "data", "--out", tmp_path / "page.html", "--json")
    assert done.returncode == 1, done.stderr  # as `split` and `train`, and the page shows what is there
    assert (tmp_path / "page.html").is_file()
    assert json.loads(done.stdout)["ignored"] == ["one/2.psd"]
    assert ".psd: 1 file ignored, such as one/2.psd." in json.loads(done.stdout)["notes"][0]
    assert {"structure", "empty_class"} <= {finding["kind"] for finding in json.loads(done.stdout)["findings"]}
