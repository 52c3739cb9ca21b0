"""Split a data set into train, val and test, or into folds.

Samples that belong together are inseparable: one group, the same bytes or nearly the same picture. They stay in one
part. Classes keep their proportions. The same data, fractions and seed give the same split.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from regraft.atomic_io import csv_text, write_text
from regraft.data.dataset import PARTS, Dataset, Part, Sample, Split
from regraft.data.sources.manifest import PART_NAMES
from regraft.data.union_find import UnionFind
from regraft.errors import UsageError, suggest_names
from regraft.text import join_truncated

#: Names of parts: train, val and test, or fold numbers.
P = TypeVar("P", bound=str)

#: Fraction of the images for val, and for test.
_DEFAULT = 0.1


@suggest_names
def split(
    dataset: Dataset,
    *,
    train: float | None = None,
    val: float | None = None,
    test: float | None = None,
    seed: int = 0,
    keep: Split | Path | str | None = None,
) -> Split:
    """Split a data set into train, val and test.

    Data that comes in parts keeps them. A missing val or test part is taken from train: the fraction `val` or `test` of
    the images in train. Otherwise all images are split by the three fractions, and of a class with three images or more
    that can be separated, each part gets one. When images are added to a class, few of the others change their part;
    with `keep`, none do.

    Args:
        dataset: Data set from `scan`.
        train: Fraction of the images for train, above 0. Default: the rest.
        val: Fraction for val, 0 or more. Default: 0.1.
        test: Fraction for test, 0 or more. Default: 0.1. The three fractions add up to 1.
        seed: Random seed.
        keep: An earlier split, or its `split.csv`. Samples found in it by content or path keep their part, and samples
            inseparable from them join them.

    Raises:
        UsageError: The fractions are negative, do not add up to 1, or are given for parts that the data has already;
            or `keep` is not a split.

    Examples:
        >>> parts = regraft.split(regraft.scan("photos"), train=0.5, val=0.25, test=0.25)
        >>> {part: len(parts[part]) for part in parts}
        {'train': 18, 'val': 9, 'test': 9}
    """
    wanted: dict[Part, float | None] = {"train": train, "val": val, "test": test}
    val, test = (_DEFAULT if share is None else share for share in (val, test))
    fractions: dict[Part, float] = {"train": 1 - val - test if train is None else train, "val": val, "test": test}
    if not (fractions["train"] > 0 <= min(fractions.values()) and abs(sum(fractions.values()) - 1) <= 1e-6):
        received = ", ".join(f"{part}={share:g}" for part, share in fractions.items())
        raise UsageError(f"{received}; expected fractions from 0 to 1 that add up to 1.")
    if not isinstance(dataset, Dataset):
        raise UsageError(f"split(dataset) got a {type(dataset).__name__}; expected what regraft.scan returns.")
    predefined = {s.part for s in dataset.samples if s.part is not None}
    pool = [s for s in dataset.samples if s.part == ("train" if predefined else None)]
    if predefined:
        missing = {part: fractions[part] for part in PARTS if part not in predefined and fractions[part] > 0}
        _refuse_shares(
            {p: s for p, s in wanted.items() if p in predefined and (p != "train" or not missing)}, predefined
        )
        if not missing:
            return Split(dataset)
        fractions = {"train": 1 - sum(missing.values()), **missing}
    kept = {} if keep is None else _kept_parts(pool, keep)
    kept = {path: part for path, part in kept.items() if part not in predefined - {"train"}}
    assigned = dict(_assign(pool, fractions, seed, kept))
    return Split(dataset.with_samples([replace(s, part=assigned.get(s.path, s.part)) for s in dataset.samples]))


def _refuse_shares(wanted: Mapping[Part, float | None], given: Set[Part]) -> None:
    """Refuse shares of parts that the data brings along: they would have no effect."""
    if useless := [f"{part}={share:g}" for part, share in wanted.items() if share is not None]:
        raise UsageError(
            f"The data is divided already, into {join_truncated(part for part in PARTS if part in given)}, so "
            f"{', '.join(useless)} would have no effect. Leave the share out, or merge the parts before."
        )


@suggest_names
def folds(dataset: Dataset, k: int = 5, *, repeats: int = 1, seed: int = 0) -> Iterator[Split]:
    """Repeated k-fold cross-validation: in each repeat every image is in test once, and in train otherwise.

    Args:
        dataset: Data set from `scan`; its parts are ignored.
        k: Number of folds, at least 2.
        repeats: Number of repeats, each with other folds.
        seed: Random seed.

    Yields:
        k x repeats splits, repeat by repeat.

    Raises:
        UsageError: As for `fold_numbers`, or `repeats` is below 1.

    Examples:
        >>> [len(fold.test) for fold in regraft.folds(regraft.scan("photos"), k=3)]
        [12, 12, 12]
    """
    if not isinstance(dataset, Dataset):
        raise UsageError(f"folds(dataset) got a {type(dataset).__name__}; expected what regraft.scan returns.")
    if repeats < 1:
        raise UsageError(f"repeats={repeats}; expected at least 1.")
    for repeat in range(repeats):
        numbers = fold_numbers(dataset, k, seed=f"{seed}/{repeat}" if repeat else seed)
        for number in range(k):
            parts: list[Part] = ["test" if n == number else "train" for n in numbers]
            yield Split(dataset.with_samples([replace(s, part=p) for s, p in zip(dataset.samples, parts, strict=True)]))


def fold_numbers(dataset: Dataset, k: int = 5, *, seed: int | str = 0) -> np.ndarray:
    """Number of the fold, 0 to k - 1, of each sample, int64 (N,); folds are stratified and keep inseparable samples.

    Raises `UsageError` if `k` is below 2 or above the number of separable sets of samples.
    """
    ids = inseparable_set_ids(dataset.samples)
    separable = len(np.unique(ids))
    if not 2 <= k <= separable:
        raise UsageError(f"k={k}; expected 2 to {separable} folds: the number of images that may be separated.")
    fold_of = dict(_assign(dataset.samples, {str(number): 1 / k for number in range(k)}, seed, {}, all_in_first=False))
    numbers = np.array([int(fold_of[s.path]) for s in dataset.samples], dtype=np.int64)
    for empty in sorted(set(range(k)) - set(numbers.tolist())):  # few inseparable sets of very different sizes
        ids_in_fold = [np.unique(ids[numbers == number]) for number in range(k)]
        numbers[ids == max(ids_in_fold, key=len)[-1]] = empty
    return numbers


def write_split(path: Path, split: Split) -> None:
    """Write `path,label,part,sha256`; `scan(path, root=split.dataset.root)` reads the same split back."""
    write_text(path, split_text(split))


def split_text(split: Split) -> str:
    """The CSV text that `write_split` writes."""
    rows = ((s.path, s.label, s.part, s.sha256) for s in split.dataset.samples)
    return csv_text(("path", "label", "part", "sha256"), rows)


def _kept_parts(pool: Sequence[Sample], keep: Split | Path | str) -> dict[str, Part]:
    """The part of every sample that is in an earlier split, by path."""
    if isinstance(keep, Split):
        rows = [(s.path, s.sha256, str(s.part)) for s in keep.dataset.samples]
    else:
        rows = _read_split(Path(keep))
    by_content = {sha256: part for _, sha256, part in rows if sha256}
    by_path = {path: part for path, _, part in rows}
    part_of = {s.path: by_content.get(s.sha256, by_path.get(s.path)) for s in pool}
    return {path: PART_NAMES[part] for path, part in part_of.items() if part}


def _read_split(path: Path) -> list[tuple[str, str, str]]:
    """Path, SHA-256 (or an empty string) and part of each row of a `split.csv`."""
    path = path / "split.csv" if path.is_dir() else path
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}. Expected a split.csv, or a folder with one.") from error
    parts = [(row.get("part") or row.get("split") or "").lower() for row in rows]
    if not rows or not all(row.get("path") for row in rows) or set(parts) - set(PART_NAMES):
        raise UsageError(f"{path} is not a split: expected the columns path and part (train, val, test), and sha256.")
    return [(row["path"], row.get("sha256") or "", PART_NAMES[part]) for row, part in zip(rows, parts, strict=True)]


def _assign(
    pool: Sequence[Sample],
    fractions: Mapping[P, float],
    seed: int | str,
    kept: Mapping[str, P],
    *,
    all_in_first: bool = True,
) -> Iterator[tuple[str, P]]:
    """Assign each inseparable set of samples to a part; yields (path, part).

    Sets of several images come first, the large ones first, in an order drawn by the seed. Each goes to the part that
    brings the classes nearest to their quotas, by least squares. Then single images, in an order drawn by the seed,
    fill the last part, then the one before it and so on. So an added image moves the boundary between two parts by at
    most one image, and a class of single images meets its quotas exactly. When a class has no more sets left than parts
    without it, these parts get them, from the first part on. The first part also takes the remainder and, with
    `all_in_first`, needs an image of every class. `kept` has the parts of samples, by path, that must not change.
    """
    parts = list(fractions)
    quota = _quotas(Counter(s.label for s in pool), fractions, all_in_first=all_in_first)
    counts: dict[str, Counter[P]] = defaultdict(Counter)
    free: list[list[Sample]] = []
    inseparable: dict[int, list[Sample]] = defaultdict(list)
    for root, sample in zip(_connected(pool), pool, strict=True):
        inseparable[root].append(sample)
    for samples in inseparable.values():
        part_of = {s.path: kept[s.path] for s in samples if s.path in kept}
        if not part_of:
            free.append(samples)
            continue
        first_part = next(iter(part_of.values()))
        part_of_group = {s.group: kept[s.path] for s in samples if s.path in kept and s.group is not None}
        for sample in samples:  # new samples may connect kept ones that are in different parts
            part = part_of.get(sample.path, part_of_group.get(sample.group or "", first_part))
            counts[sample.label][part] += 1
            yield sample.path, part
    remaining = Counter(label for samples in free for label in {s.label for s in samples})

    def order(samples: Sequence[Sample]) -> tuple[int, bytes]:
        key = f"{seed}:{min(s.sha256 for s in samples)}"  # not the path: data that moves keeps its split
        return -len(samples), hashlib.sha256(key.encode()).digest()

    def gain(part: P, labels: Counter[str], target: Mapping[str, Mapping[P, int]]) -> int:
        # Adding c images where d are missing changes the squared error by c**2 - 2*c*d; only d differs between parts.
        return sum(count * (target[label][part] - counts[label][part]) for label, count in labels.items())

    rest: dict[str, dict[P, int]] = {}
    for samples in sorted(free, key=order):
        labels = Counter(s.label for s in samples)
        parts_without_class: set[P] = set()
        for label in labels:
            without = {part for part in parts if quota[label][part] and not counts[label][part]}
            if len(without) >= remaining[label]:
                parts_without_class |= without
        if parts_without_class:
            part = min(parts_without_class, key=parts.index)
        elif len(samples) > 1:
            gains = [gain(part, labels, quota) for part in parts]
            part = parts[gains.index(max(gains))]
        else:
            if not rest:
                rest = {label: _fit(count, quota[label], counts[label]) for label, count in remaining.items()}
            part = next((part for part in reversed(parts) if gain(part, labels, rest) > 0), parts[0])
        for label, count in labels.items():
            counts[label][part] += count
            remaining[label] -= 1
        for sample in samples:
            yield sample.path, part


def _quotas(counts: Mapping[str, int], fractions: Mapping[P, float], *, all_in_first: bool) -> dict[str, dict[P, int]]:
    """Number of images of each class for each part, within one image of the fractions.

    A part that loses by rounding in one class gains in the next, so that 50 classes of 2 images fill all parts. With
    `all_in_first`, the first part gets an image of each class, and from three images on each part that is wanted does.
    """
    parts = list(fractions)
    rounding_debt = dict.fromkeys(fractions, 0.0)
    quotas: dict[str, dict[P, int]] = {}
    for label, count in sorted(counts.items()):
        exact = {part: count * fraction for part, fraction in fractions.items()}
        quota = {part: int(value + 1e-9) for part, value in exact.items()}
        rest = {part: exact[part] - quota[part] for part in fractions}
        # A part without a remainder stays as it is, so that no class is off by more than one image.
        order = sorted(
            fractions, key=lambda part: (rest[part] < 1e-9, -rest[part] - rounding_debt[part], parts.index(part))
        )
        for part in order[: count - sum(quota.values())]:
            quota[part] += 1
        if all_in_first and quota[parts[0]] == 0:
            donor = max(quota, key=lambda part: quota[part] - exact[part])  # gained most by rounding
            quota[donor] -= 1
            quota[parts[0]] = 1
        for part in parts if all_in_first and count >= len(PARTS) else ():
            if fractions[part] > 0 and quota[part] == 0:
                quota[max(quota, key=quota.__getitem__)] -= 1
                quota[part] = 1
        for part in fractions:
            rounding_debt[part] += exact[part] - quota[part]
        quotas[label] = quota
    return quotas


def _fit(count: int, quota: Mapping[P, int], counts: Mapping[P, int]) -> dict[P, int]:
    """Quotas that `count` more images can meet: if some parts are overfull, the others share what is left."""
    missing = {part: max(0, quota[part] - counts[part]) for part in quota}
    total = sum(missing.values())
    if total <= count:
        return dict(quota)
    shares = {part: number * count / total for part, number in missing.items()}
    whole = {part: int(share) for part, share in shares.items()}
    for part in sorted(shares, key=lambda part: whole[part] - shares[part])[: count - sum(whole.values())]:
        whole[part] += 1
    return {part: counts[part] + whole[part] for part in quota}


def inseparable_set_counts(samples: Sequence[Sample]) -> Counter[str]:
    """Number of inseparable sets that contain each class."""
    pairs = {(s.label, int(b)) for s, b in zip(samples, inseparable_set_ids(samples), strict=True)}
    return Counter(label for label, _ in pairs)


def inseparable_set_ids(samples: Sequence[Sample]) -> np.ndarray:
    """Number of the inseparable set of each sample, int64 (N,); a set has one group or nearly the same picture."""
    _, numbers = np.unique(_connected(samples), return_inverse=True)
    return numbers.astype(np.int64)


def _connected(pool: Sequence[Sample]) -> list[int]:
    """For each sample, return the first one that group, bytes or near duplicates connect it to, directly or not."""
    sets = UnionFind(len(pool))
    for values in ([s.sha256 for s in pool], [s.group for s in pool], [s.near_duplicate_group for s in pool]):
        first: dict[str, int] = {}
        for i, value in enumerate(values):
            if value is not None and (before := first.setdefault(value, i)) != i:
                sets.union(i, before)
    return sets.roots()
