"""Find images, classes and parts from names of folders: `<class>/...` or `train|val|test/<class>/...`."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from regraft.data.dataset import BadFile
from regraft.data.entries import EntryTable, ImageEntry
from regraft.data.labels import UNSAID, LabelOptions, Task, join_labels, split_labels
from regraft.data.samples import PARTS, Part
from regraft.data.sources.columns import NO_TABLE, GroupColumns
from regraft.data.sources.foreign import CONVERT, describe_foreign, names_with_labels
from regraft.data.sources.label_cells import form_of_tables
from regraft.data.sources.label_tables import LabelTable, find_label_table, is_table
from regraft.data.sources.manifest import PART_NAMES
from regraft.data.sources.part_names import holds_masks, is_container, part_of, parts_among
from regraft.data.storage import Directory, Folder, Storage, is_image
from regraft.data.taxonomy import Parents
from regraft.errors import DataError, UsageError
from regraft.text import join_truncated, pluralize


@dataclass(frozen=True)
class Layout:
    """Images, classes and other files of a data set.

    `classes` are part and name of every class, including those without images; `ignored` files are no images by their
    extension or in no class folder; `noted` ones are ignored, and `notes` say so; `bad` files are unreadable before any
    is read. The labels of a `task` with several labels are texts of `join_labels`, and of numbers the texts of these;
    `quantity` is what the numbers are. With `merges_copies`, images in several class folders are one with all labels.
    `parents` are those of the folders of a tree, by name; None where there is none. `of_groups`: what the columns
    of a table have to do with groups.
    """

    found: EntryTable
    classes: set[tuple[Part | None, str]]
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bad: list[BadFile] = field(default_factory=list)
    noted: list[str] = field(default_factory=list)
    task: Task = "classification"
    quantity: str = "value"
    merges_copies: bool = False
    parents: Parents | None = None
    of_groups: GroupColumns = NO_TABLE

    def ignore(self, images: Sequence[str], why: str) -> None:
        """Ignore images and add a note with the reason."""
        self.noted.extend(images)
        if images:
            self.notes.append(f"{pluralize(len(images), 'image')} {why} ignored, for example {images[0]}.")


#: auto: as found; classes: each folder in the data is a class; parts: each folder in a part is a class; tree: nested
#: folders, of which those with images are classes.
FolderLayout = Literal["auto", "classes", "parts", "tree"]
#: Folders around class folders or images that are neither a class nor a part.
WRAPPERS = frozenset({"images", "image", "imgs", "img", "jpg", "jpeg", "png", "data", "photos", "pictures"})


class _ClassFolder:
    """A folder that is read as a class; `images` in folders inside it are `nested`, and `inner` names these folders."""

    def __init__(self, folder: Directory, part: Part | None, depth: int) -> None:
        self.name, self.part = folder.name, part
        self.images, self.others = separate(folder.files_below)
        self.hidden = folder.hidden_below
        parents = {image.rpartition("/")[0] for image in self.images}
        inner = {parent: parent.split("/")[depth + 1 :] for parent in parents if parent.count("/") > depth}
        inside = {parent for parent, names in inner.items() if not WRAPPERS.issuperset(map(str.lower, names))}
        self.nested = [image for image in self.images if image.rpartition("/")[0] in inside] if inside else []
        self.inner = {next((n for n in names if n.lower() not in WRAPPERS), names[0]) for names in inner.values()}
        self.has_folders_in_folders = any(len(names) > 1 for names in inner.values())
        self.has_own_images = len(inner) < len(parents)


def read_layout(
    storage: Storage,
    top: Directory,
    name: str,
    depth: int = 0,
    *,
    layout: FolderLayout = "auto",
    known: Collection[str] = (),
    label_options: LabelOptions = UNSAID,
) -> Layout:
    """Read classes and parts from the folders in `top`, which is `depth` folders below the root of the storage.

    A folder with images whose name is in `known` is a class. Where images have several labels, one in several class
    folders has them all. Raises `DataError` if two folders are of the same part, or it is unclear which folders are
    classes, `UsageError` for a separator of labels without a table, and `OSError` if a folder cannot be read.
    """
    children = top.folders
    parts = {} if layout == "classes" else parts_among(child.name for child in children)
    parts = {child.name: parts[child.name] for child in children
             if child.name in parts and not (child.name in known and _has_images(child))}  # fmt: skip
    if layout == "parts" and not parts:
        raise DataError(f"{name} has no folder of a part. Expected train/<class>/*.jpg, as layout=parts says.")
    result, labels = Layout(EntryTable(), set(), list(top.files)), list[LabelTable]()
    if parts:
        folders = _read_parts(storage, top, name, depth, parts, result, labels)
    else:
        folders = [_ClassFolder(child, None, depth) for child in children]
        filled = [folder for folder in folders if folder.images]
        flat = filled[0].images if len(filled) == 1 and filled[0].has_own_images else []
        flat = flat or ([] if filled else [file for file in top.files if is_image(file)])
        tables = [file for file in top.files if is_table(file, ("train",))]
        if flat and (labeled := find_label_table(storage, name, flat, tables, None)):
            labels.append(labeled)
            result.ignored[:] = sorted({*result.ignored, *(f for c in folders for f in c.others)} - {*flat, *tables})
            folders = []
        elif layout == "auto" and not filled:
            _refuse_foreign(name, flat, [*top.files, *(file for folder in folders for file in folder.others)])
    if layout == "auto" and not {folder.name.strip() for folder in folders} <= set(known):
        _refuse_unclear(name, folders, top)
    # Spaces around a name are removed, unless two folders would become one class.
    stripped = Counter((folder.part, folder.name.strip()) for folder in folders)
    for folder in folders:
        label = folder.name.strip() if stripped[folder.part, folder.name.strip()] == 1 else folder.name
        result.classes.add((folder.part, label))
        result.found.extend(ImageEntry(image, label, folder.part) for image in folder.images)
        result.ignored.extend(folder.others)
    result = _with_tables(result, labels, name, label_options)
    if outside := sorted(file for file in result.ignored if is_image(file)):
        count = pluralize(len(outside), "image")
        result.notes.append(f"{count} outside any class folder ignored, for example {outside[0]}.")
    result.ignored.extend(file for folder in folders for file in folder.hidden)
    if nested := [image for folder in folders for image in folder.nested]:
        count = pluralize(len(nested), "image")
        result.notes.append(f"{count} in folders inside a class folder, for example {min(nested)}.")
        if 2 * len(nested) > len(result.found):
            result.notes.append(
                "If these folders are the classes, and those around them their families: --layout tree."
            )
    if background := sorted({label for _, label in result.classes if label.lower().startswith("background")}):
        result.notes.append(f"The class {background[0]!r} is named like a background; it is a class like the others.")
    if isinstance(storage, Folder) and storage.outputs:
        result.notes.append(f"Written by regraft and not read as data: {join_truncated(sorted(storage.outputs))}.")
    return result


def _read_parts(
    storage: Storage,
    top: Directory,
    name: str,
    depth: int,
    parts: Mapping[str, Part],
    result: Layout,
    labels: list[LabelTable],
) -> list[_ClassFolder]:
    """The class folders in the folders of parts; tables of the parts without class folders are added to `labels`."""
    children = top.folders
    inner = {child.name: unwrap(child, depth + 1) for child in children if child.name in parts}
    filled = {part_name for part_name, (folder, _) in inner.items() if folder.folders}
    has_train = "train" in {parts[part_name] for part_name in filled}
    if not has_train and (beside := [c.name for c in children if c.name not in parts and _has_images(c)]):
        raise DataError(
            f"{name} has {join_truncated(parts)}, named like a part of the data, beside {join_truncated(beside)}. "
            f"Expected <class>/*.jpg, or all classes in train/<class>/*.jpg. {_ask_for(name)}"
        )
    if twice := [part for part, times in Counter(parts.values()).items() if times > 1]:
        names = ", ".join(part_name for part_name, part in parts.items() if part in twice)
        raise DataError(f"{name} has several folders for one part: {names}. Keep one of them.")
    folders: list[_ClassFolder] = []
    for child in sorted(children, key=lambda child: PARTS.index(parts.get(child.name, "test"))):
        if child.name not in parts:
            result.ignored.extend(child.files_below)
            continue
        part, (folder, level) = parts[child.name], inner[child.name]
        if child.name in filled:
            folders += [_ClassFolder(inside, part, level) for inside in folder.folders]
            result.ignored.extend({*child.files, *folder.files})
            continue
        images, others = separate(child.files_below)
        words = [word for word in PART_NAMES if PART_NAMES[word] == part]
        tables = [file for file in (*folder.files, *child.files, *top.files) if is_table(file, words)]
        if labeled := find_label_table(storage, name, images, tables, part):
            labels.append(labeled)
            result.ignored.extend(set(others) - set(tables))
        elif images and (part != "test" or not (folders or labels)):
            files = [*top.files, *(file for child in children for file in child.files_below)]
            raise DataError(
                f"{name}: {child.name} has {pluralize(len(images), 'image')} but neither class folders nor a table "
                f"with labels such as labels.csv.{names_with_labels(images)}{describe_foreign(files)} {CONVERT}"
                + (f" Or move {child.name} elsewhere." if filled else f" {_ask_for(name)}")
            )
        else:
            result.ignored.extend(others)
            result.ignore(images, f"in {child.name} without class folders or labels")
    return folders


def _ask_for(name: str, part: Part | None = None) -> str:
    where, layout = (f"{name}/{part}", "parts") if part else (name, "classes")
    return f"To have each folder in {where} as a class, whatever its name, use --layout {layout}."


def unwrap(folder: Directory, depth: int) -> tuple[Directory, int]:
    """Enter folders such as `train/train` and `train/images` that contain everything; returns also the depth."""
    part = part_of(folder.name)
    while len(folder.folders) == 1 and not _has_images(folder):
        (only,) = folder.folders
        if not (only.name.lower() in WRAPPERS or (part and part_of(only.name) == part)):
            break
        folder, depth = only, depth + 1
    return folder, depth


def _has_images(folder: Directory) -> bool:
    return any(map(is_image, folder.files))


def _with_tables(result: Layout, tables: Sequence[LabelTable], name: str, asked: LabelOptions) -> Layout:
    """The layout with the images of tables; images in class folders have one label, unless the user says otherwise."""
    if asked.separator and not tables:
        raise UsageError(f"label_separator={asked.separator!r}: {name} has no table with labels. Leave it out.")
    if result.classes and asked.task == "auto":
        asked = LabelOptions("classification")
    form = form_of_tables([(table.cells, table.columns) for table in tables], name, asked)
    task: Task = "multilabel" if asked.task == "multilabel" else form.task
    if task == "multilabel" and result.classes:
        texts = {label: join_labels([label]) for _, label in result.classes}
        found = EntryTable(replace(entry, label=texts[entry.label]) for entry in result.found)
        result = replace(result, found=found, merges_copies=True)
    for table in tables:
        entries = table.entries(form)
        result.found.extend(entries)
        for entry in entries:
            labels = split_labels(entry.label) if task == "multilabel" else [entry.label]
            result.classes.update((entry.part, label) for label in labels)
        result.notes.extend([table.note] if table.note not in result.notes else [])
        result.noted.extend(set(table.images) - {entry.path for entry in entries})
    result.notes.extend(form.notes)
    return replace(result, task=task)


def _refuse_foreign(name: str, images: Sequence[str], files: Sequence[str]) -> None:
    """Raise `DataError` for data without a folder of images, if its files are in a known format."""
    foreign, labels = describe_foreign(files), names_with_labels(images)
    if foreign or labels:
        what = "no class folders" if images else "no images"
        raise DataError(f"{name} has {what}.{labels}{foreign} {CONVERT}")


def _refuse_unclear(name: str, folders: Sequence[_ClassFolder], top: Directory) -> None:
    """Raise `DataError` if folders may be something else than classes."""
    for part in dict.fromkeys(folder.part for folder in folders):
        here = [folder for folder in folders if folder.part == part]
        where = f" in {part}" if part else ""
        if part and (like := [folder.name for folder in here if part_of(folder.name)]):
            raise DataError(
                f"{name} has {join_truncated(like)} in {part}, named like a part of the data. Expected {part}/<class>/"
                f"*.jpg. {_ask_for(name, part)}"
            )
        filled = [folder for folder in here if folder.images]
        inside = {inner for folder in filled for inner in folder.inner}
        beside = [file for folder in here if not folder.images for file in folder.others]
        foreign = describe_foreign([*beside, *(top.files if len(here) == 1 else ())])
        if len(filled) == 1 and foreign:
            (only,) = filled
            if inside and (only.has_folders_in_folders or not parts_among(inside)):
                advice = f" Did you mean {name}/{only.name}? It contains {join_truncated(sorted(inside))}.{foreign}"
                advice += " To use such a file, write a CSV with the columns path, label and split, and pass that."
            else:
                advice = f"{names_with_labels(only.images)}{foreign} {CONVERT}"
            raise DataError(f"{name} has images{where} in {only.name} only, so its folders are no classes.{advice}")
        if len(filled) > 1 and all(is_container(folder.name) for folder in filled):
            raise DataError(
                f"{name} has {join_truncated(folder.name for folder in filled)}{where}, named like pieces or kinds of "
                f"files rather than classes.{foreign} {CONVERT} {_ask_for(name, part)}"
            )
        if masks := sorted(inner for inner in inside if holds_masks(inner)):
            raise DataError(
                f"{name}: {join_truncated(folder.name for folder in filled)}{where} contain {join_truncated(masks)}, "
                f"whose images are none of the class. {CONVERT} {_ask_for(name, part)}"
            )
        names = {inner for inner in inside if inner.lower() not in WRAPPERS}
        is_clear = any(folder.has_own_images for folder in filled) or any(re.search(r"\d", inner) for inner in names)
        if len(filled) > 1 and len(names) > 1 and not is_clear:
            raise DataError(
                f"{name}: {join_truncated(f.name for f in filled)}{where} have no images but folders, "
                f"{join_truncated(sorted(names))}: either may be the classes. Pass one of the former, such as {name}/"
                f"{filled[0].name}, or a CSV with the columns path and label. "
                f"{_ask_for(name, part)} If they are a tree of classes, use --layout tree."
            )


_MIXED = "some rows have a split and some have none. Fill the column for all or for none."


def layout_of(found: EntryTable, name: str, mixed: str = _MIXED, task: Task = "classification") -> Layout:
    """The layout of a table; raises `DataError` with `mixed` if some rows have a part and some have none."""
    parts, labels = found.parts, found.labels
    pairs = np.unique(np.stack([parts.astype(np.int32), labels.codes], axis=1), axis=0).tolist()
    if len({part < 0 for part, _ in pairs}) > 1:
        raise DataError(f"{name}: {mixed}")
    texts = ((None if part < 0 else PARTS[part], str(labels.names[code])) for part, code in pairs)
    if task == "multilabel":
        return Layout(found, {(part, label) for part, text in texts for label in split_labels(text)}, task=task)
    return Layout(found, set(texts))


def part_of_shard(name: str) -> Part | None:
    """The part in a file name such as `train-00000-of-00002.parquet`, else in the name of its folder."""
    path = PurePosixPath(name)
    words = [*re.split(r"[^a-z]+", path.name.lower()), path.parent.name.lower()]
    return next((PART_NAMES[word] for word in words if word in PART_NAMES), None)


def shards_in(top: Directory, suffixes: tuple[str, ...]) -> list[str]:
    """Files with one of these suffixes, if a folder contains such files instead of images.

    The files are directly in the folder, in its folders for the parts, or in its only folder.
    """
    shards = [name for name in top.files if name.lower().endswith(suffixes)]
    if any(is_image(name) for name in top.files):
        return []
    folders = top.folders
    if shards or not folders:
        return [] if folders else shards
    if len(folders) > 1 and not all(part_of(folder.name) for folder in folders):
        return []
    below = [[] if folder.folders else shards_in(folder, suffixes) for folder in folders]
    return [name for names in below for name in names] if all(below) else []


def find_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Images below a folder by their extensions, and other files, of which hidden and system files come last.

    Raises `OSError` if a folder cannot be read.
    """
    top = Folder(folder).top
    images, others = separate(top.files_below)
    return [folder / name for name in images], [folder / name for name in (*others, *top.hidden_below)]


def similar_names(classes: Iterable[str]) -> list[list[str]]:
    """Sets of names that differ only in case, in spaces, `_` and `-`, or in their Unicode form.

    A `-` before a number at the beginning is its sign, in which names may differ.
    """
    similar: dict[str, list[str]] = {}
    for name in classes:
        text = re.sub(r"^\s*[-\u2212](?=[.\d])", "minus ", unicodedata.normalize("NFKC", name))
        normalized = re.sub(r"[\s_-]+", " ", text).strip().casefold()
        similar.setdefault(normalized, []).append(name)
    return [names for names in similar.values() if len(names) > 1]


def separate(files: Iterable[str]) -> tuple[list[str], list[str]]:
    """Images by their extensions, and other files."""
    images, others = list[str](), list[str]()
    for name in files:
        (images if is_image(name) else others).append(name)
    return images, others
