"""Annotations of COCO, Label Studio and CVAT give images the classes of their boxes, choices and tags."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from regraft.data.scan import scan
from regraft.errors import DataError, UsageError

Encoded = Callable[[str], bytes]


def coco(images: Mapping[str, list[str]], *more: str) -> str:
    """COCO's JSON of images and the classes of their boxes; `more` classes have no box."""
    names = [*dict.fromkeys(name for found in images.values() for name in found), *more]
    pairs = [(number, name) for number, found in enumerate(images.values()) for name in found]
    return json.dumps({
        "images": [{"id": number, "file_name": file} for number, file in enumerate(images)],
        "annotations": [{"id": i, "image_id": number, "category_id": names.index(name) + 1, "bbox": [0, 0, 1, 1],
                         "segmentation": [[1, 2, 3]]} for i, (number, name) in enumerate(pairs)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
    })  # fmt: skip


def task(file: str, *results: dict[str, Any], **annotation: Any) -> dict[str, Any]:
    """A task of Label Studio with one annotation."""
    return {"data": {"image": file}, "annotations": [{"result": [{"value": value} for value in results], **annotation}]}


CVAT = """<?xml version="1.0"?><annotations><version>1.1</version><meta><labels><label><name>cat</name></label>
<label><name>dog</name></label><label><name>cow</name></label></labels></meta>
<image id="0" name="a.jpg" width="9" height="9"><box label="cat" xtl="0"/><box label="cat"/><polygon label="dog"/>
</image>
<image id="1" name="sub/b.jpg"><tag label="dog"><attribute name="x">1</attribute></tag></image>
<image id="2" name="c.jpg"></image></annotations>"""

LABEL_STUDIO = [
    task("/data/upload/1/0123abcd-a.jpg", {"choices": ["cat"]}, {"x": 1, "rectanglelabels": ["dog"]}),
    task("/data/local-files/?d=sub/b.jpg", {"choices": ["dog"]}),
    task("/data/upload/1/c.jpg"),
    {"data": {"image": "/data/upload/1/d.jpg"}, "annotations": []},
]
MIN = [
    {"image": "/data/upload/1/0123abcd-a.jpg", "id": 1, "choice": {"choices": ["cat", "dog"]}, "annotator": 1},
    {"image": "/data/upload/1/b.jpg", "id": 2, "choice": "dog", "annotator": 1},
    {"image": "c.jpg", "id": 3, "choice": {"choices": []}, "annotator": 1},
]
THREE = {"a.jpg": ["cat", "dog", "dog"], "sub/b.jpg": ["dog"], "c.jpg": []}
LABELS = {"a.jpg": "cat|dog", "sub/b.jpg": "dog", "c.jpg": ""}


@pytest.fixture
def folder(tmp_path: Path, png: Encoded) -> Callable[..., Path]:
    """Writes images and texts, and returns their folder."""

    def write(images: list[str], texts: Mapping[str, str]) -> Path:
        for name in images:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(png(name))
        for name, text in texts.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("result.json", coco(THREE)),
        ("annotations.xml", CVAT),
        ("project-1.json", json.dumps(LABEL_STUDIO)),
    ],
)
@pytest.mark.parametrize("whole_folder", [True, False])
def test_each_format(folder: Callable[..., Path], file: str, text: str, whole_folder: bool) -> None:
    root = folder(list(THREE), {file: text})
    dataset = scan(root if whole_folder else root / file)
    assert dataset.task == "multilabel"
    assert {s.path: s.label for s in dataset.samples} == LABELS
    notes = " ".join(dataset.notes)
    assert f"Labels from {file}" in notes
    assert "1 of 3 have more than one. --task classification refuses them." in notes
    assert "1 image has no label." in notes


def test_label_studios_min_and_csv(folder: Callable[..., Path]) -> None:
    root = folder(["a.jpg", "x/b.jpg", "c.jpg"], {"min.json": json.dumps(MIN)})
    (root / "p.csv").write_text(
        'image,id,choice\na.jpg,1,"{""choices"":[""cat"",""dog""]}"\nc.jpg,2,"{""choices"":[]}"\n'
    )
    dataset = scan(root / "min.json", task="multilabel")
    assert {s.path: s.label for s in dataset.samples} == {"a.jpg": "cat|dog", "x/b.jpg": "dog", "c.jpg": ""}
    assert [s.label for s in scan(root / "p.csv").samples] == ["cat|dog", ""]


def test_names_that_label_studio_has_made_valid(folder: Callable[..., Path]) -> None:
    tasks = [task("/data/upload/1/0123abcd-my_photo_1.jpg", {"choices": ["cat"]}), task("b.jpg", {"choices": ["dog"]})]
    root = folder(["x/my photo (1).jpg", "b.jpg"], {"x.json": json.dumps(tasks)})
    assert {s.path: s.label for s in scan(root / "x.json").samples} == {"x/my photo (1).jpg": "cat", "b.jpg": "dog"}


def test_one_class_an_image_is_classification(folder: Callable[..., Path]) -> None:
    images = {"a.jpg": ["cat"], "b.jpg": ["dog", "dog"], "c.jpg": []}
    root = folder(list(images), {"x.json": coco(images, "cow", "pig")})
    dataset = scan(root / "x.json")
    assert (dataset.task, dataset.classes) == ("classification", ("cat", "dog"))
    notes = " ".join(dataset.notes)
    assert "1 image without a label (which --task multilabel keeps) ignored" in notes
    assert "2 classes have no image and are left out: cow, pig." in notes
    assert len(scan(root / "x.json", task="multilabel")) == 3
    (root / "x.json").write_text(coco(THREE))
    with pytest.raises(DataError, match=r"1 image has several labels, such as a\.jpg(.|\n)*--task multilabel"):
        scan(root / "x.json", task="classification")
    with pytest.raises(UsageError, match="is for tables"):
        scan(root / "x.json", label_separator="|")


@pytest.mark.parametrize(
    ("train", "val", "train_file", "val_file"),
    [
        (
            "train2017/1.jpg",
            "val2017/1.jpg",
            "annotations/instances_train2017.json",
            "annotations/instances_val2017.json",
        ),
        ("train/1.jpg", "valid/1.jpg", "train/_annotations.coco.json", "valid/_annotations.coco.json"),
        (
            "images/train/1.jpg",
            "images/val/1.jpg",
            "annotations/instances_train.json",
            "annotations/instances_val.json",
        ),
    ],
)
def test_parts_by_names(
    folder: Callable[..., Path], train: str, val: str, train_file: str, val_file: str, tmp_path: Path
) -> None:
    text = coco({"1.jpg": ["cat", "dog"]})
    root = folder([train, val], {train_file: text, val_file: text, "annotations/captions_val2017.json": "{}"})
    dataset = scan(root)
    assert {s.path: (s.label, s.part) for s in dataset.samples} == {
        train: ("cat|dog", "train"),
        val: ("cat|dog", "val"),
    }
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for file in (train, val, train_file, val_file):
            archive.write(root / file, file)
    assert {s.part for s in scan(tmp_path / "data.zip").samples} == {"train", "val"}
    if train_file.startswith("annotations"):
        dataset = scan(root / train_file, lenient=True)
        assert [s.path for s in dataset.samples] == [train]
        assert train_file not in dataset.ignored


def test_what_is_not_there_is_said(folder: Callable[..., Path]) -> None:
    root = folder(["a.jpg", "z.jpg"], {"x.json": coco({"a.jpg": ["cat", "dog"], "gone.jpg": ["dog"]})})
    notes = " ".join(scan(root).notes)
    assert "1 image that they name is not there, such as gone.jpg." in notes
    assert "1 image that they do not name ignored, for example z.jpg." in notes
    (root / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"none of the 2 images of x\.json"):
        scan(root)


def test_of_several_annotations_the_ground_truth_counts(folder: Callable[..., Path]) -> None:
    tasks = [task("a.jpg", {"choices": ["cat"]}), task("b.jpg", {"choices": ["dog"]})]
    tasks[0]["annotations"] = [
        {"result": [{"value": {"choices": ["dog"]}}], "ground_truth": True},
        {"result": [{"value": {"choices": ["cat"]}}]},
        {"result": [], "was_cancelled": True},
    ]
    root = folder(["a.jpg", "b.jpg"], {"x.json": json.dumps(tasks)})
    assert [s.label for s in scan(root / "x.json", lenient=True).samples] == ["dog", "dog"]


def test_what_names_no_class_is_said(folder: Callable[..., Path]) -> None:
    results = [
        {"value": {"choices": ["cat"]}, "type": "choices", "from_name": "animal"},
        {"value": {"choices": ["wet"]}, "type": "choices", "from_name": "weather"},
        {"value": {"x": 1, "y": 2}, "type": "rectangle", "from_name": "box"},
        {"value": {"rating": 4}, "type": "rating", "from_name": "stars"},
        {"type": "relation", "from_id": "1"},
    ]
    tasks = [{"data": {"image": name}, "annotations": [{"result": results}]} for name in ("a.jpg", "b.jpg")]
    dataset = scan(folder(["a.jpg", "b.jpg"], {"x.json": json.dumps(tasks)}) / "x.json")
    assert {sample.label for sample in dataset.samples} == {"cat|wet"}
    assert "Results of the kind rating name no class, and are left out." in dataset.notes
    assert any("has the labels of animal, weather together" in note for note in dataset.notes)
    for one in tasks:
        one["annotations"][0]["result"] = results[3:]
    with pytest.raises(DataError, match="has results of the kind rating alone"):
        scan(folder([], {"x.json": json.dumps(tasks)}) / "x.json")
    text = coco({"a.jpg": ["cat"], "b.jpg": ["dog"]}).replace('"image_id": 1', '"image_id": 99')
    notes = scan(folder([], {"x.json": text}) / "x.json", lenient=True).notes
    assert "1 annotation is left out, of images that the files do not list." in notes


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("x.xml", "<annotations><track/></annotations>", "tracks of a video"),
        ("x.xml", "<annotations><image>", "cannot be read as XML"),
        ("x.xml", "<!DOCTYPE a [<!ENTITY b 'c'>]><annotations/>", "document type"),
        ("x.xml", "<annotation><object/></annotation>", "no annotations of CVAT"),
        ("x.xml", '<?xml version="1.0" encoding="utf-99"?><annotations/>', "cannot be read as XML: unknown encoding"),
        ("x.xml", '<?xml version="1.0" encoding="utf-7"?><annotations/>', "cannot be read as XML: multi-byte"),
        ("x.json", "[1]", "no list of records"),
        ("x.json", "{", "cannot be read as JSON"),
        ("x.json", '{"images": [{}], "annotations": [], "categories": []}', "is damaged: an image has no 'id'"),
        (
            "x.json",
            coco({"a.jpg": ["cat"]}).replace('"category_id": 1', '"category_id": 7'),
            "an annotation of a.jpg has the category 7, which is not listed",
        ),
        ("x.json", '{"images": [], "annotations": [], "categories": []}', r"x.json \(COCO\) has no labeled image"),
        (
            "x.json",
            coco({"a.jpg": ["cat"], "b.jpg": []}).replace('"id": 1, "file', '"id": 0, "file'),
            "a.jpg and b.jpg have the id 0",
        ),
    ],
)
def test_damaged_annotations(folder: Callable[..., Path], file: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        scan(folder(["a.jpg"], {file: text}) / file)
