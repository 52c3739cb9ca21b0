import errno
import hashlib
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regraft.data import examiners, reading
from regraft.data.audit import audit
from regraft.data.dataset import Dataset
from regraft.data.decode import decode_image
from regraft.data.facts import examine_image
from regraft.data.layout import find_images
from regraft.data.scan import scan
from regraft.errors import DataError, UsageError
from regraft.store import Store

WriteImages = Callable[..., Path]


@pytest.fixture
def images(tmp_path) -> WriteImages:
    """Write small images, each with other pixels, and return the folder that they are in."""
    root = tmp_path / "data"
    root.mkdir()

    def write(*paths: str) -> Path:
        for path in paths:
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            seed = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big")
            pixels = np.random.default_rng(seed).integers(0, 256, (9, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(file, "PNG")
        return root

    return write


def paths(dataset: Dataset) -> list[str]:
    return [sample.path for sample in dataset.samples]


def labels_of(dataset: Dataset) -> dict[str, str]:
    return {sample.path: sample.label for sample in dataset.samples}


def test_a_folder_of_classes(images):
    root = images("dog/2.png", "dog/1.PNG", "cat/a.jpg", "cat/b.tiff", "Zebra/z.webp")
    dataset = scan(root)
    assert paths(dataset) == ["Zebra/z.webp", "cat/a.jpg", "cat/b.tiff", "dog/1.PNG", "dog/2.png"]
    assert dataset.classes == ("Zebra", "cat", "dog")  # by code point
    assert dataset.counts() == {"Zebra": 1, "cat": 2, "dog": 2}
    assert {(s.part, s.group) for s in dataset.samples} == {(None, None)}
    assert dataset.root == root
    assert (dataset.bad, dataset.ignored, dataset.notes) == ((), (), ())
    for sample in dataset.samples:
        assert sample.sha256 == hashlib.sha256((root / sample.path).read_bytes()).hexdigest()
    assert scan(str(root)) == dataset
    assert scan(root, workers=1) == dataset


def test_classes_have_the_order_of_keras_image_dataset_from_directory(images):
    # Its folders are sorted as texts ("alphanumeric order"): a folder of class folders gives the same numbers there.
    assert scan(images("2/a.png", "10/a.png", "b/a.png", "B/a.png")).classes == ("10", "2", "B", "b")


@pytest.mark.parametrize(
    ("folders", "parts"),
    [
        (("train", "val", "test"), ("train", "val", "test")),
        (("Training", "VALID", "Testing"), ("train", "val", "test")),
        (("train", "validation"), ("train", "val")),
        (("train", "dev"), ("train", "val")),
        (("train", "test"), ("train", "test")),
        (("TRAIN",), ("train",)),
    ],
)
def test_a_folder_of_parts(images, folders, parts):
    root = images(*(f"{folder}/{name}/{folder}.png" for folder in folders for name in ("cat", "dog")))
    dataset = scan(root)
    assert dataset.classes == ("cat", "dog")
    expected = {(f"{f}/{c}/{f}.png", c, p) for f, p in zip(folders, parts, strict=True) for c in ("cat", "dog")}
    assert {(s.path, s.label, s.part) for s in dataset.samples} == expected


def test_a_class_may_be_called_train(images):
    dataset = scan(images("train/1.png", "plane/1.png", "test/1.png"))
    assert dataset.classes == ("plane", "test", "train")
    assert {s.part for s in dataset.samples} == {None}


def test_a_class_may_be_called_test_within_parts(images):
    dataset = scan(images("train/test/1.png", "train/train/1.png", "val/test/2.png"))
    assert dataset.classes == ("test", "train")
    assert [(s.path, s.part) for s in dataset.samples if s.label == "test"] == [
        ("train/test/1.png", "train"),
        ("val/test/2.png", "val"),
    ]


def test_val_may_lack_a_class_and_an_empty_part_counts_as_missing(images):
    root = images("train/cat/1.png", "train/dog/1.png", "val/cat/2.png")
    (root / "test").mkdir()
    (root / "val/dog").mkdir()
    dataset = scan(root)
    assert dataset.classes == ("cat", "dog")
    assert {s.part for s in dataset.samples} == {"train", "val"}


def test_junk_is_left_out_without_a_word(images):
    root = images("cat/1.png", "dog/1.png", "cat/.hidden.png", ".git/1.png", "cat/.cache/1.png", "cat/._1.png")
    images("__MACOSX/cat/1.png", "dog/@eaDir/1.png", ".ipynb_checkpoints/1.png")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "cat/.DS_Store", "dog/Thumbs.db", "dog/THUMBS.DB"):
        (root / name).write_bytes(b"junk")
    (root / "cat/empty/emptier").mkdir(parents=True)
    dataset = scan(root)
    assert paths(dataset) == ["cat/1.png", "dog/1.png"]
    assert (dataset.bad, dataset.ignored, dataset.notes) == ((), (), ())


def test_what_is_no_image_by_its_ending_is_listed(images):
    root = images("cat/1.png", "dog/1.png")
    for name in ("README.md", "cat/notes.txt", "dog/video.mp4", "dog/noending"):
        (root / name).write_text("text")
    assert scan(root).ignored == ("README.md", "cat/notes.txt", "dog/noending", "dog/video.mp4")


def test_images_outside_the_classes_are_listed_and_noted(images):
    dataset = scan(images("cat/1.png", "dog/1.png", "loose.png", "b.png"))
    assert paths(dataset) == ["cat/1.png", "dog/1.png"]
    assert dataset.ignored == ("b.png", "loose.png")
    assert dataset.notes == ("2 images outside any class folder left out, for example b.png.",)


def test_images_beside_the_parts_are_listed_and_noted(images):
    dataset = scan(images("train/cat/1.png", "train/dog/1.png", "test/1.png", "extra/deep/1.png"))
    assert paths(dataset) == ["train/cat/1.png", "train/dog/1.png"]
    assert dataset.ignored == ("extra/deep/1.png", "test/1.png")
    assert dataset.notes == ("2 images outside any class folder left out, for example extra/deep/1.png.",)


def test_folders_within_a_class_belong_to_it_and_are_noted(images):
    dataset = scan(images("cat/1.png", "cat/indoor/night/2.png", "dog/1.png"))
    assert labels_of(dataset) == {"cat/1.png": "cat", "cat/indoor/night/2.png": "cat", "dog/1.png": "dog"}
    assert dataset.notes == ("1 image in folders within a class folder, for example cat/indoor/night/2.png.",)
    parts = scan(images("parts/train/cat/a/1.png", "parts/train/dog/1.png") / "parts")
    assert parts.notes == ("1 image in folders within a class folder, for example train/cat/a/1.png.",)


def test_a_folder_name_loses_blanks_around_it_as_a_manifest_does(images):
    dataset = scan(images("cat /1.png", "dog/1.png"))
    assert dataset.classes == ("cat", "dog")
    assert paths(dataset) == ["cat /1.png", "dog/1.png"]


def test_folders_that_differ_in_blanks_alone_are_not_made_one_without_a_word(images):
    dataset = scan(images("cat /1.png", "cat/2.png", "dog/1.png"))
    assert dataset.classes == ("cat", "cat ", "dog")
    assert dataset.notes == ("The classes 'cat' and 'cat ' differ only in how they are spelled.",)
    assert "class_names" in {finding.kind for finding in audit(dataset)}
    parts = scan(images("p/train/cat /1.png", "p/train/dog/1.png", "p/val/cat/2.png") / "p")
    assert parts.classes == ("cat", "dog")


def png_of(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.fixture
def damaged(images) -> Path:
    root = images("cat/1.png", "cat/2.png", "dog/1.png")
    whole = (root / "cat/2.png").read_bytes()
    (root / "cat/2.png").write_bytes(whole[: len(whole) // 2])
    (root / "cat/bomb.png").write_bytes(png_of(60_000, 60_000))
    (root / "dog/empty.jpg").touch()
    (root / "dog/letter.jpg").write_text("Dear Sir")
    (root / "dog/lost.png").symlink_to(root / "nowhere.png")
    return root


def test_unreadable_images_are_left_out_with_their_reason(damaged):
    dataset = scan(damaged)
    assert paths(dataset) == ["cat/1.png", "dog/1.png"]
    reasons = {bad.path: bad.reason for bad in dataset.bad}
    assert list(reasons) == ["cat/2.png", "cat/bomb.png", "dog/empty.jpg", "dog/letter.jpg", "dog/lost.png"]
    assert reasons["cat/2.png"].startswith("cannot be decoded: ")
    assert "pixels" in reasons["cat/bomb.png"]
    assert reasons["dog/empty.jpg"] == "empty file"
    assert reasons["dog/letter.jpg"].startswith("not an image that can be read (JPEG")
    assert reasons["dog/lost.png"] == "no such file or directory"


def test_on_bad_error_names_them_all(damaged):
    with pytest.raises(DataError) as error:
        scan(damaged, on_bad="error")
    lines = str(error.value).splitlines()
    assert lines[0] == "5 images cannot be read:"
    assert [line.strip().split(": ")[0] for line in lines[1:]] == [
        "cat/2.png",
        "cat/bomb.png",
        "dog/empty.jpg",
        "dog/letter.jpg",
        "dog/lost.png",
    ]
    for number in range(8):
        (damaged / f"cat/none{number}.png").touch()
    with pytest.raises(DataError, match="and 3 more"):
        scan(damaged, on_bad="error")


def test_on_bad_error_says_nothing_of_good_images(images):
    assert len(scan(images("cat/1.png", "dog/1.png"), on_bad="error")) == 2


def test_on_bad_is_one_of_two_words(images):
    with pytest.raises(UsageError, match="on_bad='ignore'; expected skip or error"):
        scan(images("cat/1.png", "dog/1.png"), on_bad="ignore")  # type: ignore[arg-type]  # what is tested


def test_larger_images_than_allowed_are_unreadable(images):
    root = images("cat/1.png", "dog/1.png")
    Image.new("RGB", (20, 10)).save(root / "dog/large.png")
    dataset = scan(root, max_pixels=150)
    assert [(bad.path, bad.reason) for bad in dataset.bad] == [
        ("dog/large.png", "20 x 10 pixels, more than 150 allowed")
    ]
    assert dataset.max_pixels == 150
    assert scan(root, max_pixels=200).bad == ()


def message_of(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        scan(path, **options)
    message = str(error.value)
    assert str(path) in message
    return message


def test_a_missing_path_and_a_wrong_file(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere does not exist\. Expected a folder of labelled images, a zip"):
        scan(tmp_path / "nowhere")
    (tmp_path / "a.txt").touch()
    with pytest.raises(UsageError, match=r"a\.txt is a file\. Expected a folder of labelled images, a zip"):
        scan(tmp_path / "a.txt")


def test_no_class(images):
    assert "has no class: no folder with images. Expected root/<class>/*.jpg" in message_of(images())
    assert "has no class: no folder with images" in message_of(images("1.png", "2.png"))


def test_one_class(images):
    assert "has one class, 'cat'; a classifier needs at least two." in message_of(images("cat/1.png"))
    message = message_of(images("parts/train/cat/1.png", "parts/val/cat/1.png") / "parts")
    assert "has one class in train, 'cat'; a classifier needs at least two." in message


def test_one_folder_too_high(images):
    root = images("pets/cat/1.png", "pets/dog/1.png")
    assert f"Did you mean {root / 'pets'}? It holds cat, dog." in message_of(root)


def test_an_empty_class(images):
    root = images("cat/1.png", "dog/1.png")
    (root / "bird").mkdir()
    (root / "ant").mkdir()
    (root / "ant/notes.txt").write_text("no image")
    message = message_of(root)
    assert "2 classes without a readable image: ant, bird. Add images or remove the class." in message


def test_an_empty_class_in_train(images):
    root = images("train/cat/1.png", "train/dog/1.png", "val/bird/1.png")
    (root / "train/bird").mkdir()
    assert "1 class without a readable image in train: bird." in message_of(root)


def test_a_class_of_unreadable_images_says_why(images):
    root = images("cat/1.png", "dog/1.png")
    (root / "dog/1.png").write_bytes(b"")
    message = message_of(root)
    assert "1 class without a readable image: dog." in message
    assert message.endswith("1 image cannot be read:\n  dog/1.png: empty file")


def test_a_class_that_train_does_not_have(images):
    root = images("train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "test/bird/1.png", "test/ant/1.png")
    message = message_of(root)
    assert "test has 2 classes that train does not have: ant, bird. A model cannot predict a class" in message
    assert "val has" not in message


@pytest.mark.parametrize("train", [None, "empty", "flat"])
def test_parts_without_train(images, train):
    root = images("val/cat/1.png", "val/dog/1.png", "test/cat/1.png")
    if train:
        (root / "train").mkdir()
    if train == "flat":
        images("train/1.png")
    message = message_of(root)
    assert "has val, test but no classes in train. Expected at least train/<class>/" in message


def test_two_folders_for_one_part(images):
    root = images("train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "Validation/cat/1.png")
    message = message_of(root)
    assert "several folders for one part: Validation, val. Keep one of them." in message


def test_many_names_are_cut_short(images):
    root = images("cat/1.png", "dog/1.png")
    for number in range(14):
        (root / f"empty{number:02d}").mkdir()
    message = message_of(root)
    assert "14 classes without a readable image: empty00, " in message
    assert "empty09, and 4 more" in message
    assert "empty10" not in message


def test_an_unreadable_folder_is_an_error(images, monkeypatch):
    root = images("cat/1.png", "cat/locked/1.png", "dog/1.png")
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if os.fspath(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"locked: permission denied\. Expected a folder that you may read"):
        scan(root)


def test_an_unreadable_file_is_a_bad_image(images, monkeypatch):
    root = images("cat/1.png", "cat/2.png", "dog/1.png")
    read_bytes = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "2.png":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert [(bad.path, bad.reason) for bad in scan(root).bad] == [("cat/2.png", "permission denied")]


@pytest.mark.parametrize("target", ["data/cat", "data", "."])
def test_a_link_to_a_folder_above_is_not_followed(images, tmp_path, target):
    root = images("cat/1.png", "dog/1.png")
    (root / "cat/above").symlink_to(tmp_path / target)
    assert labels_of(scan(root)) == {"cat/1.png": "cat", "dog/1.png": "dog"}


def test_a_folder_that_is_linked_twice_within_a_class_counts_once(images, tmp_path):
    root = images("cat/1.png", "dog/1.png", "dog/deep/2.png")
    (root / "dog/again").symlink_to(root / "dog/deep")
    assert len(scan(root)) == 3


def test_links_are_followed(images, tmp_path):
    root = images("cat/1.png", "dog/1.png")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "more").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(elsewhere / "more/3.png")
    (root / "bird").symlink_to(elsewhere)
    (root / "cat/2.png").symlink_to(root / "dog/1.png")
    (root / "knot").symlink_to(root / "knot")
    dataset = scan(root)
    assert labels_of(dataset) == {
        "bird/more/3.png": "bird",
        "cat/1.png": "cat",
        "cat/2.png": "cat",
        "dog/1.png": "dog",
    }


def test_a_name_that_is_not_utf_8_is_an_error(images):
    root = images("cat/1.png", "dog/1.png")
    name = os.fsencode(root / "cat") + b"/caf\xe9.png"
    try:
        with open(name, "wb") as file:
            file.write((root / "cat/1.png").read_bytes())
    except OSError:  # this file system takes no such name, so no scan can meet one
        return
    with pytest.raises(DataError, match=r"caf\\xe9\.png' has a name that is not UTF-8"):
        scan(root)


def test_copies_leaks_and_conflicts_are_noted(images):
    root = images("train/cat/1.png", "train/dog/1.png", "val/cat/2.png", "val/dog/2.png")

    def copy(source: str, *targets: str) -> None:
        for target in targets:
            (root / target).write_bytes((root / source).read_bytes())

    copy("train/cat/1.png", "train/cat/copy.png", "val/cat/leak.png")
    copy("train/dog/1.png", "train/dog/copy.png", "train/cat/wrong.png")
    dataset = scan(root)
    assert dataset.notes == (
        "4 exact duplicates of other images.",
        "1 picture is in more than one part (a leak), for example train/cat/1.png and val/cat/leak.png.",
        "1 picture has more than one label (copies or near duplicates), "
        "for example train/cat/wrong.png and train/dog/1.png.",
        "`regraft inspect` shows them.",
    )
    assert len(dataset) == 8  # noted, not removed


def manifest(root: Path, lines: Iterable[str], name: str = "manifest.csv") -> Path:
    file = root / name
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_a_manifest_with_all_columns(images, tmp_path):
    root = images("x/1.png", "x/2.png", "x/3.png")
    outside = tmp_path / "outside.png"
    outside.write_bytes((root / "x/1.png").read_bytes())
    file = manifest(
        root,
        [
            "path,label,split,group",
            "x/2.png,dog,train,g1",
            f"{outside.as_posix()},cat,train,",
            "x\\1.png, cat ,Valid,g2",
            "../data/x/3.png,dog,test,",
        ],
    )
    dataset = scan(file)
    assert dataset.root == root
    assert dataset.classes == ("cat", "dog")
    assert [(s.path, s.label, s.part, s.group) for s in dataset.samples] == [
        ("../data/x/3.png", "dog", "test", None),
        (outside.as_posix(), "cat", "train", None),
        ("x/1.png", "cat", "val", "g2"),
        ("x/2.png", "dog", "train", "g1"),
    ]
    for sample in dataset.samples:
        assert decode_image(dataset.source(sample)).shape == (9, 8, 3)


def test_a_manifest_elsewhere_has_a_root(images, tmp_path):
    root = images("x/1.png", "x/2.png")
    file = manifest(tmp_path, ["path,label", "x/1.png,cat", "x\\2.png,dog"])
    dataset = scan(file, root=root)
    assert dataset.root == root
    assert paths(dataset) == ["x/1.png", "x/2.png"]
    assert "2 classes without a readable image" in message_of(file)


def test_a_folder_is_its_own_root(images, tmp_path):
    with pytest.raises(UsageError, match="is a folder and its own root"):
        scan(images("cat/1.png", "dog/1.png"), root=tmp_path)


def test_missing_images_of_a_manifest_are_bad(images):
    root = images("1.png", "2.png")
    lines = ["path,label", "1.png,cat", "2.png,dog", "3.png,cat", ".,dog", "a\0b.png,dog"]
    dataset = scan(manifest(root, lines))
    assert {bad.path: bad.reason for bad in dataset.bad} == {
        "3.png": "no such file or directory",
        ".": "is a directory",
        "a\0b.png": "embedded null byte",
    }
    with pytest.raises(DataError, match=r"3\.png: no such file or directory"):
        scan(manifest(root, lines), on_bad="error")


def test_a_manifest_splits_all_rows_or_none(images):
    file = manifest(images("1.png", "2.png"), ["path,label,split", "1.png,cat,train", "2.png,dog,"])
    assert "some rows have a split and some have none. Fill the column for all or for none." in message_of(file)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["1.png,cat,val", "2.png,dog,test"], "has val, test but no classes in train"),
        (["1.png,cat,train", "2.png,cat,val"], "has one class in train, 'cat'"),
        (["1.png,cat,train", "2.png,dog,val"], "val has 1 class that train does not have: dog"),
        (
            ["1.png,cat,train", "missing.png,dog,train", "2.png,dog,val"],
            "1 class without a readable image in train: dog",
        ),
    ],
)
def test_classes_of_a_manifest(images, lines, expected):
    assert expected in message_of(manifest(images("1.png", "2.png"), ["path,label,split", *lines]))


def test_the_classes_of_a_model_keep_their_order_and_need_not_all_be_there(images):
    root = images("dog/1.png", "dog/2.png")
    dataset = scan(root, classes=("eel", "dog", "cat"))
    assert dataset.classes == ("eel", "dog", "cat")
    assert dataset.labels.tolist() == [1, 1]


def test_classes_that_a_model_does_not_know(images):
    root = images("dog/1.png", "ant/1.png", "bee/1.png")
    message = message_of(root, classes=("cat", "dog"))
    assert "has 2 classes that the model does not know: ant, bee. It knows cat, dog." in message


def test_no_image_of_the_classes_of_a_model(images):
    root = images()
    (root / "cat").mkdir()
    (root / "cat/1.png").touch()
    message = message_of(root, classes=("cat", "dog"))
    assert "has no image of cat, dog. Expected root/<class>/*.jpg, or a manifest." in message
    assert "cat/1.png: empty file" in message


def test_progress_counts_every_file(images):
    root = images("cat/1.png", "cat/2.png", "dog/1.png")
    (root / "dog/2.png").touch()
    calls: list[tuple[int, int]] = []
    scan(root, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_interrupt_stops_the_pool(images, monkeypatch):
    root = images(*(f"{name}/{i:03d}.png" for name in ("cat", "dog") for i in range(60)))
    first = (root / "cat/000.png").read_bytes()
    read: list[bytes] = []
    stopped = threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            stopped.set()
            super().shutdown(wait=wait)

    def examine(data: bytes, **options: Any) -> tuple[int, int]:
        read.append(data)
        if data != first:
            stopped.wait(10)
        return examine_image(data, **options)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reading, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(examiners, "examine_image", examine)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        scan(root, workers=2, progress=interrupt)
    assert len(read) <= 3
    assert threading.active_count() == before


def test_find_images(images):
    root = images("b/2.png", "a/1.JPG", ".hidden/3.png", "4.png")
    (root / "a/notes.txt").touch()
    (root / "Thumbs.db").touch()
    found, others = find_images(root)
    assert found == [root / "4.png", root / "a/1.JPG", root / "b/2.png"]
    assert others == [root / "a/notes.txt"]
    with pytest.raises(FileNotFoundError):
        find_images(root / "nowhere")


def test_what_was_readable_once_is_not_decoded_again(images, tmp_path, monkeypatch):
    root = images("a/1.png", "b/2.png")
    (root / "b/bad.png").write_bytes(b"none")
    store = Store(tmp_path / "store")
    first = scan(root, store=store)
    examined: list[bytes] = []

    def examine(data: bytes, **options: Any) -> tuple[int, int]:
        examined.append(data)
        return examine_image(data, **options)

    monkeypatch.setattr(examiners, "examine_image", examine)
    assert scan(root, store=store) == first
    assert examined == [b"none"]
    (root / "a/1.png").write_bytes((root / "a/1.png").read_bytes()[:40])  # other content is another image
    with pytest.raises(DataError, match="a"):
        scan(root, store=store)
