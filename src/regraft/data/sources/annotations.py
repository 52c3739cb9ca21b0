"""Read labels from annotations of COCO, Label Studio or CVAT: the classes of the boxes, choices or tags of an image.

Input: the bytes of a file. Output: `Annotations`, which name images as the file does; `annotated.py` finds them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

from regraft.data.samples import Part
from regraft.data.sources.label_cells import STUDIO_KEYS, labels_in
from regraft.data.sources.part_names import part_of
from regraft.data.storage import is_image
from regraft.errors import DataError

#: Extensions of files with annotations.
SUFFIXES = (".json", ".xml")
#: Values of annotations that take most of a file and say nothing about classes.
_OUTLINES = ("segmentation", "keypoints", "points", "rle", "counts")


@dataclass(frozen=True)
class AnnotatedImage:
    """An image as a file of annotations names it, its classes, and its part if the file says one."""

    file: str
    labels: tuple[str, ...]
    part: Part | None = None


@dataclass(frozen=True)
class Annotations:
    """What a file says: its `kind`, the images, the classes that it lists, and images that nobody has labeled yet."""

    kind: str
    images: Sequence[AnnotatedImage]
    classes: Sequence[str] = ()
    unlabeled: Sequence[str] = field(default=())


def read_annotations(name: str, data: bytes) -> Annotations | None:
    """The annotations in a file, or None if it is of another kind. Raises `DataError` if it is damaged."""
    if name.lower().endswith(".xml"):
        return _read_cvat(name, data)
    try:
        value = json.loads(data, object_hook=_without_outlines)
    except (ValueError, RecursionError):
        return None
    try:
        return _read_coco(value) if isinstance(value, dict) else _read_label_studio(value)
    except (AttributeError, KeyError, RecursionError, TypeError) as error:
        raise DataError(f"{name} is damaged: {type(error).__name__} {error}. Export it again.") from error


def _without_outlines(value: dict[str, Any]) -> dict[str, Any]:
    for key in _OUTLINES:
        value.pop(key, None)
    return value


def _read_coco(value: Mapping[str, Any]) -> Annotations | None:
    """COCO's format (cocodataset.org/#format-data): boxes name the number of their image and of their class."""
    if not all(isinstance(value.get(key), list) for key in ("images", "annotations", "categories")):
        return None
    names = {category["id"]: str(category["name"]).strip() for category in value["categories"]}
    labels: dict[Any, dict[str, None]] = {image["id"]: {} for image in value["images"]}
    for annotation in value["annotations"]:
        if (found := labels.get(annotation["image_id"])) is not None:
            found[names[annotation["category_id"]]] = None
    images = [AnnotatedImage(str(image["file_name"]), tuple(labels[image["id"]])) for image in value["images"]]
    return Annotations("COCO", images, tuple(dict.fromkeys(names.values())))


def _read_label_studio(value: Any) -> Annotations | None:
    """Label Studio's JSON: tasks with annotations, of which the one marked as ground truth counts, else the last."""
    tasks = [task for task in value if isinstance(task, dict)] if isinstance(value, list) else []
    if not tasks or not all(isinstance(task.get("data"), dict) for task in tasks):
        return None
    images, unlabeled = list[AnnotatedImage](), list[str]()
    for task in tasks:
        file = next(_files_in(task["data"]), "")
        made = [one for one in task.get("annotations") or task.get("completions") or [] if not one.get("was_cancelled")]
        if not file or not made:
            unlabeled += [file] if file else []
            continue
        chosen = next((one for one in made if one.get("ground_truth")), made[-1])
        found = [labels_in(result.get("value", {})) or [] for result in chosen.get("result", [])]
        images.append(AnnotatedImage(file, tuple(dict.fromkeys(label for labels in found for label in labels))))
    return Annotations("Label Studio", images, unlabeled=unlabeled)


def _files_in(data: Mapping[str, Any]) -> Iterator[str]:
    """Values of a task that are paths of images, the one called `image` first."""
    for key in sorted(data, key=lambda key: key != "image"):
        if isinstance(data[key], str) and is_image(data[key].partition("&")[0]) and key not in STUDIO_KEYS:
            yield data[key]


def _read_cvat(name: str, data: bytes) -> Annotations | None:
    """CVAT for images 1.1: `image` elements with tags, boxes and other shapes, each with a label."""
    if b"<annotations" not in data[:4096]:
        return None
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:  # whose entities could fill the memory
        raise DataError(f"{name} has a document type, which annotations of CVAT do not have. Export it again.")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two: an unknown encoding
        raise DataError(f"{name} cannot be read as XML: {error}. Export it again.") from error
    if root.find("track") is not None:
        raise DataError(f"{name} has the tracks of a video. Export it as 'CVAT for images'.")
    images = [
        AnnotatedImage(
            str(image.get("name")),
            tuple(dict.fromkeys(str(shape.get("label")).strip() for shape in image if shape.get("label"))),
            part_of(image.get("subset") or ""),
        )
        for image in root.iter("image")
        if image.get("name")
    ]
    classes = [str(label.findtext("name")).strip() for label in root.iter("label") if label.findtext("name")]
    return Annotations("CVAT", images, tuple(dict.fromkeys(classes))) if images else None
