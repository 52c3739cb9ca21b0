"""What the folders say: which files are images, of which class, in which part.

Enters: the top directory of a storage, `<class>/...` or `train|val|test/<class>/...`. Leaves: a `Layout`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from posixpath import splitext

from regraft.data.dataset import BadFile, Part
from regraft.data.decode import EXTENSIONS
from regraft.data.manifest import PART_NAMES, ManifestRow
from regraft.data.storage import Directory, Folder
from regraft.errors import DataError, counted


@dataclass(frozen=True)
class Found:
    """An image before it is read.

    Attributes:
        path: Its name in the storage.
        label: Class name.
        part: Where the data says so.
        group: Where the data says so.
    """

    path: str
    label: str
    part: Part | None = None
    group: str | None = None


@dataclass(frozen=True)
class Layout:
    """Images, classes and other files of a data set.

    Attributes:
        found: The images.
        named: Part and name of every class that is named, also of those without an image.
        ignored: Files that are no images by their ending, or in no class folder.
        notes: What a person should know, in sentences.
        bad: Files that cannot be read, as is known before any is.
    """

    found: list[Found]
    named: set[tuple[Part | None, str]]
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bad: list[BadFile] = field(default_factory=list)

    def leave_out(self, images: Sequence[str], why: str) -> None:
        """Ignore images, and say so."""
        self.ignored.extend(images)
        if images:
            self.notes.append(f"{counted(len(images), 'image')} {why} left out, for example {images[0]}.")


def read_layout(top: Directory, name: str, depth: int = 0) -> Layout:
    """Read classes and parts from the names of folders.

    Args:
        top: Of the storage, or a folder in it.
        name: Of the storage, for messages.
        depth: How many folders of the storage are around `top`.

    Raises:
        DataError: Two folders are of the same part.
        OSError: A folder cannot be read.
    """
    children = top.folders
    parts = {i: PART_NAMES[child.name.lower()] for i, child in enumerate(children) if child.name.lower() in PART_NAMES}
    # A class may be called "train": a part holds class folders, a class holds images.
    holders = [part for i, part in parts.items() if children[i].folders]
    has_parts = "train" in holders or (bool(holders) and len(parts) == len(children))
    class_folders: list[tuple[Part | None, Directory]] = []
    ignored = list(top.files)
    if has_parts:
        twice = [part for part, times in Counter(parts.values()).items() if times > 1]
        if twice:
            names = ", ".join(children[i].name for i, part in parts.items() if part in twice)
            raise DataError(f"{name} has several folders for one part: {names}. Keep one of them.")
        for i, child in enumerate(children):
            if i in parts:
                class_folders += [(parts[i], folder) for folder in child.folders]
                ignored += child.files
            else:
                ignored += child.files_below
    else:
        class_folders = [(None, child) for child in children]
    found: list[Found] = []
    # Blanks around a name are dropped, unless two folders would silently become one class.
    alike = Counter((part, folder.name.strip()) for part, folder in class_folders)
    named: set[tuple[Part | None, str]] = set()
    for part, folder in class_folders:
        bare = folder.name.strip()
        label = bare if alike[part, bare] == 1 else folder.name
        named.add((part, label))
        images, others = _divided(folder)
        found += [Found(image, label, part) for image in images]
        ignored += others
    return Layout(
        found,
        named,
        ignored,
        list(_notes(found, ignored, depth)),
    )


_MIXED = "some rows have a split and some have none. Fill the column for all or for none."


def layout_of(rows: Iterable[Found | ManifestRow], name: str, mixed: str = _MIXED) -> Layout:
    """The layout that a table tells.

    Args:
        rows: An image each.
        name: Of the table, for messages.
        mixed: What is said where some rows have a part and some have none.

    Raises:
        DataError: Some rows have a part and some have none.
    """
    found = [Found(row.path, row.label, row.part, row.group) for row in rows]
    named = {(f.part, f.label) for f in found}
    if len({part is None for part, _ in named}) > 1:
        raise DataError(f"{name}: {mixed}")
    return Layout(found, named)


def part_of_shard(name: str) -> Part | None:
    """The part that a file's name tells, such as `train-00000-of-00002.parquet`; else that of the folder around it."""
    path = PurePosixPath(name)
    words = [*re.split(r"[^a-z]+", path.name.lower()), path.parent.name.lower()]
    return next((PART_NAMES[word] for word in words if word in PART_NAMES), None)


def shards_in(top: Directory, suffixes: tuple[str, ...]) -> list[str]:
    """Files with one of these endings, where a folder holds such files and no images.

    They lie directly in it, or in folders for the parts, or it has one folder in which they do.
    """
    shards = [name for name in top.files if name.lower().endswith(suffixes)]
    if any(is_image(name) for name in top.files):
        return []
    folders = top.folders
    if shards or not folders:
        return [] if folders else shards
    if len(folders) > 1 and not all(folder.name.lower() in PART_NAMES for folder in folders):
        return []
    below = [[] if folder.folders else shards_in(folder, suffixes) for folder in folders]
    return [name for names in below for name in names] if all(below) else []


def find_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """All images below a folder by their endings, hidden and system files left out.

    Returns:
        (images, other files), each sorted.

    Raises:
        OSError: A folder cannot be read.
    """
    images, others = _divided(Folder(folder).top)
    return [folder / name for name in images], [folder / name for name in others]


def spelled_alike(classes: Iterable[str]) -> list[list[str]]:
    """Sets of names that differ only in case, in blanks, `_` and `-`, or in how Unicode writes them."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        bare = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name)).strip().casefold()
        alike.setdefault(bare, []).append(name)
    return [names for names in alike.values() if len(names) > 1]


def is_image(name: str) -> bool:
    """Whether a file is taken for an image, by its ending."""
    return splitext(name)[1].lower() in EXTENSIONS  # PurePosixPath takes a second for 60,000 names


def _divided(folder: Directory) -> tuple[list[str], list[str]]:
    """Images and other files below a folder."""
    images: list[str] = []
    others: list[str] = []
    for name in folder.files_below:
        (images if is_image(name) else others).append(name)
    return images, others


def _notes(found: list[Found], ignored: list[str], depth: int) -> Iterator[str]:
    outside = sorted(name for name in ignored if is_image(name))
    if outside:
        yield f"{counted(len(outside), 'image')} outside any class folder left out, for example {outside[0]}."
    nested = sorted(f.path for f in found if f.path.count("/") > depth + (1 if f.part is None else 2))
    if nested:
        yield f"{counted(len(nested), 'image')} in folders within a class folder, for example {nested[0]}."
