"""Find the images of annotations, and make the layout of their labels.

Input: one file of annotations, or a folder with such files where its folders do not say the classes. Output: a layout
in which an image has the classes of its boxes, choices or tags; several if an image of the data has several.
"""

from __future__ import annotations

import re
from collections import Counter

from regraft.data.entries import EntryTable, ImageEntry
from regraft.data.labels import LabelOptions, Task, join_labels
from regraft.data.samples import Part
from regraft.data.sources.annotations import SUFFIXES, AnnotatedImage, Annotations, read_annotations
from regraft.data.sources.file_finder import FileFinder
from regraft.data.sources.folders import Layout, layout_of, part_of_shard
from regraft.data.sources.label_cells import ADVICE
from regraft.data.sources.part_names import part_of
from regraft.data.storage import Directory, Storage, is_image
from regraft.errors import DataError, UsageError
from regraft.text import join_truncated, pluralize

#: Most JSON files in a folder in which annotations are looked for: there are more where each image has its own.
_MOST = 20
#: Names of files with boxes, beside which others of COCO's do not count.
_INSTANCES = re.compile(r"(^|/)instances[^/]*$")


def find_annotations(storage: Storage, top: Directory) -> dict[str, Annotations]:
    """The annotations in the files of a folder and below, by their names. Raises `DataError` if one is damaged."""
    files = [file for file in top.files_below if file.lower().endswith(SUFFIXES)]
    in_folder = Counter(file.rpartition("/")[0] for file in files)
    files = [file for file in files if in_folder[file.rpartition("/")[0]] <= _MOST]
    files = [file for file in files if _INSTANCES.search(file)] or files
    read = ((file, read_annotations(file, storage.read(file))) for file in files)
    return {file: annotations for file, annotations in read if annotations is not None}


def annotated_layout(
    files: dict[str, Annotations], storage: Storage, top: Directory, name: str, label_options: LabelOptions
) -> Layout:
    """The layout of the images that files of annotations name; the names of several files say their parts.

    Images without a label count where images have several labels, and are left out otherwise. Images that are not there
    and classes that no image has are left out, too. The notes say all this. Raises `DataError` if there is no image,
    several files may be one, or an image has several labels where one is asked for.
    """
    if label_options.separator:
        raise UsageError(
            f"label_separator={label_options.separator!r} is for tables; {name} has annotations. Leave it out."
        )
    if label_options.task == "regression":
        raise UsageError(f"{name} has annotations with names of classes, and task=regression expects numbers.")
    finder, notes, missing = FileFinder(storage.exists, top), list[str](), list[str]()
    labels: dict[tuple[str, Part | None], dict[str, None]] = {}
    parts = {file: part_of_shard(file) for file in files}
    has_parts = len(files) > 1 and "train" in parts.values()
    for file, read in files.items():
        for image in read.images:
            part = image.part or (parts[file] if has_parts else None)
            path = _find(finder, storage, image, file.rpartition("/")[0], parts[file])
            if path is None:
                missing.append(image.file)
            else:
                labels.setdefault((path, part), {}).update(dict.fromkeys(image.labels))
    what = f"{join_truncated(files, shown=3)} ({join_truncated(dict.fromkeys(one.kind for one in files.values()))})"
    if not labels and not missing:
        raise DataError(f"{name}: {what} has no labeled image. Expected at least one.")
    if not labels:
        raise DataError(
            f"{name}: none of the {len(missing):,} images of {what} is there, such as {missing[0]}. Expected them in "
            "the folder of the annotations, or below it."
        )
    notes.append(f"Labels from {what}.")
    several = [path for (path, _), found in labels.items() if len(found) > 1]
    task: Task = "multilabel" if label_options.task == "multilabel" or several else "classification"
    if several and label_options.task == "classification":
        raise DataError(
            f"{name}: {pluralize(len(several), 'image has', 'images have')} several labels, such as {several[0]}; "
            f"expected one class for an image. {ADVICE}"
        )
    if several and label_options.task == "auto":
        notes.append(
            f"{name}: several labels an image: {len(several):,} of {len(labels):,} have more than one. --task "
            "classification refuses them."
        )
    none = [path for (path, _), found in labels.items() if not found]
    if task == "multilabel":
        found = EntryTable(ImageEntry(path, join_labels(names), part) for (path, part), names in labels.items())
        notes += [f"{pluralize(len(none), 'image has', 'images have')} no label."] if none else []
    else:
        found = EntryTable(ImageEntry(path, next(iter(names)), part) for (path, part), names in labels.items() if names)
    layout = layout_of(found, name, "some images have a part (train, val or test) and some have none.", task)
    layout.notes.extend([*notes, *(note for read in files.values() for note in read.notes)])
    if unlisted := sum(read.unlisted for read in files.values()):
        what = pluralize(unlisted, "annotation is", "annotations are")
        layout.notes.append(f"{what} left out, of images that the files do not list.")
    if task == "classification":
        layout.ignore(none, "without a label (which --task multilabel keeps)")
    used = {label for names in labels.values() for label in names}
    listed = dict.fromkeys(label for annotations in files.values() for label in annotations.classes)
    if unused := [label for label in listed if label not in used]:
        classes = pluralize(len(unused), "class has", "classes have")
        layout.notes.append(
            f"{classes} no image and {'is' if len(unused) == 1 else 'are'} left out: {join_truncated(unused)}."
        )
    if missing:
        images = pluralize(len(missing), "image that they name is", "images that they name are")
        layout.notes.append(f"{images} not there, such as {missing[0]}.")
    if unlabeled := [file for annotations in files.values() for file in annotations.unlabeled]:
        tasks = pluralize(
            len(unlabeled), "image that nobody has labeled yet is", "images that nobody has labeled yet are"
        )
        layout.notes.append(f"{tasks} left out, such as {unlabeled[0]}.")
    there = {path for path, _ in labels}
    layout.ignore([file for file in top.files_below if is_image(file) and file not in there], "that they do not name")
    layout.ignored.extend(file for file in top.files_below if not is_image(file) and file not in files)
    return layout


def _find(finder: FileFinder, storage: Storage, image: AnnotatedImage, folder: str, part: Part | None) -> str | None:
    """The file of an image: beside the annotations, at its path, or the only one with its end or name."""
    name = image.file.strip().replace("\\", "/")
    for candidate in (f"{folder}/{name}" if folder else name, name):
        if not candidate.startswith("/") and storage.exists(candidate):
            return candidate
    found = finder.with_end(name) or finder.with_end(name.rpartition("/")[2])
    if len(found) > 1 and part:
        found = [file for file in found if part in map(part_of, file.split("/")[:-1])] or found
    if len(found) > 1:
        raise DataError(f"{image.file} may be {join_truncated(found, ' or ', shown=3)}; expected one file.")
    return found[0] if found else None
