import hashlib
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regraft.data.dataset import Dataset
from regraft.data.decode import decode_image
from regraft.data.scan import scan
from regraft.errors import DataError, UsageError

WriteImages = Callable[..., Path]


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


def test_val_may_lack_a_class_and_an_empty_part_counts_as_missing(images):
    root = images("train/cat/1.png", "train/dog/1.png", "val/cat/2.png")
    (root / "test").mkdir()
    (root / "val/dog").mkdir()
    dataset = scan(root)
    assert dataset.classes == ("cat", "dog")
    assert {s.part for s in dataset.samples} == {"train", "val"}


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
    assert reasons["dog/letter.jpg"].startswith("not an image that can be read: a text file")
    assert reasons["dog/lost.png"] == "no such file or directory"


def test_a_folder_of_photos_of_phones(tmp_path):
    """All of it is read, in its upright size."""
    fixtures = Path(__file__).parents[1] / "fixtures"
    files = ["heic/plain.heic", "heic/irot_and_exif.heic", "jpeg_xl/plain.jxl", "jpeg_xl/turned.jxl"]
    for file in files:
        (tmp_path / Path(file).parent.name).mkdir(exist_ok=True)
        shutil.copy(fixtures / file, tmp_path / file)
    dataset = scan(tmp_path)
    assert (dataset.bad, len(dataset), dataset.classes) == ((), 4, ("heic", "jpeg_xl"))
    assert [sample.size for sample in dataset.samples] == [(24, 32), (32, 24), (40, 24), (24, 40)]


def test_on_unreadable_error_names_them_all(damaged):
    with pytest.raises(DataError) as error:
        scan(damaged, on_unreadable="error")
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
        scan(damaged, on_unreadable="error")


def test_on_unreadable_error_says_nothing_of_good_images(images):
    assert len(scan(images("cat/1.png", "dog/1.png"), on_unreadable="error")) == 2


def test_on_unreadable_is_one_of_two_words(images):
    with pytest.raises(UsageError, match="on_unreadable='ignore'; expected skip or error"):
        scan(images("cat/1.png", "dog/1.png"), on_unreadable="ignore")  # type: ignore[arg-type]  # what is tested


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
    with pytest.raises(UsageError, match=r"nowhere does not exist\. Expected a folder of labeled images, a zip"):
        scan(tmp_path / "nowhere")
    (tmp_path / "a.txt").touch()
    with pytest.raises(UsageError, match=r"a\.txt is a file\. Expected a folder of labeled images, a zip"):
        scan(tmp_path / "a.txt")


def test_no_class(images):
    assert "has no classes: no folder with images. Expected root/<class>/*.jpg" in message_of(images())
    assert "has no classes: no folder with images" in message_of(images("1.png", "2.png"))


def test_one_class(images):
    assert "has one class, 'cat'; a classifier needs at least two." in message_of(images("cat/1.png"))
    message = message_of(images("parts/train/cat/1.png", "parts/val/cat/1.png") / "parts")
    assert "has one class in train, 'cat'; a classifier needs at least two." in message


def test_one_folder_too_high(images):
    root = images("pets/cat/1.png", "pets/dog/1.png")
    assert f"Did you mean {root / 'pets'}? It contains cat, dog." in message_of(root)


def test_one_folder_too_low(images, monkeypatch):
    root = images("cat/1.png", "dog/1.png", "dog/inner/2.png", "notes/x.png")
    (root / "notes/x.png").rename(root / "notes/x.txt")
    assert message_of(root / "cat").endswith(f"Did you mean {root}? It contains cat, dog.")
    monkeypatch.chdir(root / "cat")
    assert message_of(".").endswith("Did you mean ..? It contains cat, dog.")
    monkeypatch.chdir(root)
    assert message_of(Path("cat")).endswith("Did you mean . (the current folder)? It contains cat, dog.")
    assert "Did you mean" not in message_of(images("deep/bird/images/1.png") / "deep/bird")
    root = images("deep/fish/images/1.png") / "deep"
    assert f"Did you mean {root}? It contains bird, fish." in message_of(root / "fish")


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


def test_where_there_is_no_image_other_files_are_named(images):
    root = images("cat/1.png", "dog/1.png")
    for label in ("cat", "dog"):
        (root / label / "1.png").rename(root / label / "IM01")
    message = message_of(root)
    assert "2 classes without a readable image: cat, dog." in message
    assert "No extension: 2 files ignored, such as cat/IM01, which is a PNG image. Rename such files" in message


def test_one_reason_is_said_once(images):
    root = images("cat/1.png", "dog/1.png", "dog/2.png", "dog/3.png", "dog/4.png")
    for number in (1, 2, 3):
        (root / f"dog/{number}.png").write_bytes(b"")
    with pytest.raises(DataError) as error:
        scan(root, on_unreadable="error")
    assert str(error.value).endswith("3 images cannot be read, such as dog/1.png: empty file")


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


@pytest.mark.parametrize("train", [None, "empty"])
def test_parts_without_train(images, train):
    root = images("val/cat/1.png", "val/dog/1.png", "test/cat/1.png")
    if train:
        (root / "train").mkdir()
    message = message_of(root)
    assert "has val, test but no classes in train. Expected at least train/<class>/" in message
    assert "train has 1 image but neither class folders nor a table" in message_of(images("train/1.png"))


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
    (tmp_path / "elsewhere").mkdir()
    file = manifest(tmp_path / "elsewhere", ["path,label", "x/1.png,cat", "x\\2.png,dog"])
    dataset = scan(file, root=root)
    assert dataset.root == root
    assert paths(dataset) == ["x/1.png", "x/2.png"]
    assert "2 classes without a readable image" in message_of(file)


def test_a_folder_is_its_own_root(images, tmp_path):
    with pytest.raises(UsageError, match="is not a manifest and is its own root"):
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
        scan(manifest(root, lines), on_unreadable="error")


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
    assert "has 2 classes that the model does not know: ant, bee. Its classes are cat, dog." in message


def test_no_image_of_the_classes_of_a_model(images):
    root = images()
    (root / "cat").mkdir()
    (root / "cat/1.png").touch()
    message = message_of(root, classes=("cat", "dog"))
    assert "has no image of cat, dog. Expected <class>/*.jpg, or a manifest." in message
    assert "cat/1.png: empty file" in message


def write_wide(root, values, suffix="png"):
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for i, value in enumerate(values):
            gray = np.random.default_rng(i).integers(0, value + 1, (9, 8)).astype(np.uint16)
            gray[0, 0] = value
            Image.fromarray(gray).save(root / label / f"{i}.{suffix}")
    return root


def test_one_range_for_all_images_of_more_than_eight_bits(tmp_path):
    dataset = scan(write_wide(tmp_path / "data", [900, 3900]))
    (black, white), floats = dataset.value_range
    assert 0 < black < 100 < 3800 < white < 3900
    assert floats == (0, 0)
    assert dataset.notes[0] == "4 images have more than 8 bits (integers in the range 0 to 3,900)."
    assert [s.image_stats.largest for s in dataset.samples] == [900, 3900] * 2
    (sentence,) = dataset.describe_values(dataset.value_range)
    assert sentence.startswith("Images of more than 8 bits (integers): ")
    assert dataset.describe_values(((0, 65535), (0, 0)))[0].endswith("0 and less becomes black, 65,535 and more white.")
    assert "of 8 bits" not in "".join(dataset.notes)


def test_training_images_alone_decide_the_range(tmp_path):
    for part, value in (("train", 900), ("val", 3900), ("test", 60000)):
        write_wide(tmp_path / part, [value, value])
    dataset = scan(tmp_path)
    assert 800 < dataset.value_range[0][1] < 900
    table = dataset.table
    held_out = dataset.with_samples(table.take(table.parts > 0))
    assert held_out.value_range[0][1] > 3900, "without training images, all decide"


def test_images_of_eight_bits_beside_others_are_said(tmp_path, png):
    root = write_wide(tmp_path / "data", [900])
    (root / "cat" / "plain.png").write_bytes(png("plain"))
    dataset = scan(root)
    assert dataset.notes[1] == "1 image of 8 bits is not scaled as the others."
    assert scan(write_wide(tmp_path / "black", [0, 0], "png")).value_range == ((0, 0), (0, 0))


def test_values_that_mean_no_colors_are_named(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        Image.fromarray(np.array([[-1000, 2000]], np.int32)).save(tmp_path / label / "1.tif")
    with pytest.raises(DataError, match="values in the range -1000 to 2000"):
        scan(tmp_path)


def test_pages_and_frames_are_noted(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        pages = [Image.fromarray(np.full((9, 8), 80 * i, np.uint8)) for i in range(3)]
        for suffix in ("tif", "gif", "webp", "png", "avif"):
            pages[0].save(tmp_path / label / f"1.{suffix}", save_all=True, append_images=pages[1:])
        pages[0].convert("RGB").save(tmp_path / label / "phone.mpo", save_all=True, append_images=pages[1:2])
    dataset = scan(tmp_path)
    assert "10 images have several frames or pages; only the first is used." in dataset.notes
    assert {s.image_stats.frames for s in dataset.samples if not s.path.endswith("mpo")} == {3}


def test_an_image_in_several_class_folders_has_all_their_labels(tmp_path, png):
    for name, content in (("cat/1.png", "a"), ("dog/1.png", "a"), ("dog/2.png", "b"), ("cat/3.png", "c")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(content))
    dataset = scan(tmp_path, task="multilabel")
    assert [(s.path, s.label) for s in dataset.samples] == [
        ("cat/1.png", "cat|dog"), ("cat/3.png", "cat"), ("dog/2.png", "dog"),
    ]  # fmt: skip
    assert dataset.task == "multilabel"
    assert dataset.ignored == ("dog/1.png",)
    assert any("1 file is a copy of another, such as dog/1.png" in note for note in dataset.notes)
    assert scan(tmp_path).task == "classification"
    with pytest.raises(UsageError, match="has no table with labels"):
        scan(tmp_path, label_separator="|")


def test_copies_in_several_parts_stay_in_them(tmp_path, png):
    for name, content in (("train/cat/1.png", "a"), ("train/dog/1.png", "a"), ("val/dog/1.png", "a")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(content))
    dataset = scan(tmp_path, task="multilabel")
    assert [(s.part, s.label) for s in dataset.samples] == [("train", "cat|dog"), ("val", "dog")]
