"""Check that the labels of what was scanned are those of classes, or numbers, that a model can be trained on."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from regraft.data.labels import Task, classes_in
from regraft.data.samples import PARTS, Part, SampleTable
from regraft.data.storage import Directory, Folder, is_image
from regraft.errors import DataError
from regraft.text import join_truncated, pluralize


def check_classes(path: str, samples: SampleTable, named: set[tuple[Part | None, str]], task: Task) -> tuple[str, ...]:
    """The sorted class names; raises `DataError` if a classifier cannot be trained on them.

    `named` has part and name of every class, including classes without readable images.
    """
    labels_in: defaultdict[Part | None, set[str]] = defaultdict(set)
    for index, part in enumerate((*PARTS, None)):
        labels_in[part] = classes_in(samples.labels[samples.parts == (index if part else -1)], task)
    parts = {part for part, _ in named if part}
    if parts and "train" not in parts:
        raise DataError(
            f"{path} has {join_truncated(part for part in PARTS if part in parts)} but no classes in train. "
            "Expected at least train/<class>/, or a manifest with rows for train."
        )
    train: Part | None = "train" if parts else None
    where = " in train" if parts else ""
    expected = {label for part, label in named if part == train}
    for part in PARTS:
        if unknown := sorted(labels_in[part] - expected) if part != train else []:
            raise DataError(
                f"{path}: {part} has {pluralize(len(unknown), 'class', 'classes')} that train does not have: "
                f"{join_truncated(unknown)}. A model cannot predict a class without training images: add images to "
                "train, or remove the class."
            )
    if not expected and not labels_in[train]:
        if task == "multilabel" and len(samples):
            raise DataError(f"{path}: no image{where} has a label. Expected at least one class, with images.")
        raise DataError(
            f"{path} has no classes: no folder with images. Expected root/<class>/*.jpg, "
            f"root/train|val|test/<class>/*.jpg, or a manifest.{_suggest_folder_above(Path(path))}"
        )
    if empty := sorted(expected - labels_in[train]):
        raise DataError(
            f"{path}: {pluralize(len(empty), 'class', 'classes')} without a readable image{where}: "
            f"{join_truncated(empty)}. Add images or remove the class."
        )
    if len(expected) == 1 and task == "classification":
        (only,) = expected
        folder = Path(path) / only
        inner = Folder(folder).top.folders if not parts and folder.is_dir() else []
        hint = f" Did you mean {folder}? It contains {join_truncated(f.name for f in inner)}." if inner else ""
        hint = hint or _suggest_folder_above(Path(path), only)
        raise DataError(f"{path} has one class{where}, {only!r}; a classifier needs at least two.{hint}")
    return tuple(sorted(expected))


def check_numbers(path: str, samples: SampleTable, *, is_model_known: bool) -> None:
    """Raise `DataError` if no model can be trained on the numbers of the images, or none can be evaluated."""
    if not samples:
        raise DataError(f"{path} has no readable image with a number.")
    if is_model_known:
        return
    parts = samples.parts_present()
    if parts and "train" not in parts:
        raise DataError(f"{path} has images of {join_truncated(sorted(parts))} but none of train.")
    train = samples.labels[samples.parts == PARTS.index("train")] if parts else samples.labels
    if len(train.used()) < 2:
        (only,) = train.used()
        raise DataError(
            f"{path}: the number of every image{' in train' if parts else ''} is {only}. Expected at least two "
            "different ones."
        )


def _suggest_folder_above(path: Path, inner: str = "") -> str:
    """A hint if a folder is one class of several: other folders beside it have images as it does, in `inner` if given.

    "" for other data than a folder.
    """
    if not path.is_dir():
        return ""
    folder = path.resolve()

    def has_images(directory: Directory) -> bool:
        places = [below for below in directory.folders if below.name == inner] if inner else [directory]
        return any(is_image(file) for place in places for file in place.files)

    beside = [other.name for other in Folder(folder.parent).top.folders if has_images(other)]
    if folder.name not in beside or len(beside) < 2:
        return ""
    above = str(folder.parent) if path.is_absolute() else os.path.relpath(folder.parent)
    above += " (the current folder)" * (above == ".")
    return f" Did you mean {above}? It contains {join_truncated(beside)}."


def check_known(path: str, samples: SampleTable, classes: Sequence[str], task: Task) -> None:
    """Raise `DataError` if the samples have a class that the model does not know, or there are none."""
    if unknown := sorted(classes_in(samples.labels, task) - set(classes)):
        raise DataError(
            f"{path} has {pluralize(len(unknown), 'class', 'classes')} that the model does not know: "
            f"{join_truncated(unknown)}. Its classes are {join_truncated(classes)}."
        )
    if not samples:
        raise DataError(f"{path} has no image of {join_truncated(classes)}. Expected <class>/*.jpg, or a manifest.")
