"""`regraft split`"""

from __future__ import annotations

import json
import os
from pathlib import Path

from PIL import Image
from terminal import contents, csv_rows, regraft

from regraft.data.scan import scan
from regraft.runs.demo import demo_images


def test_duplicates_share_a_part_and_new_images_are_added(cells: Path, tmp_path: Path) -> None:
    before, target = contents(cells), tmp_path / "parts"
    done = regraft("split", cells, target, "--train", 0.6, "--val", 0.2, "--test", 0.2)
    assert done.returncode == 0, done.stderr
    assert contents(cells) == before
    assert "left out functional/broken.png" in done.stdout
    made = csv_rows(target / "split.csv")
    assert len(made) == 62
    part_of = {row["source"]: row["part"] for row in made}
    first, second = sorted(p.name for p in (cells / "defective").iterdir() if p.name.startswith("cell"))[:2]
    assert part_of["defective/copy.png"] == part_of[f"defective/{first}"]
    assert part_of["defective/small.png"] == part_of[f"defective/{second}"]
    for row in made:
        assert (target / row["path"]).read_bytes() == before[row["source"]]
        assert row["path"].startswith(f"{row['part']}/{row['label']}/")
    # The manifest and the folders both reproduce the split.
    again = scan(target / "split.csv")
    assert {s.path: s.part for s in again.samples} == {row["path"]: row["part"] for row in made}
    assert {s.path: s.part for s in scan(target).samples} == {row["path"]: row["part"] for row in made}
    # New images are added; all others keep their part, and no file is written again.
    for number, file in enumerate(sorted((demo_images() / "images").iterdir())[1000:1010]):
        (cells / "functional" / f"new{number}.png").write_bytes(file.read_bytes())
    there = {p: p.stat().st_mtime_ns for p in target.rglob("*.png")}
    more = regraft("split", cells, target, "--train", 0.6, "--val", 0.2, "--test", 0.2, "--seed", 9, "--json")
    assert more.returncode == 0, more.stderr
    assert sum(sum(counts.values()) for counts in json.loads(more.stdout)["counts"].values()) == 72
    assert {p: p.stat().st_mtime_ns for p in there} == there
    later = {row["source"]: row["part"] for row in csv_rows(target / "split.csv")}
    assert {name: later[name] for name in part_of} == part_of


def test_links_and_foreign_folders(cells: Path, tmp_path: Path) -> None:
    done = regraft("split", cells, tmp_path / "linked", "--link")
    assert done.returncode == 0, done.stderr
    for row in csv_rows(tmp_path / "linked" / "split.csv"):
        assert os.path.samefile(tmp_path / "linked" / row["path"], cells / row["source"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for target, words in (
        (tmp_path / "mine", "is not empty and was not written by `regraft split`"),
        (cells / "parts", "is inside"),
        (tmp_path / "mine" / "letter.txt", "is a file; expected a folder"),
    ):
        refused = regraft("split", cells, target)
        assert refused.returncode == 2
        assert words in refused.stderr
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_an_interrupted_split_is_completed(cells: Path, tmp_path: Path) -> None:
    target = tmp_path / "parts"
    assert regraft("split", cells, target).returncode == 0
    whole = contents(target)
    for name in list(whole)[::3]:
        if name.endswith(".png"):
            (target / name).unlink()
    assert regraft("split", cells, target).returncode == 0
    assert contents(target) == whole


def test_files_of_the_same_name_and_groups(tmp_path: Path) -> None:
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
    made = csv_rows(tmp_path / "parts" / "split.csv")
    assert len({row["path"].lower() for row in made}) == 32
    for row in made:
        assert (tmp_path / "parts" / row["path"]).read_bytes() == (tmp_path / "data" / row["source"]).read_bytes()
    groups = {(row["source"].split("/")[1], row["part"]) for row in made if row["label"] == "cat"}
    assert len(groups) == 3  # each group in one part


def test_remote_images_are_fetched_on_request(cells: Path, tmp_path: Path) -> None:
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
