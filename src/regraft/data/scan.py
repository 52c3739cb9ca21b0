"""Find the labelled images in a folder, an archive, a table or remote storage.

Enters: a path or URL, as `sources` opens it. Leaves: a `Dataset`, every file of which was read and decoded once;
whatever was left out is named with its reason.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import PIL

from regraft.data.dataset import PARTS, BadFile, Dataset, Pair, Part, Sample
from regraft.data.decode import DECODER_VERSION, MAX_PIXELS
from regraft.data.duplicates import DUPLICATES_VERSION, Forest, find_twins
from regraft.data.facts import FACTS_VERSION, RECORD, THUMB, examine_image, facts_of
from regraft.data.groups import compile_pattern, group_by_pattern
from regraft.data.layout import Found
from regraft.data.sources import open_data
from regraft.data.storage import Folder, Storage
from regraft.data.urls import shown
from regraft.errors import DataError, ImageError, UsageError, counted, listed
from regraft.store import Store, Table, name_of

OnBad = Literal["skip", "error"]
Progress = Callable[[int, int], None]

#: Records that wait to be kept, and files of one task at most.
_CHUNK, _TASK = 256, 16
#: Threads that read where a network is waited for.
_CONNECTIONS = 16


def scan(
    path: Path | str,
    *,
    root: Path | str | None = None,
    group_by: str = "",
    remote: bool = False,
    on_bad: OnBad = "skip",
    classes: Sequence[str] | None = None,
    max_pixels: int = MAX_PIXELS,
    store: Store | None = None,
    twins: bool = True,
    lenient: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
    compare: Progress | None = None,
) -> Dataset:
    """Find, hash and decode every labelled image.

    Args:
        path: One of these:
            a folder `root/<class>/...` or `root/train|val|test/<class>/...`;
            a folder with `metadata.csv` or `.jsonl` (`file_name`, `label`, perhaps `split` and `group`);
            a zip or tar archive with either of them in it;
            a CSV or Parquet manifest (`path`, `label`, perhaps `split` and `group`);
            a Parquet file with images (`image`, `label`, perhaps `split` and `group`), or a folder of them;
            a tar in the WebDataset format, or a folder of them;
            the URL of a folder or manifest, as text, such as `s3://bucket/photos` (the extra `remote`).
        root: What a manifest's relative paths start from: a folder or anything else that `path` may be; default: the
            manifest's own folder. With the data here, a run's `split.csv` can be read where it lies.
        group_by: A regular expression; images in whose paths it finds the same are a group, which a split keeps
            together. What counts is the pattern's group `group`, else all its groups, else all that it matches. Empty:
            no groups but the data's own.
        remote: Whether a manifest may name images elsewhere, by URLs; they are fetched for every reading.
        on_bad: `skip` leaves unreadable images out and lists them in `Dataset.bad`; `error` raises.
        classes: Of a model that exists: images of any of these classes, or of one alone, will do, and no
            others.
        max_pixels: Larger images count as unreadable.
        store: Where it is kept which contents are readable, so that they are not decoded again.
        twins: Whether near duplicates are looked for (`Dataset.pairs`), which a split then keeps together.
        lenient: Classes that cannot be trained on are kept in `Dataset.faults` and raise no error.
        workers: Threads that read and decode; default: one a core, more where a network is waited for.
        progress: Called with (files done, files in all).
        compare: Called with (candidates compared, candidates in all) while near duplicates are looked for.

    Raises:
        UsageError: `path` does not exist or is none of these; it is no manifest and has a `root`; a manifest names
            images by URLs and `remote` is not set; `on_bad` is neither word; `group_by` is no regular expression, or
            the data has groups of its own.
        MissingExtraError: Parquet or a URL needs a package that is not installed.
        DataError: There is no class, one class, an empty class, a class in val or test that train does not
            have, a folder, archive or table that cannot be read, no path that `group_by` matches, or (with
            `on_bad="error"`) an unreadable image.
    """
    if on_bad not in get_args(OnBad):
        raise UsageError(f"on_bad={on_bad!r}; expected skip or error.")
    pattern = compile_pattern(group_by) if group_by else None
    opened = open_data(path, root, remote=remote)
    name, layout = shown(str(path)), opened.layout
    found, notes = sorted(layout.found, key=lambda f: f.path), layout.notes
    if pattern:
        found, more = group_by_pattern(found, pattern)
        notes = [*notes, *more]
    with ExitStack() as stack:
        if store is None:
            store = Store(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="regraft-"))))
        reader = _Reader(opened.storage, opened.root, max_pixels, store)
        threads = max(_CONNECTIONS if opened.is_remote else 1, os.cpu_count() or 1)
        samples, rows, bad = reader.read(found, workers or threads, progress)
        bad = sorted([*layout.bad, *bad], key=lambda b: b.path)
        pairs: tuple[Pair, ...] = ()
        if twins:
            samples, pairs = _with_twins(samples, rows, reader.facts, store, compare)
    reasons = listed((f"{b.path}: {b.reason}" for b in bad), "\n  ")
    unreadable = f"{counted(len(bad), 'image')} cannot be read:\n  {reasons}"
    if bad and on_bad == "error":
        raise DataError(unreadable)
    faults: tuple[str, ...] = ()
    try:
        if classes is None:
            classes = _check_classes(name, samples, layout.named)
        else:
            _check_known(name, samples, classes)
    except DataError as error:
        if not lenient:
            raise DataError(f"{error}\n{unreadable}") if bad else error from None
        faults = (str(error),)
        classes = sorted({label for _, label in layout.named} | {s.label for s in samples})
    return Dataset(
        opened.root,
        tuple(samples),
        tuple(classes),
        tuple(bad),
        tuple(sorted(layout.ignored)),
        (*notes, *_notes_on_copies(samples)),
        max_pixels,
        opened.storage,
        pairs,
        faults,
    )


class _Reader:
    """Reads, hashes and examines each file once; what the store knows of it already is taken from there."""

    def __init__(self, storage: Storage, root: Path | str, max_pixels: int, store: Store) -> None:
        self.storage, self.max_pixels = storage, max_pixels
        self.where = str(root.absolute()) if isinstance(root, Path) else root
        key = {"decoder": DECODER_VERSION, "pillow": PIL.__version__, "max_pixels": max_pixels, "facts": FACTS_VERSION}
        self.hashes = store.table("hashes", {}, (32,), np.uint8)
        self.facts = store.table("facts", key, (RECORD.itemsize,), np.uint8)

    def read(
        self, found: Sequence[Found], workers: int, progress: Progress | None
    ) -> tuple[list[Sample], np.ndarray, list[BadFile]]:
        """Samples in the order of what was found, their rows in the table of facts, int64 (N,), and the unreadable."""
        stamps = [self._stamp(item.path) for item in found]
        digests = self._remembered(stamps)
        rows = np.full(len(found), -1)
        known = [i for i, digest in enumerate(digests) if digest]
        rows[known] = self.facts.find([name_of(digests[i]) for i in known])
        missing = np.flatnonzero(rows < 0)
        done = len(found) - len(missing)
        if progress and done:
            progress(done, len(found))
        reasons: dict[int, str] = {}
        # A task for a thread is several small files: one each would cost as much as reading it.
        length = max(1, min(_TASK, len(missing) // (64 * workers)))
        tasks = [missing[start : start + length].tolist() for start in range(0, len(missing), length)]
        new: dict[int, np.ndarray] = {}
        with ThreadPoolExecutor(workers) as pool:
            try:
                answers = pool.map(lambda task: [self._looked_at(found[i].path) for i in task], tasks)
                for task, answer in zip(tasks, answers, strict=True):
                    for i, (digest, result) in zip(task, answer, strict=True):
                        digests[i] = digest
                        if isinstance(result, str):
                            reasons[i] = result
                        elif result is not None:
                            new[i] = result
                        done += 1
                        if progress:
                            progress(done, len(found))
                    if len(new) >= _CHUNK:
                        self._keep(new, rows, digests, stamps)
            except BaseException:  # Ctrl-C: the files that wait are not read
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        self._keep(new, rows, digests, stamps)
        left = [i for i in missing.tolist() if rows[i] < 0 and i not in reasons]
        rows[left] = self.facts.find([name_of(digests[i]) for i in left])
        for i in left:  # what the store has under this content may be damaged
            if rows[i] < 0:
                result = self._examined(self._read(found[i].path))
                if isinstance(result, str):
                    reasons[i] = result
                else:
                    self._keep({i: result}, rows, digests, stamps)
        self._remember([(stamps[i], digests[i]) for i in left if rows[i] >= 0])
        bad = [BadFile(found[i].path, reason) for i, reason in sorted(reasons.items())]
        good = np.flatnonzero(rows >= 0)
        samples: list[Sample] = []
        for start in range(0, len(good), 4096):
            part = good[start : start + 4096]
            for i, facts in zip(part, facts_of(self.facts.read(rows[part])), strict=True):
                item, size = found[i], (facts.width, facts.height)
                samples.append(Sample(item.path, item.label, digests[i], item.part, item.group, size, facts))
        return samples, rows[good], bad

    def _stamp(self, path: str) -> bytes | None:
        """The name under which the content's hash is remembered; None where the file may have changed unseen."""
        try:
            stamp = self.storage.stamp(path)
        except (OSError, ValueError):  # reading it will tell
            return None
        return None if stamp is None else name_of(self.where, path, *stamp)

    def _remembered(self, stamps: Sequence[bytes | None]) -> list[str]:
        """SHA-256 of each, or an empty text."""
        known = [i for i, stamp in enumerate(stamps) if stamp]
        rows = self.hashes.find([stamp for stamp in stamps if stamp])
        digests = [""] * len(stamps)
        there = rows >= 0
        values = self.hashes.read(rows[there])
        for i, value in zip(np.array(known, np.int64)[there], values, strict=True):
            digests[i] = value.tobytes().hex()
        return digests

    def _remember(self, pairs: Sequence[tuple[bytes | None, str]]) -> None:
        pairs = [(stamp, digest) for stamp, digest in pairs if stamp]
        if pairs:
            values = np.stack([np.frombuffer(bytes.fromhex(digest), np.uint8) for _, digest in pairs])
            self.hashes.append([stamp for stamp, _ in pairs if stamp], values)

    def _keep(
        self, new: dict[int, np.ndarray], rows: np.ndarray, digests: Sequence[str], stamps: Sequence[bytes | None]
    ) -> None:
        """Put records into the store, and their numbers there into `rows`; `new` is emptied."""
        if new:
            values = np.stack(list(new.values())).view(np.uint8).reshape(len(new), -1)
            rows[list(new)] = self.facts.append([name_of(digests[i]) for i in new], values)
            self._remember([(stamps[i], digests[i]) for i in new])
            new.clear()

    def _looked_at(self, path: str) -> tuple[str, np.ndarray | str | None]:
        """The SHA-256 of a file, and what examining it gave: a record, why there is none, or None if it is known."""
        data = self._read(path)
        if isinstance(data, str):
            return "", data
        digest = hashlib.sha256(data).hexdigest()
        return digest, None if name_of(digest) in self.facts else self._examined(data)

    def _examined(self, data: bytes | str) -> np.ndarray | str:
        if isinstance(data, str):
            return data
        try:
            return examine_image(data, max_pixels=self.max_pixels)
        except ImageError as error:
            return error.reason

    def _read(self, path: str) -> bytes | str:
        """The bytes, or why there are none."""
        try:
            return self.storage.read(path)
        except (OSError, ValueError) as error:  # ValueError: no path at all, such as one with a null byte
            return _reason(error)


def _with_twins(
    samples: Sequence[Sample], rows: np.ndarray, facts: Table, store: Store, compare: Progress | None
) -> tuple[list[Sample], tuple[Pair, ...]]:
    """The samples with the sets of near duplicates that they are in, and the pairs."""
    of_content: dict[str, int] = {}
    for i, sample in enumerate(samples):
        of_content.setdefault(sample.sha256, i)
    numbers = np.array([of_content[content] for content in sorted(of_content)], np.int64)

    def pictures(chosen: np.ndarray) -> np.ndarray:
        return facts.read(rows[numbers[chosen]]).view(RECORD)["thumb"].reshape(-1, THUMB, THUMB).copy()

    sides = np.array([min(samples[i].size or (0, 0)) for i in numbers])
    known = store.table(
        "twins",
        {"images": name_of(*sorted(of_content)).hex(), "facts": FACTS_VERSION, "version": DUPLICATES_VERSION},
        (4,),
        np.float64,
    )
    kept = known.read_list()
    if kept is None:
        found = find_twins(pictures, sides, progress=compare)
        kept = known.write_list(
            np.array([(t.first, t.second, t.likeness, t.mirrored) for t in found], np.float64).reshape(-1, 4)
        )
    sets = Forest(len(numbers))
    for first, second, *_ in kept:
        sets.join(int(first), int(second))
    size = Counter(sets.root(i) for i in range(len(numbers)))
    named = {samples[i].sha256: samples[numbers[sets.root(k)]].sha256 for k, i in enumerate(numbers)}
    several = {samples[numbers[root]].sha256 for root, count in size.items() if count > 1}
    marked = [replace(s, twins=named[s.sha256]) if named[s.sha256] in several else s for s in samples]
    pairs = (
        Pair(samples[numbers[int(a)]].path, samples[numbers[int(b)]].path, likeness, bool(mirrored))
        for a, b, likeness, mirrored in kept.tolist()
    )
    return marked, tuple(pairs)


def _reason(error: OSError | ValueError) -> str:
    return str(getattr(error, "strerror", None) or error).lower()


def _check_classes(path: str, samples: Sequence[Sample], named: set[tuple[Part | None, str]]) -> tuple[str, ...]:
    """The sorted class names, or an error that says what is wrong with them."""
    counts: dict[Part | None, Counter[str]] = {}
    for sample in samples:
        counts.setdefault(sample.part, Counter())[sample.label] += 1
    parts = {part for part, _ in named if part}
    learned: Part | None = "train" if parts else None
    in_train = counts.get(learned, Counter())
    if parts and "train" not in parts:
        raise DataError(
            f"{path} has {listed(part for part in PARTS if part in parts)} but no classes in train. "
            "Expected at least train/<class>/, or a manifest with rows for train."
        )
    to_learn = {label for part, label in named if part == learned}
    empty = sorted(to_learn - set(in_train))
    strangers = {part: sorted(set(counts[part]) - to_learn) for part in PARTS if part != "train" and part in counts}
    for part, labels in strangers.items():
        if labels:
            raise DataError(
                f"{path}: {part} has {counted(len(labels), 'class', 'classes')} that train does not have: "
                f"{listed(labels)}. A model cannot predict a class that it never saw: add images to train "
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
            f"{path}: {counted(len(empty), 'class', 'classes')} without a readable image{where}: "
            f"{listed(empty)}. Add images or remove the class."
        )
    if len(in_train) == 1:
        (only,) = in_train
        folder = Path(path) / only
        inner = Folder(folder).top.folders if not parts and folder.is_dir() else []
        hint = f" Did you mean {folder}? It holds {listed(f.name for f in inner)}." if inner else ""
        raise DataError(f"{path} has one class{where}, {only!r}; a classifier needs at least two.{hint}")
    return tuple(sorted(in_train))


def _check_known(path: str, samples: Sequence[Sample], classes: Sequence[str]) -> None:
    unknown = sorted({s.label for s in samples} - set(classes))
    if unknown:
        raise DataError(
            f"{path} has {counted(len(unknown), 'class', 'classes')} that the model does not know: "
            f"{listed(unknown)}. It knows {listed(classes)}."
        )
    if not samples:
        raise DataError(f"{path} has no image of {listed(classes)}. Expected root/<class>/*.jpg, or a manifest.")


def _notes_on_copies(samples: Sequence[Sample]) -> Iterator[str]:
    copies = len(samples) - len({s.sha256 for s in samples})
    if copies:
        yield f"{counted(copies, 'exact duplicate')} of other images."
    sets: dict[str, list[Sample]] = {}
    for sample in samples:
        sets.setdefault(sample.twins or sample.sha256, []).append(sample)
    near = sum(len({s.sha256 for s in same}) - 1 for same in sets.values())
    if near:
        yield f"{counted(near, 'image shows', 'images show')} nearly the same as others; a split keeps them together."
    leaks = [same for same in sets.values() if len({s.part for s in same}) > 1]
    if leaks:
        first, *others = leaks[0]
        other = next(s for s in others if s.part != first.part)
        yield (
            f"{counted(len(leaks), 'picture is', 'pictures are')} in more than one part (a leak), "
            f"for example {first.path} and {other.path}."
        )
    conflicts = [same for same in sets.values() if len({s.label for s in same}) > 1]
    if conflicts:
        first, *others = conflicts[0]
        other = next(s for s in others if s.label != first.label)
        yield (
            f"{counted(len(conflicts), 'picture has', 'pictures have')} more than one label, "
            f"for example {first.path} and {other.path}."
        )
    if near or leaks or conflicts:
        yield "`regraft inspect` shows them."
