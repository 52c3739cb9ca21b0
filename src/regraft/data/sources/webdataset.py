"""Read WebDataset shards: tars in which the label of an image `key.jpg` is in `key.cls` or `key.json`.

Members whose names are equal up to the first dot after the last slash are one sample (webdataset.github.io).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from regraft.data.entries import EntryTable, ImageEntry
from regraft.data.labels import UNSAID, LabelOptions
from regraft.data.sources.archive import Archive
from regraft.data.sources.folders import Layout, layout_of, part_of_shard
from regraft.data.sources.label_cells import ADVICE, form_of_texts, labels_in
from regraft.data.sources.manifest import class_of
from regraft.data.sources.table import text_of
from regraft.data.storage import is_image
from regraft.errors import DataError
from regraft.text import join_truncated

#: Files with the class names, one per line, in the order of the label numbers.
CLASS_FILES = ("classes.txt", "classnames.txt", "classnames")
_LABELS = ("cls", "json")
#: The text of a sample whose list of labels is empty.
_NO_LABELS = "[]"


def is_webdataset(archive: Archive) -> bool:
    """Whether a tar is a shard: an image has a `.cls` file or, if there are no class folders, a `.json` file."""
    beside, folders = set[str](), set[str]()
    for members in _samples(archive).values():
        if images := [name for name, _ in members if is_image(name)]:
            beside.update(kind for _, kind in members)
            folders.add(images[0].rpartition("/")[0])
    return "cls" in beside or ("json" in beside and len(folders) == 1)


def read_webdataset(
    shards: Mapping[str, Archive], classes: Sequence[str], name: str, label_options: LabelOptions = UNSAID
) -> Layout:
    """Read the layout of shards by their names; the name of a single archive is empty.

    Without `classes`, class names by label number, the numbers are the names. A JSON file may have several in a list,
    `label` or `labels`, and a `.cls` file in lines, if the user says that there are several. Raises `DataError` if a
    sample has several images, a label number has no name, no sample has a label, or only some shards name their part;
    `OSError` if a label cannot be read.
    """
    found, texts = EntryTable(), Counter[str]()
    ignored, unlabeled = list[str](), list[str]()
    for shard, archive in shards.items():
        prefix, part = (f"{shard}/", part_of_shard(shard)) if shard else ("", None)
        for key, members in _samples(archive).items():
            images = [member for member, _ in members if is_image(member)]
            image = _image(f"{name}: {prefix}{key}", images, key)
            ignored += [prefix + n for n, kind in members if n != image and kind not in _LABELS]
            if not image:
                continue
            labels = _labels(archive, {kind: member for member, kind in members}, label_options.task == "multilabel")
            if labels is None:
                unlabeled.append(prefix + image)
                continue
            names = [class_of(label, classes, f"{name}: {prefix}{key}") for label in labels.names]
            text = json.dumps(names, ensure_ascii=False) if labels.is_list else names[0]
            texts[text] += 1
            found.append(ImageEntry(prefix + image, text, part))
    form = replace(form_of_texts(texts, name, label_options), has_lists=True)  # texts were written for lists above
    if form.task != "multilabel":  # an image without a class
        unlabeled += [entry.path for entry in found if entry.label == _NO_LABELS]
        found = EntryTable(entry for entry in found if entry.label != _NO_LABELS)
        texts.pop(_NO_LABELS, None)
    if not found:
        raise DataError(
            f"{name} has no labels: no image has a .cls file, or a .json file with `label`. Expected key.jpg and "
            "key.cls. For a tar with a folder for each class, pass the tar itself."
        )
    try:
        read = {text: form.read(text) for text in texts}
    except ValueError as error:
        raise DataError(f"{name}: {error}. {ADVICE}") from None
    found = EntryTable(replace(entry, label=read[entry.label]) for entry in found)
    layout = layout_of(
        found, name, "only some shards have train, val or test in their names. Rename the others.", form.task
    )
    layout.notes.extend(form.notes)
    layout.ignored.extend(ignored)
    layout.ignore(unlabeled, "without a label")
    return layout


def class_names(text: bytes, name: str) -> list[str]:
    """Read a file of class names, one per line, without duplicates."""
    try:
        names = [line.strip() for line in text.decode("utf-8-sig").strip().splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{name} cannot be read as UTF-8 text: {error}") from error
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice or not all(names):
        fault = f"duplicate names: {join_truncated(twice)}" if all(names) else "an empty line"
        raise DataError(f"{name} has {fault}. Expected one class per line.")
    return names


def _samples(archive: Archive) -> dict[str, list[tuple[str, str]]]:
    """Members of each sample by its key: name, and extension in lower case."""
    samples: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in archive.top.files_below:
        folder, slash, file = name.rpartition("/")
        stem, _, kind = file.partition(".")
        samples[folder + slash + stem].append((name, kind.lower()))
    return samples


def _image(where: str, images: Sequence[str], key: str) -> str | None:
    """The image of a sample; of several, the one with a single extension."""
    plain = [name for name in images if name.count(".", len(key)) == 1] or list(images)
    if len(plain) > 1:
        raise DataError(f"{where} has several images: {join_truncated(plain)}. Expected one image for each label.")
    return plain[0] if plain else None


@dataclass(frozen=True)
class _Labels:
    """The labels of a sample, in a list or a single one."""

    names: Sequence[str]
    is_list: bool = False


def _labels(archive: Archive, members: Mapping[str, str], has_several: bool) -> _Labels | None:
    """The labels of a sample, or None if no file has any."""
    if "cls" in members:
        try:
            text = archive.read(members["cls"]).decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{archive.path}: {members['cls']} is not text in UTF-8: {error}") from error
        if has_several:
            return _Labels([line.strip() for line in text.split("\n") if line.strip()], is_list=True)
        if "\n" in text:
            raise DataError(f"{archive.path}: {members['cls']} has several lines; expected one label. {ADVICE}")
        return _Labels([text]) if text else None
    if "json" not in members:
        return None
    try:
        values = json.loads(archive.read(members["json"]))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{archive.path}: {members['json']} cannot be read as JSON: {error}") from error
    label = values.get("label", values.get("labels")) if isinstance(values, dict) else None
    if isinstance(label, list):
        names = labels_in(label)
        return None if names is None else _Labels(names, is_list=len(names) != 1)
    text = text_of(label).strip() if isinstance(label, str | int | float) else ""
    return _Labels([text]) if text else None
