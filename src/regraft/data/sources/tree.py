"""Read nested folders as a tree: the folders that have images are the classes, and those around them their parents.

Input: a directory, with or without folders of parts in it. Output: a `Layout` with the tree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from regraft.data.entries import EntryTable, ImageEntry
from regraft.data.samples import Part
from regraft.data.sources.folders import WRAPPERS, Layout, separate, unwrap
from regraft.data.sources.part_names import parts_among
from regraft.data.storage import Directory, Folder, Storage, is_image
from regraft.data.taxonomy import Taxonomy
from regraft.errors import DataError
from regraft.text import join_truncated, pluralize

#: Names of the folders from the top of the tree to one of them.
_Path = tuple[str, ...]


@dataclass(frozen=True)
class _Leaf:
    """A folder that is a class in a part: its images and other files."""

    path: _Path
    part: Part | None
    images: list[str]
    others: list[str]


def is_tree(top: Directory, known: Taxonomy) -> bool:
    """Whether folders in a directory, or in its folders of parts, are nodes above the classes of a known tree."""
    inner = {known.folder_of(node).rpartition("/")[2] for node in known.inner}
    children = top.folders
    parts = parts_among(child.name for child in children)
    folders = [inside for child in children if child.name in parts for inside in child.folders] if parts else children
    return any(folder.name.strip() in inner for folder in folders)


def read_tree(storage: Storage, top: Directory, name: str, depth: int = 0, *, known: Taxonomy | None = None) -> Layout:
    """Read classes, their tree and parts from nested folders; the arguments are those of `read_layout`.

    A class has the name of its folder, or `animal/bat` where another node has that name. Folders that `known` has get
    the names that they have there, and its other nodes stay in the tree. Raises `DataError` if a folder has images
    beside folders, or the parts are unclear.
    """
    result = Layout(EntryTable(), set())
    reader = _Reader(top, result.ignored, known)
    for folder, level, part in _parts(top, name, depth, result):
        reader.read(folder, level, part)
    _refuse_unclear(name, reader)
    names = _names([leaf.path for leaf in reader.leaves], known)
    for leaf in reader.leaves:
        label = names[leaf.path]
        result.classes.add((leaf.part, label))
        result.found.extend(ImageEntry(image, label, leaf.part) for image in leaf.images)
        result.ignored.extend(leaf.others)
    if outside := sorted(file for file in result.ignored if is_image(file)):
        count = pluralize(len(outside), "image")
        result.notes.append(f"{count} outside any class folder ignored, for example {outside[0]}.")
    result.ignored.extend(top.hidden_below)
    if isinstance(storage, Folder) and storage.outputs:
        result.notes.append(f"Written by regraft and not read as data: {join_truncated(sorted(storage.outputs))}.")
    parents: dict[str, str | None] = {name: names[path[:-1]] if len(path) > 1 else None for path, name in names.items()}
    return replace(result, parents=parents | dict(known.parents if known else {}))


def _parts(top: Directory, name: str, depth: int, result: Layout) -> Iterator[tuple[Directory, int, Part | None]]:
    """The directories that contain a tree, how deep they are, and their parts; other files are added to `result`."""
    children = top.folders
    parts = parts_among(child.name for child in children)
    if not parts:
        yield top, depth, None
        return
    beside = [child for child in children if child.name not in parts]
    if "train" not in parts.values() and beside:
        raise DataError(
            f"{name} has {join_truncated(parts)}, named like a part of the data, beside "
            f"{join_truncated(child.name for child in beside)}. Expected a tree, or one in each part, as in train."
        )
    if twice := [part for part, times in Counter(parts.values()).items() if times > 1]:
        names = ", ".join(part_name for part_name, part in parts.items() if part in twice)
        raise DataError(f"{name} has several folders for one part: {names}. Keep one of them.")
    result.ignored.extend([*top.files, *(file for child in beside for file in child.files_below)])
    for child in children:
        if child.name not in parts:
            continue
        folder, level = unwrap(child, depth + 1)
        if folder.folders:
            yield folder, level, parts[child.name]
            continue
        images, others = separate(child.files_below)
        result.ignored.extend(others)
        result.ignore(images, f"in {child.name} without class folders")


class _Reader:
    """Collects the leaves of the trees in directories; other files are added to `ignored`.

    `mixed` are sentences about folders that have images beside folders.
    """

    def __init__(self, top: Directory, ignored: list[str], known: Taxonomy | None) -> None:
        self.leaves: list[_Leaf] = []
        self.mixed: list[str] = []
        self._ignored, self._known = ignored, known
        # A link can lead back up, and files are listed once.
        parents = {file.rpartition("/")[0] for file in top.files_below}
        self._filled = {parent[:end] for parent in parents for end in _ends(parent)}

    def read(self, folder: Directory, level: int, part: Part | None) -> None:
        """Read the tree in a directory, whose own files are outside it."""
        files = folder.files_below
        where = "/".join(files[0].split("/")[:level]) if files else ""
        self._ignored.extend(folder.files)
        self._read_folders(folder, where, (), part)

    def _read_folders(self, folder: Directory, where: str, path: _Path, part: Part | None) -> None:
        children = folder.folders
        stripped = Counter(child.name.strip() for child in children)
        for child in children:  # spaces around a name are removed, unless two folders would become one
            name = child.name.strip() if stripped[child.name.strip()] == 1 else child.name
            self._read(child, f"{where}/{child.name}" if where else child.name, (*path, name), part)

    def _read(self, folder: Directory, where: str, path: _Path, part: Part | None) -> None:
        if where not in self._filled:  # nothing is in it, so it is a class without images
            self.leaves.append(_Leaf(path, part, [], []))
            return
        inner = folder.folders
        is_known = self._known is not None and _known_name(path, self._known) in self._known.classes
        images, others = separate(folder.files_below if is_known else folder.files)
        while not is_known and len(inner) == 1 and not images and inner[0].name.lower() in WRAPPERS:
            folder, where = inner[0], f"{where}/{inner[0].name}"
            images, more = separate(folder.files)
            inner, others = folder.folders, [*others, *more]
        if is_known or not inner:
            self.leaves.append(_Leaf(path, part, images, others))
            return
        if images:
            names = join_truncated((child.name for child in inner), shown=5)
            self.mixed.append(f"{where} has {pluralize(len(images), 'image')} beside the folders {names}")
        self._ignored.extend(others)
        self._read_folders(folder, where, path, part)


def _ends(path: str) -> Iterator[int]:
    """The ends of all folders in a path."""
    yield from (i for i, letter in enumerate(path) if letter == "/")
    yield len(path)


def _refuse_unclear(name: str, reader: _Reader) -> None:
    """Raise `DataError` with every folder that is a class and has classes in it."""
    if reader.mixed:
        raise DataError(
            f"{name}: {join_truncated(reader.mixed, '; ')}. An image needs a class at the end of the tree. Move these "
            "into a folder of their own beside the others, such as other/."
        )
    paths = {leaf.path for leaf in reader.leaves}
    above = {path[:end] for path in paths for end in range(1, len(path))}
    if both := sorted("/".join(path) for path in paths & above):
        raise DataError(
            f"{name}: {join_truncated(both)} {'has' if len(both) == 1 else 'have'} folders in one part of the data and "
            "none in another. Expected the same tree in each."
        )


def _names(leaves: Sequence[_Path], known: Taxonomy | None) -> dict[_Path, str]:
    """A name for every folder of the tree; all differ."""
    paths = list(dict.fromkeys(path[:end] for path in leaves for end in range(1, len(path) + 1)))
    names = {path: found for path in paths if known and (found := _known_name(path, known))}
    taken = Counter(path[-1] for path in paths if path not in names)
    taken.update([*known.parents] if known else ())
    return {path: names.get(path) or (path[-1] if taken[path[-1]] == 1 else "/".join(path)) for path in paths}


def _known_name(path: _Path, known: Taxonomy) -> str | None:
    """The node of a known tree at this path, where either may begin at another folder of the other."""
    folder = "/".join(path)
    for node in known.nodes:
        if node.rpartition("/")[2] == path[-1]:
            other = known.folder_of(node)
            if f"/{folder}".endswith(f"/{other}") or f"/{other}".endswith(f"/{folder}"):
                return node
    return None
