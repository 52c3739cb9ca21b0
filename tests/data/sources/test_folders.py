import pytest

from regraft.data.dataset import Dataset
from regraft.data.quality.findings import audit
from regraft.data.scan import scan
from regraft.data.sources.folders import find_images, similar_names
from regraft.errors import DataError, UsageError


def paths(dataset: Dataset) -> list[str]:
    return [sample.path for sample in dataset.samples]


def labels_of(dataset: Dataset) -> dict[str, str]:
    return {sample.path: sample.label for sample in dataset.samples}


def test_find_images(images):
    root = images("b/2.png", "a/1.JPG", ".hidden/3.png", "4.png")
    (root / "a/notes.txt").touch()
    (root / "Thumbs.db").touch()
    found, others = find_images(root)
    assert found == [root / "4.png", root / "a/1.JPG", root / "b/2.png"]
    assert others == [root / "a/notes.txt", root / "Thumbs.db"]
    with pytest.raises(FileNotFoundError):
        find_images(root / "nowhere")


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


def test_a_class_may_be_called_train_if_asked_for(images):
    dataset = scan(images("train/1.png", "plane/1.png", "test/1.png"), layout="classes")
    assert dataset.classes == ("plane", "test", "train")
    assert {s.part for s in dataset.samples} == {None}


def test_a_class_may_be_called_test_within_parts_if_asked_for(images):
    dataset = scan(images("train/test/1.png", "train/train/1.png", "val/test/2.png"), layout="parts")
    assert dataset.classes == ("test", "train")
    assert [(s.path, s.part) for s in dataset.samples if s.label == "test"] == [
        ("train/test/1.png", "train"),
        ("val/test/2.png", "val"),
    ]


def test_hidden_and_system_files_are_said_once(images):
    root = images("cat/1.png", "dog/1.png", "cat/.hidden.png", ".git/1.png", "cat/.cache/1.png", "cat/._1.png")
    images("__MACOSX/cat/1.png", "dog/@eaDir/1.png", ".ipynb_checkpoints/1.png")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "cat/.DS_Store", "dog/Thumbs.db", "dog/THUMBS.DB"):
        (root / name).write_bytes(b"junk")
    (root / "cat/empty/emptier").mkdir(parents=True)
    dataset = scan(root)
    assert paths(dataset) == ["cat/1.png", "dog/1.png"]
    assert dataset.bad == ()
    assert dataset.ignored == (
        "cat/.DS_Store", "cat/._1.png", "cat/.hidden.png", "dog/THUMBS.DB", "dog/Thumbs.db",
    )  # fmt: skip
    assert dataset.notes == ("Hidden and system files: 5 files ignored, such as cat/.DS_Store.",)


def test_what_is_no_image_by_its_ending_is_listed(images):
    root = images("cat/1.png", "dog/1.png")
    for name in ("README.md", "cat/notes.txt", "dog/video.mp4", "dog/noending"):
        (root / name).write_text("text")
    dataset = scan(root)
    assert dataset.ignored == ("README.md", "cat/notes.txt", "dog/noending", "dog/video.mp4")
    assert dataset.notes == (
        "No extension: 1 file ignored, such as dog/noending, which is a text file.",
        ".md: 1 file ignored, such as README.md.",
        ".mp4: 1 file ignored, such as dog/video.mp4. Extract the frames of videos.",
        ".txt: 1 file ignored, such as cat/notes.txt.",
    )


def test_images_outside_the_classes_are_listed_and_noted(images):
    dataset = scan(images("cat/1.png", "dog/1.png", "loose.png", "b.png"))
    assert paths(dataset) == ["cat/1.png", "dog/1.png"]
    assert dataset.ignored == ("b.png", "loose.png")
    assert dataset.notes == ("2 images outside any class folder ignored, for example b.png.",)


def test_images_beside_the_parts_are_listed_and_noted(images):
    dataset = scan(images("train/cat/1.png", "train/dog/1.png", "test/1.png", "extra/deep/1.png"))
    assert paths(dataset) == ["train/cat/1.png", "train/dog/1.png"]
    assert dataset.ignored == ("extra/deep/1.png", "test/1.png")
    assert dataset.notes == (
        "1 image in test without class folders or labels ignored, for example test/1.png.",
        "1 image outside any class folder ignored, for example extra/deep/1.png.",
    )


def test_folders_within_a_class_belong_to_it_and_are_noted(images):
    dataset = scan(images("cat/1.png", "cat/indoor/night/2.png", "dog/1.png"))
    assert labels_of(dataset) == {"cat/1.png": "cat", "cat/indoor/night/2.png": "cat", "dog/1.png": "dog"}
    assert dataset.notes == ("1 image in folders inside a class folder, for example cat/indoor/night/2.png.",)
    parts = scan(images("parts/train/cat/a/1.png", "parts/train/dog/1.png") / "parts")
    assert parts.notes == ("1 image in folders inside a class folder, for example train/cat/a/1.png.",)


def test_where_most_images_are_in_inner_folders_the_tree_is_named(images):
    notes = scan(images("cat/lion/1.png", "cat/tiger/2.png", "dog/1.png")).notes
    assert any(note.endswith("--layout tree.") for note in notes)


def test_names_that_differ_in_a_sign_are_not_similar():
    assert similar_names(["-1", "0", "1"]) == []
    assert similar_names(["-0.5", "\u22120.5", "0.5"]) == [["-0.5", "\u22120.5"]]
    assert similar_names(["cat-1", "cat 1", "-cat", "cat"]) == [["cat-1", "cat 1"], ["-cat", "cat"]]


def test_copies_in_several_classes_name_the_task(images):
    root = images("cat/1.png", "cat/2.png", "dog/3.png")
    for name in ("1.png", "2.png"):
        (root / "dog" / name).write_bytes((root / "cat" / name).read_bytes())
    assert "2 pictures are in several classes. If an image may have several, use --task multilabel." in scan(root).notes


def test_a_folder_name_loses_blanks_around_it_as_a_manifest_does(images):
    dataset = scan(images("cat /1.png", "dog/1.png"))
    assert dataset.classes == ("cat", "dog")
    assert paths(dataset) == ["cat /1.png", "dog/1.png"]


def test_folders_that_differ_in_blanks_alone_are_not_made_one_without_a_word(images):
    dataset = scan(images("cat /1.png", "cat/2.png", "dog/1.png"))
    assert dataset.classes == ("cat", "cat ", "dog")
    assert dataset.notes == ("The classes 'cat' and 'cat ' differ only in spelling.",)
    assert "class_names" in {finding.kind for finding in audit(dataset)}
    parts = scan(images("p/train/cat /1.png", "p/train/dog/1.png", "p/val/cat/2.png") / "p")
    assert parts.classes == ("cat", "dog")


def test_layout_parts_needs_a_folder_of_a_part(images):
    with pytest.raises(DataError, match="has no folder of a part"):
        scan(images("cat/1.png", "dog/1.png"), layout="parts")
    with pytest.raises(UsageError, match="layout='part'; expected auto, classes, parts"):
        scan(images("cat/1.png"), layout="part")


def test_what_this_package_wrote_is_no_data(images):
    root = images(
        "cat/1.png", "dog/1.png", "runs/r/plots/1.png", "runs/r-2/plots/1.png", "cat/e/1.png", "onnx/golden/1.png"
    )
    for file in ("runs/r/config.toml", "runs/r/source.json", "runs/r-2/model.json", "runs/r-2/class_names.json",
                 "runs/notes.txt", "cat/e/explanations.json", "onnx/export.json", "onnx/predict.py"):  # fmt: skip
        (root / file).write_text("{}")
    dataset = scan(root)
    assert paths(dataset) == ["cat/1.png", "dog/1.png"]
    assert dataset.ignored == ()
    assert dataset.notes == ("Written by regraft and not read as data: cat/e, onnx, runs.",)


def test_a_folder_of_runs_with_images_of_its_own_is_a_class(images):
    root = images("cat/1.png", "runs/1.png", "runs/r/plots/1.png")
    (root / "runs/r/config.toml").touch()
    (root / "runs/r/source.json").touch()
    assert paths(scan(root)) == ["cat/1.png", "runs/1.png"]


def test_a_run_is_no_data(images):
    root = images("run/plots/1.png", "run/explanations/1.png") / "run"
    (root / "config.toml").touch()
    (root / "source.json").touch()
    for folder in (root, root.parent):
        with pytest.raises(UsageError, match="was written by regraft, such as a run, and is not data"):
            scan(folder)
