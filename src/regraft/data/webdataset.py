"""WebDataset shards: tars in which an image `key.jpg` has its label beside it, in `key.cls` or `key.json`.

Enters: open tars. Leaves: a `Layout`. The format: members whose names are the same up to the first dot after the last
slash are one sample (webdataset.github.io).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence

from regraft.data.archives import Archive
from regraft.data.layout import Found, Layout, is_image, layout_of, part_of_shard
from regraft.data.manifest import class_of
from regraft.errors import DataError, listed

#: Files that name the classes, one a line, in the order of the labels' numbers.
CLASS_FILES = ("classes.txt", "classnames.txt", "classnames")
_LABELS = ("cls", "json")


def is_webdataset(archive: Archive) -> bool:
    """Whether a tar is a shard: some image has a `.cls` beside it; or a `.json`, if there are no folders of classes."""
    beside: set[str] = set()
    folders: set[str] = set()
    for members in _samples(archive).values():
        if images := [name for name, _ in members if is_image(name)]:
            beside.update(kind for _, kind in members)
            folders.add(images[0].rpartition("/")[0])
    return "cls" in beside or ("json" in beside and len(folders) == 1)


def read_webdataset(shards: Mapping[str, Archive], classes: Sequence[str], name: str) -> Layout:
    """The layout of shards.

    Args:
        shards: By their names; the name of a lone one is empty.
        classes: Names of the numbers that are labels; empty: the numbers are the names.
        name: Of the storage, for messages.

    Raises:
        DataError: A sample has several images, a label's number has no name, no sample has a label, or some shards'
            names tell a part and some tell none.
        OSError: A label cannot be read.
    """
    found: list[Found] = []
    ignored: list[str] = []
    unlabelled: list[str] = []
    for shard, archive in shards.items():
        prefix, part = (f"{shard}/", part_of_shard(shard)) if shard else ("", None)
        for key, members in _samples(archive).items():
            images = [member for member, _ in members if is_image(member)]
            image = _image(f"{name}: {prefix}{key}", images, key)
            ignored += [prefix + n for n, kind in members if n != image and kind not in _LABELS]
            if not image:
                continue
            label = _label(archive, {kind: member for member, kind in members})
            if label:
                found.append(Found(prefix + image, class_of(label, classes, f"{name}: {prefix}{key}"), part))
            else:
                unlabelled.append(prefix + image)
    if not found:
        raise DataError(
            f"{name} has no labels: no image has a .cls or .json with a `label` beside it. Expected key.jpg and "
            "key.cls. For a tar with a folder a class, name the tar."
        )
    layout = layout_of(found, name, "the names of some shards say train, val or test, and of some do not. Rename them.")
    layout.ignored.extend(ignored)
    layout.leave_out(unlabelled, "without a label")
    return layout


def class_names(text: bytes, name: str) -> list[str]:
    """The names in a file of classes.

    Raises:
        DataError: It is not UTF-8, has an empty line, or a name comes twice.
    """
    try:
        names = [line.strip() for line in text.decode("utf-8-sig").strip().splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{name} cannot be read as text in UTF-8: {error}") from error
    if not all(names) or len(set(names)) < len(names):
        twice = sorted({n for n in names if names.count(n) > 1})
        fault = f"{listed(twice)} several times" if all(names) else "an empty line"
        raise DataError(f"{name} has {fault}. Expected a class a line.")
    return names


def _samples(archive: Archive) -> dict[str, list[tuple[str, str]]]:
    """Members of each sample: name, and what follows the key."""
    samples: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in archive.top.files_below:
        folder, slash, file = name.rpartition("/")
        stem, _, kind = file.partition(".")
        samples[folder + slash + stem].append((name, kind.lower()))
    return samples


def _image(where: str, images: Sequence[str], key: str) -> str | None:
    """The image of a sample; of several, the one of a plain ending."""
    plain = [name for name in images if name.count(".", len(key)) == 1] or list(images)
    if len(plain) > 1:
        raise DataError(f"{where} has several images: {listed(plain)}. Expected one a label.")
    return plain[0] if plain else None


def _label(archive: Archive, members: Mapping[str, str]) -> str:
    """The label of a sample, or nothing."""
    if "cls" in members:
        return archive.read(members["cls"]).decode("utf-8", "replace").strip()
    if "json" not in members:
        return ""
    try:
        values = json.loads(archive.read(members["json"]))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{archive.path}: {members['json']} cannot be read as JSON: {error}") from error
    label = values.get("label") if isinstance(values, dict) else None
    return str(label).strip() if isinstance(label, str | int) else ""
