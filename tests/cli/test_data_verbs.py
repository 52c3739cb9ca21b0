"""`regraft inspect`, `split` and `clean`, as they are typed."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from terminal import regraft

from regraft.data.scan import scan
from regraft.pipeline.demo import demo_images


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Real solar cells under their true labels, with a copy, a smaller copy, and a file that is none."""
    root = tmp_path / "cells"
    chosen: Counter[str] = Counter()
    for line in (demo_images() / "labels.csv").read_text().splitlines()[::3]:
        name, probability, _ = line.split()
        label = {0.0: "functional", 1.0: "defective"}.get(float(probability))
        if label and chosen[label] < 30:
            chosen[label] += 1
            (root / label).mkdir(parents=True, exist_ok=True)
            (root / label / Path(name).name).write_bytes((demo_images() / name).read_bytes())
    first, second = sorted((root / "defective").iterdir())[:2]
    (root / "defective" / "copy.png").write_bytes(first.read_bytes())
    Image.open(second).resize((150, 150)).save(root / "defective" / "small.png")
    (root / "functional" / "broken.png").write_bytes(first.read_bytes()[:2000])
    return root


def test_inspect_finds_what_is_wrong_and_writes_a_page(cells: Path, tmp_path: Path) -> None:
    before = contents(cells)
    done = regraft("inspect", cells, "--out", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert contents(cells) == before
    for words in ("62 images in 2 classes", "truncated", "duplicates", "near_duplicates", "copy.png", "Clean", "Train"):
        assert words in done.stdout
    assert "Labels were not judged" not in done.stdout
    proposed = next(line for line in done.stdout.splitlines() if "--drop" in line)
    assert "label_error" not in proposed  # what a model doubts is for people to look at
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "data:image/" in page
    assert "small.png" in page
    again = regraft("inspect", cells, "--out", tmp_path / "page.html", "--json")
    found = json.loads(again.stdout)
    kinds = {finding["kind"]: finding for finding in found["findings"]}
    assert kinds["truncated"]["files"] == [["functional/broken.png"]]
    assert kinds["label_error"]["files"]
    small = next(pair for pair in found["pairs"] if "defective/small.png" in (pair["first"], pair["second"]))
    assert 0.5 < small["features"] <= 1
    assert any("features alike to" in detail for detail in kinds["near_duplicates"]["details"])
    assert found["statistics"]["images"] == 62
    assert found["page"].endswith("page.html")


def test_inspect_as_a_check(cells: Path, tmp_path: Path) -> None:
    command = ["inspect", cells, "--no-labels", "--out", tmp_path / "page.html", "--fail-on"]
    assert regraft(*command, "error").returncode == 1
    (cells / "functional" / "broken.png").unlink()
    assert regraft(*command, "error").returncode == 0
    assert regraft(*command, "warning").returncode == 1
    wrong = regraft(*command, "grave")
    assert wrong.returncode == 2
    assert "--fail-on grave: expected error, warning, info." in wrong.stderr
    assert regraft("inspect", tmp_path / "nowhere").returncode == 2


def test_inspect_of_what_cannot_be_trained_on_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "data" / "one").mkdir(parents=True)
    (tmp_path / "data" / "empty").mkdir()
    Image.linear_gradient("L").save(tmp_path / "data" / "one" / "1.png")
    done = regraft("inspect", tmp_path / "data", "--out", tmp_path / "page.html", "--json")
    assert done.returncode == 0, done.stderr
    assert {"structure", "empty_class"} <= {finding["kind"] for finding in json.loads(done.stdout)["findings"]}


def test_split_copies_keeps_copies_together_and_adds_later_what_is_new(cells: Path, tmp_path: Path) -> None:
    before, target = contents(cells), tmp_path / "parts"
    done = regraft("split", cells, target, "--train", 0.6, "--val", 0.2, "--test", 0.2)
    assert done.returncode == 0, done.stderr
    assert contents(cells) == before
    assert "left out functional/broken.png" in done.stdout
    made = rows(target / "split.csv")
    assert len(made) == 62
    part_of = {row["source"]: row["part"] for row in made}
    first, second = sorted(p.name for p in (cells / "defective").iterdir() if p.name.startswith("cell"))[:2]
    assert part_of["defective/copy.png"] == part_of[f"defective/{first}"]
    assert part_of["defective/small.png"] == part_of[f"defective/{second}"]
    for row in made:
        assert (target / row["path"]).read_bytes() == before[row["source"]]
        assert row["path"].startswith(f"{row['part']}/{row['label']}/")
    # The manifest gives the split again, and so do the folders.
    again = scan(target / "split.csv")
    assert {s.path: s.part for s in again.samples} == {row["path"]: row["part"] for row in made}
    assert {s.path: s.part for s in scan(target).samples} == {row["path"]: row["part"] for row in made}
    # New images come in; all others stay where they are, and nothing is written anew.
    for number, file in enumerate(sorted((demo_images() / "images").iterdir())[1000:1010]):
        (cells / "functional" / f"new{number}.png").write_bytes(file.read_bytes())
    there = {p: p.stat().st_mtime_ns for p in target.rglob("*.png")}
    more = regraft("split", cells, target, "--train", 0.6, "--val", 0.2, "--test", 0.2, "--seed", 9, "--json")
    assert more.returncode == 0, more.stderr
    assert sum(sum(counts.values()) for counts in json.loads(more.stdout)["counts"].values()) == 72
    assert {p: p.stat().st_mtime_ns for p in there} == there
    later = {row["source"]: row["part"] for row in rows(target / "split.csv")}
    assert {name: later[name] for name in part_of} == part_of


def test_split_links_on_request_and_refuses_foreign_folders(cells: Path, tmp_path: Path) -> None:
    done = regraft("split", cells, tmp_path / "linked", "--link")
    assert done.returncode == 0, done.stderr
    for row in rows(tmp_path / "linked" / "split.csv"):
        assert os.path.samefile(tmp_path / "linked" / row["path"], cells / row["source"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for target, words in (
        (tmp_path / "mine", "is not empty and was not made by `regraft split`"),
        (cells / "parts", "lies within"),
        (tmp_path / "mine" / "letter.txt", "is a file; expected a folder"),
    ):
        refused = regraft("split", cells, target)
        assert refused.returncode == 2
        assert words in refused.stderr
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_split_goes_on_after_a_kill(cells: Path, tmp_path: Path) -> None:
    target = tmp_path / "parts"
    assert regraft("split", cells, target).returncode == 0
    whole = contents(target)
    for name in list(whole)[::3]:
        if name.endswith(".png"):
            (target / name).unlink()
    assert regraft("split", cells, target).returncode == 0
    assert contents(target) == whole


def test_split_of_files_of_one_name(tmp_path: Path) -> None:
    for folder in ("a", "b", "c"):
        (tmp_path / "data" / "cat" / folder).mkdir(parents=True)
        for number in range(8):
            image = Image.effect_noise((40, 40), 90 + ord(folder) + number)
            image.save(tmp_path / "data" / "cat" / folder / f"{number}.png")
    (tmp_path / "data" / "dog").mkdir()
    for number in range(8):
        Image.effect_noise((40, 40), 50 + number).save(tmp_path / "data" / "dog" / f"{number}.png")
    done = regraft("split", tmp_path / "data", tmp_path / "parts", "--group-by", "cat/(.)/")
    assert done.returncode == 0, done.stderr
    made = rows(tmp_path / "parts" / "split.csv")
    assert len({row["path"].lower() for row in made}) == 32
    for row in made:
        assert (tmp_path / "parts" / row["path"]).read_bytes() == (tmp_path / "data" / row["source"]).read_bytes()
    groups = {(row["source"].split("/")[1], row["part"]) for row in made if row["label"] == "cat"}
    assert len(groups) == 3  # each group in one part


def test_images_elsewhere_are_fetched_only_when_asked_for(cells: Path, tmp_path: Path) -> None:
    files = [file for file in sorted(cells.rglob("*.png")) if file.name != "broken.png"]
    lines = [f"{file.as_uri()},{file.parent.name}" for file in files]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(["path,label", *lines]))
    refused = regraft("inspect", manifest, "--no-labels", "--out", tmp_path / "page.html")
    assert refused.returncode == 2
    assert "--remote" in refused.stderr
    done = regraft("inspect", manifest, "--no-labels", "--remote", "--out", tmp_path / "page.html", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["statistics"]["images"] == len(files) == 62
    done = regraft("split", manifest, tmp_path / "parts", "--remote")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "parts").rglob("*.png"))) == 62


def test_clean_writes_a_manifest_and_says_why(cells: Path, tmp_path: Path) -> None:
    before, out = contents(cells), tmp_path / "lists" / "clean.csv"
    done = regraft("clean", cells, "--drop", "duplicates,near_duplicates,truncated", "--out", out)
    assert done.returncode == 0, done.stderr
    assert contents(cells) == before
    dropped = {Path(row["path"]).name: row for row in rows(out.with_suffix(".dropped.csv"))}
    assert {"small.png", "broken.png"} <= set(dropped)
    assert dropped["broken.png"]["finding"] == "truncated"
    assert "stays" in dropped["small.png"]["reason"]
    cleaned = scan(out)
    assert not cleaned.pairs
    assert len(cleaned) + len(dropped) == 63
    assert len({s.sha256 for s in cleaned.samples}) == len(cleaned)
    doubted = regraft("clean", cells, "--drop", "label_error", "--out", tmp_path / "doubted.csv")
    assert "Without them a test says too much" in " ".join(doubted.stdout.split())
    for arguments, words in (
        (["--drop", "duplicates", "--out", out], "exist already, and nothing is overwritten"),
        (["--drop", "sorrow", "--out", tmp_path / "x.csv"], "--drop sorrow: no such finding names files here. Found: "),
        (["--drop", "duplicates", "--out", tmp_path / "x.txt"], "expected a file name that ends in .csv"),
    ):
        refused = regraft("clean", cells, *arguments)
        assert refused.returncode == 2
        assert words in refused.stderr


def test_training_on_an_archive_and_keeping_a_split(cells: Path, tmp_path: Path) -> None:
    import shutil

    archive = shutil.make_archive(str(tmp_path / "cells"), "zip", cells)
    fast = ["--image-size", 32, "--finetune-epochs", 0]
    done = regraft("train", archive, "--out", tmp_path / "run", *fast)
    assert done.returncode == 0, done.stderr
    assert "show" in done.stdout
    more = regraft("train", cells, "--out", tmp_path / "again", *fast, "--seed", 5, "--keep-split", tmp_path / "run")
    assert more.returncode == 0, more.stderr
    parts = [{row["sha256"]: row["part"] for row in rows(tmp_path / run / "split.csv")} for run in ("run", "again")]
    assert parts[0] == parts[1]
