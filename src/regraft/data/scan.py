"""Find the labelled images in a folder, an archive, a table or remote storage.

Enters: a path or URL, as `sources` opens it. Leaves: a `Dataset`, every file of which was read and decoded once;
whatever was left out is named with its reason.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from regraft.data.dataset import PARTS, Dataset, Pair, Part, Sample
from regraft.data.decode import MAX_PIXELS
from regraft.data.duplicates import DUPLICATES_VERSION, Forest, find_twins
from regraft.data.facts import FACTS_VERSION
from regraft.data.groups import compile_pattern, group_by_pattern
from regraft.data.layout import spelled_alike
from regraft.data.reading import Progress, Reader
from regraft.data.sources import open_data
from regraft.data.storage import Folder
from regraft.data.urls import shown
from regraft.errors import DataError, UsageError, counted, listed
from regraft.store import Store, name_of

OnBad = Literal["skip", "error"]

#: The note that nobody needs who inspects already.
LOOK = "`regraft inspect` shows them."
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
        workers: Threads that read and decode, or processes where the files are many; default: one a core, more where
            a network is waited for.
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
        reader = Reader(opened.storage, opened.root, max_pixels, store)
        threads = max(_CONNECTIONS if opened.is_remote else 1, os.cpu_count() or 1)
        samples, bad = reader.read(found, workers or threads, progress, apart=not opened.is_remote)
        bad = sorted([*layout.bad, *bad], key=lambda b: b.path)
        pairs: tuple[Pair, ...] = ()
        if twins:
            samples, pairs = _with_twins(samples, reader, store, compare)
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
    for names in spelled_alike(classes):
        notes = [*notes, f"The classes {' and '.join(map(repr, names))} differ only in how they are spelled."]
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


def _with_twins(
    samples: Sequence[Sample], reader: Reader, store: Store, compare: Progress | None
) -> tuple[list[Sample], tuple[Pair, ...]]:
    """The samples with the sets of near duplicates that they are in, and the pairs."""
    of_content: dict[str, int] = {}
    for i, sample in enumerate(samples):
        of_content.setdefault(sample.sha256, i)
    numbers = np.array([of_content[content] for content in sorted(of_content)], np.int64)

    known = store.table(
        "twins",
        {"images": name_of(*sorted(of_content)).hex(), "facts": FACTS_VERSION, "version": DUPLICATES_VERSION},
        (4,),
        np.float64,
    )
    kept = known.read_list()
    if kept is None:
        rows = reader.find_thumbs([samples[i] for i in numbers])
        sides = np.array([min(samples[i].size or (0, 0)) for i in numbers])
        kept = known.write_list(find_twins(lambda i: reader.thumbs.read(rows[i]), sides, progress=compare))
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
            f"{counted(len(conflicts), 'picture has', 'pictures have')} more than one label (copies or near "
            f"duplicates), for example {first.path} and {other.path}."
        )
    if near or leaks or conflicts:
        yield LOOK
