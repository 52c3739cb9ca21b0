from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from regraft.data.decode import decode_image
from regraft.data.scan import scan
from regraft.errors import DataError

Encoded = Callable[[str], bytes]


def shard(path: Path, members: Mapping[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in members.items():
            data = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def sample(png: Encoded) -> Callable[..., dict[str, bytes | str]]:
    """The members of a sample: an image, and its label as `.cls`."""

    def members(key: str, label: object, ending: str = "png") -> dict[str, bytes | str]:
        return {f"{key}.{ending}": png(key), f"{key}.cls": str(label)}

    return members


def found(path: Path) -> list[tuple[str, str, str | None]]:
    return [(s.path, s.label, s.part) for s in scan(path).samples]


def test_a_tar_with_labels_beside_its_images(tmp_path, sample, png):
    path = shard(tmp_path / "train-0000.tar", {**sample("a.b/000", 0), **sample("a.b/001", " 1\n", "JPG")})
    dataset = scan(path)
    assert [(s.path, s.label, s.part) for s in dataset.samples] == [
        ("a.b/000.png", "0", None),
        ("a.b/001.JPG", "1", None),
    ]
    assert dataset.ignored == ()
    assert np.array_equal(decode_image(dataset.source(dataset.samples[0])), decode_image(png("a.b/000")))


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_shards_in_a_folder_with_parts_by_their_names(tmp_path, sample, ending):
    for part in ("train-0000", "train-0001", "val-0000", "imagenet-test-0000"):
        shard(tmp_path / "data" / f"{part}.{ending}", {**sample(f"{part}0", "cat"), **sample(f"{part}1", "dog")})
    names = {"imagenet-test-0000": "test", "train-0000": "train", "train-0001": "train", "val-0000": "val"}
    assert found(tmp_path / "data") == [
        (f"{name}.{ending}/{name}{i}.png", label, part)
        for name, part in names.items()
        for i, label in enumerate(("cat", "dog"))
    ]


def test_folders_of_shards_are_parts(tmp_path, sample):
    for part in ("train", "test"):
        shard(tmp_path / part / "0.tar", {**sample("0", "cat"), **sample("1", "dog")})
    assert {(path, part) for path, _, part in found(tmp_path)} == {
        (f"{part}/0.tar/{i}.png", part) for part in ("train", "test") for i in (0, 1)
    }


@pytest.mark.parametrize("place", ["beside", "inside", "around"])
def test_numbers_have_names_where_a_file_says_them(tmp_path, sample, place):
    names = {"classes.txt": "tabby cat\ndog\n"} if place == "inside" else {}
    path = shard(tmp_path / "data" / "0.tar", {**sample("000", 0), **sample("001", 1), **sample("002", "dog"), **names})
    if place != "inside":
        path.with_name("classnames.txt").write_text("tabby cat\ndog\n")
    assert [label for _, label, _ in found(path if place != "around" else path.parent)] == ["tabby cat", "dog", "dog"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\n", "0.tar: 001 has the label 1, but there are names for 0 to 0 only"),
        ("cat\n\ndog", "classes.txt has an empty line. Expected one class per line"),
        ("cat\ncat", "classes.txt has duplicate names: cat"),
        ("caf\xe9", "classes.txt cannot be read as UTF-8 text"),
    ],
)
def test_names_that_do_not_fit(tmp_path, sample, text, message):
    path = shard(tmp_path / "0.tar", {**sample("000", 0), **sample("001", 1)})
    path.with_name("classes.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        scan(path)


def test_labels_in_json(tmp_path, png):
    members: dict[str, bytes | str] = {}
    for i, label in enumerate(["cat", 7, None, {"cat": 1}]):
        members |= {f"{i}.png": png(str(i)), f"{i}.json": json.dumps({"label": label, "width": 8})}
    dataset = scan(shard(tmp_path / "x.tar", members))
    assert [(s.path, s.label) for s in dataset.samples] == [("0.png", "cat"), ("1.png", "7")]
    assert dataset.ignored == ("2.png", "3.png")
    assert dataset.notes == ("2 images without a label ignored, for example 2.png.",)


@pytest.mark.parametrize("key", ["label", "labels"])
def test_lists_in_json(tmp_path, png, key):
    members: dict[str, bytes | str] = {"classes.txt": "cat\ndog\n"}
    for i, label in enumerate([["cat", "dog"], [1, 0], "dog", [], ["cat"]]):
        members |= {f"{i}.png": png(str(i)), f"{i}.json": json.dumps({key: label})}
    dataset = scan(shard(tmp_path / "x.tar", members))
    assert (dataset.task, [s.label for s in dataset.samples]) == (
        "multilabel",
        ["cat|dog", "cat|dog", "dog", "", "cat"],
    )
    assert "2 of 5 have more than one, in a list" in " ".join(dataset.notes)
    with pytest.raises(DataError, match=r"--task multilabel"):
        scan(tmp_path / "x.tar", task="classification")


def test_json_beside_images_in_one_folder(tmp_path, png):
    members = {f"all/{c}.{e}": png(c) if e == "png" else f'{{"label": "{c}"}}' for c in "ab" for e in ("png", "json")}
    assert found(shard(tmp_path / "x.tar", members)) == [("all/a.png", "a", None), ("all/b.png", "b", None)]


def test_json_beside_images_in_class_folders_is_no_label(tmp_path, png):
    members = {
        f"{c}/1.{e}": png(c) if e == "png" else '{"label": "x"}' for c in ("cat", "dog") for e in ("png", "json")
    }
    dataset = scan(shard(tmp_path / "x.tar", members))
    assert dataset.classes == ("cat", "dog")
    assert dataset.ignored == ("cat/1.json", "dog/1.json")


def test_of_several_images_the_plain_one_is_the_sample(tmp_path, sample, png):
    members = {**sample("0", "cat"), "0.mask.png": png("mask"), **sample("1", "dog"), "1.txt": "a dog", "note.txt": ""}
    dataset = scan(shard(tmp_path / "x.tar", members))
    assert [s.path for s in dataset.samples] == ["0.png", "1.png"]
    assert dataset.ignored == ("0.mask.png", "1.txt", "note.txt")
    with pytest.raises(
        DataError, match=r"x\.tar: 0 has several images: 0\.jpg, 0\.png\. Expected one image for each label"
    ):
        scan(shard(tmp_path / "x.tar", {**members, "0.jpg": png("0")}))


def test_links_in_shards_are_named_with_their_shard(tmp_path, sample):
    path = shard(tmp_path / "data" / "0.tar", {**sample("0", "cat"), **sample("1", "dog")})
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("2.png")
        info.type, info.linkname = tarfile.SYMTYPE, "0.png"
        archive.addfile(info)
    assert [b.path for b in scan(tmp_path / "data").bad] == ["0.tar/2.png"]


def test_shards_that_say_nothing_or_half(tmp_path, sample, png):
    shard(tmp_path / "data" / "0.tar", {"cat/1.png": png("1"), "dog/1.png": png("2")})
    with pytest.raises(DataError, match=r"has no labels: no image has a \.cls file"):
        scan(tmp_path / "data")
    for name in ("0", "train-1"):
        shard(tmp_path / "data" / f"{name}.tar", {**sample("0", "cat"), **sample("1", "dog")})
    with pytest.raises(DataError, match="only some shards have train, val or test in their names"):
        scan(tmp_path / "data")
    with pytest.raises(DataError, match=r"1\.json cannot be read as JSON"):
        scan(shard(tmp_path / "x.tar", {**sample("0", "cat"), "1.png": png("1"), "1.json": "{"}))


def test_a_split_of_shards_is_read_back(tmp_path, sample):
    data = tmp_path / "data"
    shard(data / "0.tar", {**sample("0", "cat"), **sample("1", "dog")})
    shard(data / "1.tar", {**sample("0", "cat"), **sample("1", "dog")})
    (tmp_path / "m.csv").write_text("path,label\n0.tar/0.png,cat\n1.tar/1.png,dog\n2.tar/0.png,dog\n")
    dataset = scan(tmp_path / "m.csv", root=data)
    assert [s.path for s in dataset.samples] == ["0.tar/0.png", "1.tar/1.png"]
    assert [(b.path, b.reason) for b in dataset.bad] == [("2.tar/0.png", "no such file or directory")]


def test_labels_that_are_no_single_text_are_refused(tmp_path, sample):
    members = {**sample("0", "cat"), **sample("1", "dog")}
    path = shard(tmp_path / "x.tar", {**members, "0.cls": "K\xe4fer".encode("latin-1")})
    with pytest.raises(DataError, match=r"x\.tar: 0\.cls is not text in UTF-8"):
        scan(path)
    with pytest.raises(DataError, match=r"x\.tar: 1\.cls has several lines; expected one label.*--task multilabel"):
        scan(shard(tmp_path / "x.tar", {**members, "1.cls": "dog\ncat\n"}))


def test_a_number_in_json_is_a_label(tmp_path, png):
    labels = {"0": 1.0, "1": 2, "2": "7", "3": None}
    members = {f"{key}.json": json.dumps({"label": label}) for key, label in labels.items()}
    path = shard(tmp_path / "x.tar", {**{f"{key}.png": png(key) for key in labels}, **members})
    assert [label for _, label, _ in found(path)] == ["1", "2", "7"]


def test_an_empty_list_of_labels_beside_single_classes_leaves_its_image_out(tmp_path, sample, png):
    members = {**sample("0", "cat"), **sample("1", "dog"), "2.png": png("2"), "2.json": '{"label": []}'}
    path = shard(tmp_path / "train-0000.tar", members)
    assert [label for _, label, _ in found(path)] == ["cat", "dog"]
    assert "2.png" in scan(path).ignored
