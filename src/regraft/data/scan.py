"""Find the labelled images in a folder or a manifest.

Enters: `root/train|val|test/<class>/`, `root/<class>/`, or a manifest. Leaves: a `Dataset`, every file of which was read and decoded
once; whatever was left out is named with its reason.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from regraft.data.dataset import PARTS, BadFile, Dataset, Part, Sample
from regraft.data.decode import EXTENSIONS, MAX_PIXELS, decode_image
from regraft.data.manifest import PART_NAMES, SUFFIXES, read_manifest
from regraft.errors import DataError, ImageError, UsageError

OnBad = Literal["skip", "error"]
Progress = Callable[[int, int], None]

_JUNK_FILES = frozenset({"thumbs.db", "desktop.ini"})
_JUNK_FOLDERS = frozenset({"__macosx", "@eadir", "$recycle.bin"})
_SHOWN = 10


@dataclass(frozen=True)
class _Found:
    path: str
    label: str
    part: Part | None = None
    group: str | None = None


def scan(
    path: Path | str,
    *,
    on_bad: OnBad = "skip",
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Find, hash and decode every labelled image.

    Args:
        path: A folder `root/<class>/...`, a folder `root/train|val|test/<class>/...`, or a CSV or Parquet manifest.
        on_bad: `skip` leaves unreadable images out and lists them in `Dataset.bad`; `error` raises.
        max_pixels: Larger images count as unreadable.
        workers: Threads that read and decode; default: one a core.
        progress: Called with (files done, files in all).

    Raises:
        UsageError: `path` does not exist or is not one of the three forms.
        DataError: There is no class, one class, an empty class, a class in val or test that train does not have, or (with
            `on_bad="error"`) an unreadable image.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"{path} does not exist. Expected a folder of labelled images, or a CSV or Parquet manifest.")
    ignored: list[str] = []
    folders: list[tuple[Part | None, str]] = []
    if path.is_dir():
        root = path
        found, folders, ignored = _walk(root)
    elif path.suffix.lower() in SUFFIXES:
        root = path.parent
        found = [_Found(Path(row.path).as_posix(), row.label, row.part, row.group) for row in read_manifest(path)]
        if len({f.part is None for f in found}) > 1:
            raise DataError(f"{path}: some rows have a split and some have none. Fill the column for all rows or for none.")
    else:
        raise UsageError(f"{path} is a file. Expected a folder of labelled images, or a manifest ending in .csv or .parquet.")
    found.sort(key=lambda f: f.path)
    samples, bad = _read_all(root, found, max_pixels, workers or os.cpu_count() or 1, progress)
    if bad and on_bad == "error":
        raise DataError(f"{_count(len(bad), 'image')} cannot be read:\n  " + _listed(f"{b.path}: {b.reason}" for b in bad))
    classes = _check_classes(path, samples, folders, {f.label for f in found})
    return Dataset(root, tuple(samples), classes, tuple(bad), tuple(sorted(ignored)), tuple(_notes(samples)))


def find_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """All images below a folder by their endings, hidden and system files left out.

    Returns:
        (images, other files), each sorted.
    """
    images, others = [], []
    for file in _files_below(folder):
        (images if file.suffix.lower() in EXTENSIONS else others).append(file)
    return sorted(images), sorted(others)


def _walk(root: Path) -> tuple[list[_Found], list[tuple[Part | None, str]], list[str]]:
    children = _subfolders(root)
    parts = {child: PART_NAMES[child.name.lower()] for child in children if child.name.lower() in PART_NAMES}
    # A class may be called "train": a part holds class folders, a class holds images.
    has_parts = any(part == "train" and _subfolders(child) for child, part in parts.items())
    class_folders: list[tuple[Part | None, Path]] = []
    ignored: list[str] = []
    if has_parts:
        twice = [name for name, times in Counter(parts.values()).items() if times > 1]
        if twice:
            names = ", ".join(child.name for child, part in parts.items() if part in twice)
            raise DataError(f"{root} has several folders for one part: {names}. Keep one of them.")
        for part_folder, part in parts.items():
            class_folders += [(part, folder) for folder in _subfolders(part_folder)]
            ignored += [_relative(f, root) for f in _plain_files(part_folder)]
        for child in set(children) - set(parts):
            ignored += [_relative(f, root) for f in _files_below(child)]
    else:
        class_folders = [(None, child) for child in children]
    ignored += [_relative(f, root) for f in _plain_files(root)]
    found: list[_Found] = []
    for folder_part, folder in class_folders:
        images, others = find_images(folder)
        found += [_Found(_relative(image, root), folder.name, folder_part) for image in images]
        ignored += [_relative(other, root) for other in others]
    return found, [(part, folder.name) for part, folder in class_folders], ignored


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _is_junk(name: str, folder: bool) -> bool:
    return name.startswith(".") or name.lower() in (_JUNK_FOLDERS if folder else _JUNK_FILES)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not _is_junk(child.name, folder=True))


def _plain_files(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_file() and not _is_junk(child.name, folder=False))


def _files_below(folder: Path) -> Iterator[Path]:
    seen: set[str] = set()  # links may lead back up
    for parent, names, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names[:] = sorted(name for name in names if not _is_junk(name, folder=True))
        yield from (Path(parent, name) for name in files if not _is_junk(name, folder=False))


def _read_all(
    root: Path, found: Sequence[_Found], max_pixels: int, workers: int, progress: Progress | None
) -> tuple[list[Sample], list[BadFile]]:
    def read(item: _Found) -> Sample | BadFile:
        try:
            data = (root / item.path).read_bytes()
            decode_image(data, max_pixels=max_pixels)
        except ImageError as error:
            return BadFile(item.path, error.reason)
        except OSError as error:
            return BadFile(item.path, (error.strerror or str(error)).lower())
        return Sample(item.path, item.label, hashlib.sha256(data).hexdigest(), item.part, item.group)

    samples: list[Sample] = []
    bad: list[BadFile] = []
    with ThreadPoolExecutor(workers) as pool:
        try:
            for done, result in enumerate(pool.map(read, found), start=1):
                if isinstance(result, Sample):
                    samples.append(result)
                else:
                    bad.append(result)
                if progress:
                    progress(done, len(found))
        except BaseException:  # Ctrl-C: the files that wait are not read
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return samples, bad


def _check_classes(
    path: Path, samples: Sequence[Sample], folders: Sequence[tuple[Part | None, str]], named: set[str]
) -> tuple[str, ...]:
    """The sorted class names, or an error that says what is wrong with them."""
    counts: dict[Part | None, Counter[str]] = {}
    for sample in samples:
        counts.setdefault(sample.part, Counter())[sample.label] += 1
    parts = {part for part in counts if part} | {part for part, _ in folders if part}
    learned: Part | None = "train" if parts else None
    in_train = counts.get(learned, Counter())
    if parts and "train" not in parts:
        raise DataError(f"{path} has the parts {_listed(sorted(parts))} but no train part. Expected at least train.")
    empty = sorted(({label for part, label in folders if part == learned} | named) - set(in_train))
    strangers = {
        part: sorted(set(counts[part]) - set(in_train) - {label for p, label in folders if p == "train"})
        for part in PARTS
        if part != "train" and part in counts
    }
    for part, labels in strangers.items():
        if labels:
            raise DataError(
                f"{path}: {part} has {_count(len(labels), 'class', 'classes')} that train does not have: {_listed(labels)}. "
                "A model cannot predict a class that it never saw: add images to train or remove the class."
            )
    where = " in train" if parts else ""
    if not in_train and not empty:
        raise DataError(
            f"{path} has no class: no folder with images. Expected root/<class>/*.jpg, root/train|val|test/<class>/*.jpg, or a "
            "manifest."
        )
    if empty:
        raise DataError(
            f"{path}: {_count(len(empty), 'class', 'classes')} without a readable image{where}: {_listed(empty)}. "
            "Add images or remove the folder."
        )
    if len(in_train) == 1:
        raise DataError(f"{path} has one class{where}, {next(iter(in_train))!r}; a classifier needs at least two.")
    return tuple(sorted(in_train))


def _notes(samples: Sequence[Sample]) -> Iterator[str]:
    by_hash: dict[str, list[Sample]] = {}
    for sample in samples:
        by_hash.setdefault(sample.sha256, []).append(sample)
    same = [group for group in by_hash.values() if len(group) > 1]
    if same:
        yield f"{sum(map(len, same)) - len(same)} exact duplicates of other images."
    leaks = [group for group in same if len({s.part for s in group}) > 1]
    if leaks:
        yield f"{len(leaks)} images are in more than one part (a leak), for example {leaks[0][0].path} and {leaks[0][1].path}."
    conflicts = [group for group in same if len({s.label for s in group}) > 1]
    if conflicts:
        first = conflicts[0]
        yield f"{len(conflicts)} images have more than one label, for example {first[0].path} and {first[1].path}."


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _listed(items: Iterable[str]) -> str:
    items = list(items)
    separator = "\n  " if any(len(item) > 40 for item in items) else ", "
    return separator.join(items[:_SHOWN]) + (f"{separator}and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")
