"""`regraft clean`"""

from __future__ import annotations

from pathlib import Path

from terminal import contents, csv_rows, regraft

from regraft.data.scan import scan


def test_a_manifest_and_the_reasons_are_written(cells: Path, mislabeled: Path, tmp_path: Path) -> None:
    before, out = contents(cells), tmp_path / "lists" / "clean.csv"
    done = regraft("clean", cells, "--drop", "duplicates,near_duplicates,truncated", "--out", out)
    assert done.returncode == 0, done.stderr
    assert contents(cells) == before
    dropped = {Path(row["path"]).name: row for row in csv_rows(out.with_suffix(".dropped.csv"))}
    assert {"small.png", "broken.png"} <= set(dropped)
    assert dropped["broken.png"]["finding"] == "truncated"
    assert "kept" in dropped["small.png"]["reason"]
    cleaned = scan(out)
    assert not cleaned.pairs
    assert len(cleaned) + len(dropped) == 63
    assert len({s.sha256 for s in cleaned.samples}) == len(cleaned)
    done = regraft("clean", mislabeled, "--drop", "label_error", "--out", tmp_path / "labels.csv")
    assert "A test without them is too optimistic" in " ".join(done.stdout.split())
    for arguments, words in (
        (["--drop", "duplicates", "--out", out], "exist already, and nothing is overwritten"),
        (
            ["--drop", "sorrow", "--out", tmp_path / "x.csv"],
            "--drop sorrow: no such finding names files here. Findings with files: ",
        ),
        (["--drop", "duplicates", "--out", tmp_path / "x.txt"], "expected a file name that ends in .csv"),
    ):
        refused = regraft("clean", cells, *arguments)
        assert refused.returncode == 2
        assert words in refused.stderr


def test_the_tree_of_a_file_is_written_beside_the_manifest(cells: Path, tmp_path: Path) -> None:
    classes = sorted(folder.name for folder in cells.iterdir() if folder.is_dir())
    tree, out = tmp_path / "tree.csv", tmp_path / "clean.csv"
    tree.write_text(
        "child,parent\n" + "".join(f"{name},{'warm' if name == classes[0] else 'cold'}\n" for name in classes)
    )
    inspected = regraft("inspect", cells, "--no-labels", "--taxonomy", tree, "--out", tmp_path / "page.html")
    assert f"--taxonomy {tree} --drop" in " ".join(inspected.stdout.split())
    done = regraft("clean", cells, "--taxonomy", tree, "--drop", "duplicates", "--out", out)
    assert done.returncode == 0, done.stderr
    written = tmp_path / "clean.taxonomy.json"
    assert f"--taxonomy {written}" in " ".join(done.stdout.split())
    kept = scan(out, taxonomy=written).taxonomy
    assert kept is not None
    assert (kept.parents[classes[0]], kept.parents[classes[1]]) == ("warm", "cold")
