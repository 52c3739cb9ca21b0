"""Find the labelled images in a folder or a manifest.

Enters: `root/train|val|test/<class>/`, `root/<class>/`, or a manifest. Leaves: a `Dataset`, every file of
which was read and decoded once; whatever was left out is named with its reason.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import PIL

from regraft.data.dataset import PARTS, BadFile, Dataset, Part, Sample
from regraft.data.decode import DECODER_VERSION, EXTENSIONS, MAX_PIXELS, examine_image
from regraft.data.manifest import PART_NAMES, SUFFIXES, read_manifest
from regraft.errors import DataError, ImageError, UsageError
from regraft.store import Store, name_of

OnBad = Literal["skip", "error"]
Progress = Callable[[int, int], None]

_JUNK_FILES = frozenset({"thumbs.db", "desktop.ini"})
_JUNK_FOLDERS = frozenset({"__macosx", "@eadir", "$recycle.bin"})
_SHOWN = 10
#: Files that are in memory at once.
_CHUNK = 32


@dataclass(frozen=True)
class _Found:
    path: str
    label: str
    part: Part | None = None
    group: str | None = None


def scan(
    path: Path | str,
    *,
    root: Path | None = None,
    on_bad: OnBad = "skip",
    classes: Sequence[str] | None = None,
    max_pixels: int = MAX_PIXELS,
    store: Store | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Find, hash and decode every labelled image.

    Args:
        path: A folder `root/<class>/...`, a folder `root/train|val|test/<class>/...`, or a CSV or Parquet
            manifest.
        root: Folder that a manifest's relative paths start from; default: the manifest's own. With the data's
            folder here, a run's `split.csv` can be read where it lies.
        on_bad: `skip` leaves unreadable images out and lists them in `Dataset.bad`; `error` raises.
        classes: Of a model that exists: images of any of these classes, or of one alone, will do, and no
            others.
        max_pixels: Larger images count as unreadable.
        store: Where it is kept which contents are readable, so that they are not decoded again.
        workers: Threads that read and decode; default: one a core.
        progress: Called with (files done, files in all).

    Raises:
        UsageError: `path` does not exist or is not one of the three forms; `on_bad` is neither word; a folder
            has a `root`.
        DataError: There is no class, one class, an empty class, a class in val or test that train does not
            have, a folder that cannot be read, or (with `on_bad="error"`) an unreadable image.
    """
    path = Path(path)
    if on_bad not in get_args(OnBad):
        raise UsageError(f"on_bad={on_bad!r}; expected skip or error.")
    if not path.exists():
        raise UsageError(f"{path} does not exist. Expected a folder of labelled images, or a CSV or Parquet manifest.")
    ignored: list[str] = []
    notes: list[str] = []
    if path.is_dir():
        if root is not None:
            raise UsageError(f"{path} is a folder and its own root; root={root} is for manifests.")
        root = path
        try:
            found, named, ignored = _walk(root)
        except OSError as error:
            raise DataError(
                f"{error.filename or path}: {_reason(error)}. Expected a folder that you may read."
            ) from error
        notes += _notes_on_folders(found, ignored)
    elif path.suffix.lower() in SUFFIXES:
        root = root or path.parent
        found = [_Found(row.path, row.label, row.part, row.group) for row in read_manifest(path, root)]
        named = {(f.part, f.label) for f in found}
        if len({part is None for part, _ in named}) > 1:
            raise DataError(f"{path}: some rows have a split and some have none. Fill the column for all or for none.")
    else:
        raise UsageError(f"{path} is a file. Expected a folder of labelled images, or a manifest: .csv or .parquet.")
    found.sort(key=lambda f: f.path)
    samples, bad = _read_all(root, found, max_pixels, store, workers or os.cpu_count() or 1, progress)
    reasons = _listed((f"{b.path}: {b.reason}" for b in bad), "\n  ")
    unreadable = f"{_count(len(bad), 'image')} cannot be read:\n  {reasons}"
    if bad and on_bad == "error":
        raise DataError(unreadable)
    try:
        if classes is None:
            classes = _check_classes(path, samples, named)
        else:
            _check_known(path, samples, classes)
    except DataError as error:
        if not bad:
            raise
        raise DataError(f"{error}\n{unreadable}") from None
    notes += _notes_on_copies(samples)
    return Dataset(root, tuple(samples), tuple(classes), tuple(bad), tuple(sorted(ignored)), tuple(notes), max_pixels)


def find_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """All images below a folder by their endings, hidden and system files left out.

    Returns:
        (images, other files), each sorted.

    Raises:
        OSError: A folder cannot be read.
    """
    images: list[Path] = []
    others: list[Path] = []
    for file in _files_below(folder):
        (images if file.suffix.lower() in EXTENSIONS else others).append(file)
    return sorted(images), sorted(others)


def _walk(root: Path) -> tuple[list[_Found], set[tuple[Part | None, str]], list[str]]:
    """The images, all classes of all parts that have a folder, and the files that are neither."""
    children = _subfolders(root)
    parts = {child: PART_NAMES[child.name.lower()] for child in children if child.name.lower() in PART_NAMES}
    # A class may be called "train": a part holds class folders, a class holds images.
    holders = [part for child, part in parts.items() if _subfolders(child)]
    has_parts = "train" in holders or (bool(holders) and len(parts) == len(children))
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
        found += [_Found(_relative(image, root), folder.name.strip(), folder_part) for image in images]
        ignored += [_relative(other, root) for other in others]
    return found, {(part, folder.name.strip()) for part, folder in class_folders}, ignored


def _relative(path: Path, root: Path) -> str:
    name = path.relative_to(root).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{os.fsencode(path)!r} has a name that is not UTF-8; no manifest could hold it. Rename it."
        ) from error
    return name


def _reason(error: OSError | ValueError) -> str:
    return str(getattr(error, "strerror", None) or error).lower()


def _is_junk(name: str, folder: bool) -> bool:
    return name.startswith(".") or name.lower() in (_JUNK_FOLDERS if folder else _JUNK_FILES)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not _is_junk(child.name, folder=True))


def _plain_files(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if not child.is_dir() and not _is_junk(child.name, folder=False))


def _files_below(folder: Path) -> Iterator[Path]:
    seen = set(map(str, Path(os.path.realpath(folder)).parents))  # links may lead back up
    for parent, names, files in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(parent)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names[:] = sorted(name for name in names if not _is_junk(name, folder=True))
        yield from (Path(parent, name) for name in files if not _is_junk(name, folder=False))


def _raise(error: OSError) -> None:
    raise error


def _read_all(
    root: Path,
    found: Sequence[_Found],
    max_pixels: int,
    store: Store | None,
    workers: int,
    progress: Progress | None,
) -> tuple[list[Sample], list[BadFile]]:
    key = {"decoder": DECODER_VERSION, "pillow": PIL.__version__, "max_pixels": max_pixels}
    table = None if store is None else store.table("sizes", key, (2,), np.int32)

    def read(item: _Found) -> bytes | str:
        try:
            return (root / item.path).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: no path at all, such as one with a null byte
            return _reason(error)

    def examine(data: bytes | str) -> tuple[int, int] | str:
        if isinstance(data, str):
            return data
        try:
            return examine_image(data, max_pixels=max_pixels)
        except ImageError as error:
            return error.reason

    samples: list[Sample] = []
    bad: list[BadFile] = []
    with ThreadPoolExecutor(workers) as pool:
        try:
            for start in range(0, len(found), _CHUNK):
                chunk = found[start : start + _CHUNK]
                contents = list(pool.map(read, chunk))
                hashes = list(pool.map(lambda data: hashlib.sha256(data if isinstance(data, bytes) else b""), contents))
                names = [name_of(digest.hexdigest()) for digest in hashes]
                known = np.full(len(chunk), -1) if table is None else table.find(names)
                sizes: list[Any] = [
                    None if table is None or row < 0 else table.read(np.array([row]))[0].tolist() for row in known
                ]
                missing = [i for i, size in enumerate(sizes) if size is None or isinstance(contents[i], str)]
                done = start + len(chunk) - len(missing)
                for i, size in zip(missing, pool.map(examine, [contents[i] for i in missing]), strict=True):
                    sizes[i], done = size, done + 1
                    if progress:
                        progress(done, len(found))
                if progress and not missing:
                    progress(done, len(found))
                good = [i for i in missing if not isinstance(sizes[i], str)]
                if table is not None and good:
                    table.append([names[i] for i in good], np.array([sizes[i] for i in good], np.int32))
                for item, size, digest in zip(chunk, sizes, hashes, strict=True):
                    assert size is not None
                    if isinstance(size, str):
                        bad.append(BadFile(item.path, size))
                    else:
                        width, height = size
                        samples.append(
                            Sample(item.path, item.label, digest.hexdigest(), item.part, item.group, (width, height))
                        )
        except BaseException:  # Ctrl-C: the files that wait are not read
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return samples, bad


def _check_classes(path: Path, samples: Sequence[Sample], named: set[tuple[Part | None, str]]) -> tuple[str, ...]:
    """The sorted class names, or an error that says what is wrong with them."""
    counts: dict[Part | None, Counter[str]] = {}
    for sample in samples:
        counts.setdefault(sample.part, Counter())[sample.label] += 1
    parts = {part for part, _ in named if part}
    learned: Part | None = "train" if parts else None
    in_train = counts.get(learned, Counter())
    if parts and "train" not in parts:
        raise DataError(
            f"{path} has {_listed(part for part in PARTS if part in parts)} but no classes in train. "
            "Expected at least train/<class>/, or a manifest with rows for train."
        )
    to_learn = {label for part, label in named if part == learned}
    empty = sorted(to_learn - set(in_train))
    strangers = {part: sorted(set(counts[part]) - to_learn) for part in PARTS if part != "train" and part in counts}
    for part, labels in strangers.items():
        if labels:
            raise DataError(
                f"{path}: {part} has {_count(len(labels), 'class', 'classes')} that train does not have: "
                f"{_listed(labels)}. A model cannot predict a class that it never saw: add images to train "
                "or remove the class."
            )
    where = " in train" if parts else ""
    if not in_train and not empty:
        raise DataError(
            f"{path} has no class: no folder with images. Expected root/<class>/*.jpg, "
            "root/train|val|test/<class>/*.jpg, or a manifest."
        )
    if empty:
        raise DataError(
            f"{path}: {_count(len(empty), 'class', 'classes')} without a readable image{where}: "
            f"{_listed(empty)}. Add images or remove the class."
        )
    if len(in_train) == 1:
        (only,) = in_train
        inner = _subfolders(path / only) if not parts and (path / only).is_dir() else []
        hint = f" Did you mean {path / only}? It holds {_listed(f.name for f in inner)}." if inner else ""
        raise DataError(f"{path} has one class{where}, {only!r}; a classifier needs at least two.{hint}")
    return tuple(sorted(in_train))


def _check_known(path: Path, samples: Sequence[Sample], classes: Sequence[str]) -> None:
    unknown = sorted({s.label for s in samples} - set(classes))
    if unknown:
        raise DataError(
            f"{path} has {_count(len(unknown), 'class', 'classes')} that the model does not know: "
            f"{_listed(unknown)}. It knows {_listed(classes)}."
        )
    if not samples:
        raise DataError(f"{path} has no image of {_listed(classes)}. Expected root/<class>/*.jpg, or a manifest.")


def _notes_on_folders(found: Sequence[_Found], ignored: Sequence[str]) -> Iterator[str]:
    outside = sorted(name for name in ignored if Path(name).suffix.lower() in EXTENSIONS)
    if outside:
        yield f"{_count(len(outside), 'image')} outside any class folder left out, for example {outside[0]}."
    nested = sorted(f.path for f in found if f.path.count("/") > (1 if f.part is None else 2))
    if nested:
        yield f"{_count(len(nested), 'image')} in folders within a class folder, for example {nested[0]}."


def _notes_on_copies(samples: Sequence[Sample]) -> Iterator[str]:
    by_hash: dict[str, list[Sample]] = {}
    for sample in samples:
        by_hash.setdefault(sample.sha256, []).append(sample)
    same = [group for group in by_hash.values() if len(group) > 1]
    if same:
        copies = sum(map(len, same)) - len(same)
        yield f"{_count(copies, 'exact duplicate', 'exact duplicates')} of other images."
    leaks = [group for group in same if len({s.part for s in group}) > 1]
    if leaks:
        first, *others = leaks[0]
        other = next(s for s in others if s.part != first.part)
        yield (
            f"{_count(len(leaks), 'image is', 'images are')} in more than one part (a leak), "
            f"for example {first.path} and {other.path}."
        )
    conflicts = [group for group in same if len({s.label for s in group}) > 1]
    if conflicts:
        first, *others = conflicts[0]
        other = next(s for s in others if s.label != first.label)
        yield (
            f"{_count(len(conflicts), 'image has', 'images have')} more than one label, "
            f"for example {first.path} and {other.path}."
        )


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _listed(items: Iterable[str], separator: str = ", ") -> str:
    items = list(items)
    return separator.join(items[:_SHOWN]) + (
        f"{separator}and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    )
