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
from regraft.text import join_truncated

#: Extensions of files with annotations.
SUFFIXES = (".json", ".xml")
#: Values of annotations that take most of a file and say nothing about classes.
_OUTLINES = ("segmentation", "keypoints", "points", "rle", "counts")
#: What Label Studio calls shapes without a label, and what is between them.
_STUDIO_SHAPES = (None, "rectangle", "polygon", "brush", "ellipse", "keypoint", "vector", "bitmask", "relation")


@dataclass(frozen=True)
class AnnotatedImage:
    """An image as a file of annotations names it, its classes, and its part if the file says one."""

    file: str
    labels: tuple[str, ...]
    part: Part | None = None


@dataclass(frozen=True)
class Annotations:
    """What a file says: its `kind`, the images, the classes that it lists, and images that nobody has labeled yet.

    `unlisted` counts annotations of images that it does not list; `notes` are sentences on what else it has.
    """

    kind: str
    images: Sequence[AnnotatedImage]
    classes: Sequence[str] = ()
    unlabeled: Sequence[str] = field(default=())
    unlisted: int = 0
    notes: Sequence[str] = ()


class _DamagedError(ValueError):
    """Entries of a file contradict each other; the text says how."""


def read_annotations(name: str, data: bytes) -> Annotations | None:
    """The annotations in a file, or None if it is of another kind. Raises `DataError` if it is damaged."""
    if name.lower().endswith(".xml"):
        return _read_cvat(name, data)
    try:
        value = json.loads(data, object_hook=_without_outlines)
    except (ValueError, RecursionError):
        return None
    try:
        return _read_coco(value) if isinstance(value, dict) else _read_label_studio(name, value)
    except (AttributeError, RecursionError, TypeError, _DamagedError) as error:
        raise DataError(f"{name} is damaged: {error}. Export it again.") from error


def _without_outlines(value: dict[str, Any]) -> dict[str, Any]:
    for key in _OUTLINES:
        value.pop(key, None)
    return value


def _read_coco(value: Mapping[str, Any]) -> Annotations | None:
    """COCO's format (cocodataset.org/#format-data): boxes name the number of their image and of their class."""
    if not all(isinstance(value.get(key), list) for key in ("images", "annotations", "categories")):
        return None
    names = _by_id(value["categories"], "a category", "name")
    files = _by_id(value["images"], "an image", "file_name")
    labels: dict[Any, dict[str, None]] = {number: {} for number in files}
    unlisted = 0
    for annotation in value["annotations"]:
        number, category = (_value(annotation, "an annotation", key) for key in ("image_id", "category_id"))
        if number not in files:
            unlisted += 1
        elif category not in names:
            raise _DamagedError(f"an annotation of {files[number]} has the category {category!r}, which is not listed")
        else:
            labels[number][names[category]] = None
    images = [AnnotatedImage(file, tuple(labels[number])) for number, file in files.items()]
    return Annotations("COCO", images, tuple(dict.fromkeys(names.values())), unlisted=unlisted)


def _by_id(entries: Sequence[Mapping[str, Any]], what: str, key: str) -> dict[Any, str]:
    """The texts of `key` by the ids of the entries, each `what`. Raises `_DamagedError` where an id has two."""
    found: dict[Any, str] = {}
    for entry in entries:
        number, text = _value(entry, what, "id"), str(_value(entry, what, key)).strip()
        if found.setdefault(number, text) != text:
            raise _DamagedError(f"{found[number]} and {text} have the id {number!r}")
    return found


def _value(entry: Mapping[str, Any], what: str, key: str) -> Any:
    if key not in entry:
        raise _DamagedError(f"{what} has no {key!r}")
    return entry[key]


def _read_label_studio(name: str, value: Any) -> Annotations | None:
    """Label Studio's JSON: tasks with annotations, of which the one marked as ground truth counts, else the last."""
    tasks = [task for task in value if isinstance(task, dict)] if isinstance(value, list) else []
    if not tasks or not all(isinstance(task.get("data"), dict) for task in tasks):
        return None
    images, unlabeled = list[AnnotatedImage](), list[str]()
    controls, unread = dict[str, None](), dict[str, None]()
    for task in tasks:
        file = next(_files_in(task["data"]), "")
        made = [one for one in task.get("annotations") or task.get("completions") or [] if not one.get("was_cancelled")]
        if not file or not made:
            unlabeled += [file] if file else []
            continue
        chosen, found = next((one for one in made if one.get("ground_truth")), made[-1]), dict[str, None]()
        for result in chosen.get("result", []):
            labels = labels_in(result.get("value", {}))
            if labels is None and (kind := result.get("type")) not in _STUDIO_SHAPES:
                unread[str(kind)] = None
            elif labels:
                found.update(dict.fromkeys(labels))
                controls[str(result.get("from_name"))] = None
        images.append(AnnotatedImage(file, tuple(found)))
    kinds, notes = join_truncated(unread), list[str]()
    if unread and not controls:
        raise DataError(f"{name} has results of the kind {kinds} alone. Expected choices, or shapes with labels.")
    if unread:
        notes.append(f"Results of the kind {kinds} name no class, and are left out.")
    if len(controls) > 1:
        notes.append(
            f"An image has the labels of {join_truncated(controls)} together. Label Studio's CSV has a column for each."
        )
    return Annotations("Label Studio", images, unlabeled=unlabeled, notes=notes)


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
