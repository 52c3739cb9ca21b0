"""Assign every image to train, val or test.

Enters: a `Dataset`. Leaves: a `Split`. Images that belong together (one group, or the same bytes) share a
part; classes keep their proportions; the same data, fractions and seed give the same split.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from regraft.data.dataset import PARTS, Dataset, Part, Sample, Split
from regraft.data.duplicates import Forest
from regraft.data.manifest import PART_NAMES
from regraft.errors import UsageError
from regraft.files import csv_text, write_text

#: The names of parts: train, val and test, or of folds.
P = TypeVar("P", bound=str)


def split(
    dataset: Dataset,
    *,
    train: float = 0.8,
    val: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    keep: Split | Path | str | None = None,
) -> Split:
    """Divide a data set, keeping the parts that it has.

    Data that comes in parts keeps them; a missing val or test part is taken from train, `val` or `test` of
    all images that are in train. Otherwise all images are divided by the three fractions. When images are added to a
    class, few of the others change their part; with `keep`, none.

    Args:
        dataset: What `scan` returned.
        train: Fraction of the images for train, above 0.
        val: Fraction for val, 0 or more.
        test: Fraction for test, 0 or more. The three add up to 1.
        seed: Another seed, another split.
        keep: An earlier split, or its `split.csv`: what was in it, by content or by path, stays in its part, and what
            shows the same as something in it joins that.

    Raises:
        UsageError: The fractions are negative or do not add up to 1, or `keep` is no split.
    """
    fractions: dict[Part, float] = {"train": train, "val": val, "test": test}
    if not (train > 0 <= min(val, test) and abs(train + val + test - 1) <= 1e-6):
        raise UsageError(
            f"train={train:g}, val={val:g}, test={test:g}; expected fractions from 0 to 1 that add up to 1."
        )
    given = {s.part for s in dataset.samples if s.part is not None}
    if not given:
        kept = {} if keep is None else _kept(dataset.samples, keep)
        return Split(_divided(dataset, dataset.samples, fractions, seed, kept))
    missing = {part: fractions[part] for part in PARTS if part not in given and fractions[part] > 0}
    if not missing:
        return Split(dataset)
    pool = [s for s in dataset.samples if s.part == "train"]
    kept = (
        {}
        if keep is None
        else {path: part for path, part in _kept(pool, keep).items() if part not in given - {"train"}}
    )
    return Split(_divided(dataset, pool, {"train": 1 - sum(missing.values()), **missing}, seed, kept))


def folds(dataset: Dataset, k: int = 5, *, repeats: int = 1, seed: int = 0) -> Iterator[Split]:
    """k-fold splits: every image is in test once for each repeat, and otherwise in train.

    Args:
        dataset: What `scan` returned; parts that it has do not count.
        k: Number of folds, at least 2.
        repeats: How often all of it is divided, each time otherwise.
        seed: Another seed, other folds.

    Yields:
        k x repeats splits, repeat by repeat.

    Raises:
        UsageError: As `fold_numbers`, or `repeats` is below 1.
    """
    if repeats < 1:
        raise UsageError(f"repeats={repeats}; expected at least 1.")
    for repeat in range(repeats):
        numbers = fold_numbers(dataset, k, seed=f"{seed}/{repeat}" if repeat else seed)
        for number in range(k):
            parts: list[Part] = ["test" if n == number else "train" for n in numbers]
            yield Split(dataset.with_samples([replace(s, part=p) for s, p in zip(dataset.samples, parts, strict=True)]))


def fold_numbers(dataset: Dataset, k: int = 5, *, seed: int | str = 0) -> np.ndarray:
    """The number of the fold that each sample is in, int64 (N,), 0 to k - 1.

    Folds are stratified, and what belongs together (one group, or the same picture) shares a fold.

    Raises:
        UsageError: `k` is below 2 or above the number of images that may be divided.
    """
    bundles = len(set(bundle_ids(dataset.samples).tolist()))
    if not 2 <= k <= bundles:
        raise UsageError(f"k={k}; expected 2 to {bundles} folds: so many images may be divided.")
    shares = {str(number): 1 / k for number in range(k)}
    fold_of = dict(_assign(dataset.samples, shares, seed, {}, everywhere=False))
    numbers = np.array([int(fold_of[s.path]) for s in dataset.samples], dtype=np.int64)
    ids = bundle_ids(dataset.samples)
    for empty in sorted(set(range(k)) - set(numbers.tolist())):  # few bundles, unlike in size
        of_fold = [np.unique(ids[numbers == number]) for number in range(k)]
        numbers[ids == max(of_fold, key=len)[-1]] = empty
    return numbers


def write_split(path: Path, split: Split) -> None:
    """Write `path,label,part,sha256`; `scan(path, root=split.dataset.root)` reads the same split back."""
    write_text(path, split_text(split))


def split_text(split: Split) -> str:
    """What `write_split` writes."""
    rows = ((s.path, s.label, s.part, s.sha256) for s in split.dataset.samples)
    return csv_text(("path", "label", "part", "sha256"), rows)


def _kept(pool: Sequence[Sample], keep: Split | Path | str) -> dict[str, Part]:
    """The part of every sample that has one in an earlier split."""
    if isinstance(keep, Split):
        rows = [(s.path, s.sha256, str(s.part)) for s in keep.dataset.samples]
    else:
        rows = _read_split(Path(keep))
    by_content = {sha256: part for _, sha256, part in rows if sha256}
    by_path = {path: part for path, _, part in rows}
    found = {s.path: by_content.get(s.sha256, by_path.get(s.path)) for s in pool}
    return {path: PART_NAMES[part] for path, part in found.items() if part}


def _read_split(path: Path) -> list[tuple[str, str, str]]:
    """Path, SHA-256 (or nothing) and part of each row of a `split.csv`."""
    path = path / "split.csv" if path.is_dir() else path
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{path} cannot be read: {error}. Expected a split.csv, or a folder that holds one."
        ) from error
    parts = [(row.get("part") or row.get("split") or "").lower() for row in rows]
    if not rows or not all(row.get("path") for row in rows) or set(parts) - set(PART_NAMES):
        raise UsageError(f"{path} is no split: expected the columns path and part (train, val, test), and sha256.")
    return [(row["path"], row.get("sha256") or "", PART_NAMES[part]) for row, part in zip(rows, parts, strict=True)]


def _divided(
    dataset: Dataset, pool: Sequence[Sample], fractions: Mapping[Part, float], seed: int, kept: Mapping[str, Part]
) -> Dataset:
    assigned = dict(_assign(pool, fractions, seed, kept))
    return dataset.with_samples([replace(s, part=assigned.get(s.path, s.part)) for s in dataset.samples])


def _assign(
    pool: Sequence[Sample],
    fractions: Mapping[P, float],
    seed: int | str,
    kept: Mapping[str, P],
    *,
    everywhere: bool = True,
) -> Iterator[tuple[str, P]]:
    """Give each bundle a part.

    First come bundles of several images, the large ones first, in an order drawn by the seed: each goes where it
    brings the classes nearest to their quotas, by least squares. Then single images, in an order drawn by the seed,
    fill the last part, then the one before it and so on: an image that is added moves the ends of the parts by one
    at most, and a class of single images meets its quotas exactly. When a class has no more bundles than parts that
    still have none of it, these are served from the first part on.

    Args:
        pool: What is to be divided.
        fractions: By part; the first one takes what is left over.
        seed: Of the order.
        kept: Parts of samples, by path, that are not to change.
        everywhere: Whether the first part has to have an image of every class.
    """
    parts = list(fractions)
    quota = _quotas(Counter(s.label for s in pool), fractions, everywhere=everywhere)
    taken: dict[str, Counter[P]] = defaultdict(Counter)
    free: list[list[Sample]] = []
    for bundle in _bundles(pool):
        held = [kept[s.path] for s in bundle if s.path in kept]
        if not held:
            free.append(bundle)
            continue
        of_group = {s.group: kept[s.path] for s in bundle if s.path in kept and s.group is not None}
        for sample in bundle:  # what is new in it may join what was apart
            part = kept.get(sample.path, of_group.get(sample.group or "", held[0]))
            taken[sample.label][part] += 1
            yield sample.path, part
    waiting = Counter(label for bundle in free for label in {s.label for s in bundle})

    def lot(bundle: Sequence[Sample]) -> tuple[int, bytes]:
        key = f"{seed}:{min(s.sha256 for s in bundle)}"  # no path: a data set that moves keeps its split
        return -len(bundle), hashlib.sha256(key.encode()).digest()

    def room(part: P, labels: Counter[str], aim: Mapping[str, Mapping[P, int]]) -> int:
        # Adding c images to a lack d changes its square by c**2 - 2*c*d; only d differs between parts.
        return sum(count * (aim[label][part] - taken[label][part]) for label, count in labels.items())

    left: dict[str, dict[P, int]] = {}
    for bundle in sorted(free, key=lot):
        labels = Counter(s.label for s in bundle)
        bare: set[P] = set()
        for label in labels:
            without = {part for part in parts if quota[label][part] and not taken[label][part]}
            if len(without) >= waiting[label]:
                bare |= without
        if bare:
            part = min(bare, key=parts.index)
        elif len(bundle) > 1:
            rooms = [room(part, labels, quota) for part in parts]
            part = parts[rooms.index(max(rooms))]
        else:
            if not left:
                left = {label: _within(count, quota[label], taken[label]) for label, count in waiting.items()}
            part = next((part for part in reversed(parts) if room(part, labels, left) > 0), parts[0])
        for label, count in labels.items():
            taken[label][part] += count
            waiting[label] -= 1
        for sample in bundle:
            yield sample.path, part


def _quotas(counts: Mapping[str, int], fractions: Mapping[P, float], *, everywhere: bool) -> dict[str, dict[P, int]]:
    """Whole numbers for each class, within one of the fractions; `everywhere`, the first part gets at least one.

    What rounding takes from a part in one class it gets back in the next, so that 50 classes of 5 images at
    0.8, 0.1 and 0.1 fill all three parts.
    """
    parts = list(fractions)
    owed = dict.fromkeys(fractions, 0.0)
    quotas: dict[str, dict[P, int]] = {}
    for label, count in sorted(counts.items()):
        exact = {part: count * fraction for part, fraction in fractions.items()}
        quota = {part: int(value + 1e-9) for part, value in exact.items()}
        rest = {part: exact[part] - quota[part] for part in fractions}
        # A part with nothing left over stays as it is, so that no class is more than one image off.
        order = sorted(fractions, key=lambda part: (rest[part] < 1e-9, -rest[part] - owed[part], parts.index(part)))
        for part in order[: count - sum(quota.values())]:
            quota[part] += 1
        if everywhere and quota[parts[0]] == 0:
            donor = max(quota, key=lambda part: quota[part] - exact[part])  # the one that gained most by rounding
            quota[donor] -= 1
            quota[parts[0]] = 1
        for part in fractions:
            owed[part] += exact[part] - quota[part]
        quotas[label] = quota
    return quotas


def _within(count: int, quota: Mapping[P, int], taken: Mapping[P, int]) -> dict[P, int]:
    """Quotas that `count` more images meet: if bundles overfilled some parts, the others share what is left."""
    lacks = {part: max(0, quota[part] - taken[part]) for part in quota}
    total = sum(lacks.values())
    if total <= count:
        return dict(quota)
    shares = {part: lack * count / total for part, lack in lacks.items()}
    whole = {part: int(share) for part, share in shares.items()}
    for part in sorted(shares, key=lambda part: whole[part] - shares[part])[: count - sum(whole.values())]:
        whole[part] += 1
    return {part: taken[part] + whole[part] for part in quota}


def bundle_counts(samples: Sequence[Sample]) -> Counter[str]:
    """Images of each class that may be divided: bundles that hold any."""
    pairs = {(s.label, int(b)) for s, b in zip(samples, bundle_ids(samples), strict=True)}
    return Counter(label for label, _ in pairs)


def bundle_ids(samples: Sequence[Sample]) -> np.ndarray:
    """The number of the bundle of each sample, int64 (N,): one group, or the same picture, is one bundle."""
    _, numbers = np.unique(_joined(samples), return_inverse=True)
    return numbers.astype(np.int64)


def _bundles(pool: Sequence[Sample]) -> list[list[Sample]]:
    """Samples that must stay together, in the order of the first of each."""
    bundles: dict[int, list[Sample]] = defaultdict(list)
    for root, sample in zip(_joined(pool), pool, strict=True):
        bundles[root].append(sample)
    return list(bundles.values())


def _joined(pool: Sequence[Sample]) -> list[int]:
    """The first sample that each belongs to: one group, the same bytes or the same picture, followed transitively."""
    sets = Forest(len(pool))
    for values in ([s.sha256 for s in pool], [s.group for s in pool], [s.twins for s in pool]):
        first: dict[str, int] = {}
        for i, value in enumerate(values):
            if value is not None and (before := first.setdefault(value, i)) != i:
                sets.join(i, before)
    return [sets.root(i) for i in range(len(pool))]
