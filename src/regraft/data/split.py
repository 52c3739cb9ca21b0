"""Split a data set into train, val and test, or into folds.

Samples that belong together are inseparable: one group, the same bytes or nearly the same picture. They stay in one
part. Classes keep their proportions. The same data, fractions and seed give the same split.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import TypeVar

import numpy as np

from regraft.data.dataset import Dataset, Split
from regraft.data.labels import Task, classes_in, indicators, names_in
from regraft.data.pooling import Groups, groups_of
from regraft.data.samples import PARTS, Part, Sample, SampleTable
from regraft.data.split_file import kept_parts
from regraft.data.stratification import stratify
from regraft.data.union_find import connected_sets
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
    with `keep`, none do. Images with several labels are stratified by each of them. Where groups get one answer
    (`Dataset.pool_by`), the fractions are those of the groups, whatever the number of their images.

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
            `keep` is not a split, or has images of a group that gets one answer in several parts.

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
    table = dataset.table
    predefined = table.parts_present()
    pool_rows = np.flatnonzero(table.parts == (PARTS.index("train") if predefined else -1))
    if predefined:
        missing = {part: fractions[part] for part in PARTS if part not in predefined and fractions[part] > 0}
        _refuse_shares(
            {p: s for p, s in wanted.items() if p in predefined and (p != "train" or not missing)}, predefined
        )
        if not missing:
            return Split(dataset)
        fractions = {"train": 1 - sum(missing.values()), **missing}
    pool = dataset.with_samples(table.take(pool_rows))
    kept = np.full(len(pool), -1) if keep is None else kept_parts(pool.table, keep)
    names = [*fractions, *(part for part in PARTS if part not in fractions and part not in predefined)]
    kept = np.array([names.index(part) if part in names else -1 for part in (*PARTS, "")])[kept]
    parts = table.parts.copy()
    assigned = _assign(pool, fractions, seed, kept)
    parts[pool_rows] = np.array([PARTS.index(part) for part in names])[assigned]
    return Split(dataset.with_samples(table.with_parts(parts)))


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
            parts = np.where(numbers == number, PARTS.index("test"), PARTS.index("train"))
            yield Split(dataset.with_samples(dataset.table.with_parts(parts)))


def fold_numbers(dataset: Dataset, k: int = 5, *, seed: int | str = 0) -> np.ndarray:
    """Number of the fold, 0 to k - 1, of each sample, int64 (N,); folds are stratified and keep inseparable samples.

    Raises `UsageError` if `k` is below 2 or above the number of separable sets of samples.
    """
    ids = inseparable_set_ids(dataset.samples)
    separable = len(np.unique(ids))
    if not 2 <= k <= separable:
        raise UsageError(f"k={k}; expected 2 to {separable} folds: the number of images that may be separated.")
    fractions, kept = {str(number): 1 / k for number in range(k)}, np.full(len(dataset), -1)
    numbers = _assign(dataset, fractions, seed, kept, all_in_first=False)
    for empty in sorted(set(range(k)) - set(numbers.tolist())):  # few inseparable sets of very different sizes
        ids_in_fold = [np.unique(ids[numbers == number]) for number in range(k)]
        numbers[ids == max(ids_in_fold, key=len)[-1]] = empty
    return numbers


def _assign(
    dataset: Dataset, fractions: Mapping[P, float], seed: int | str, kept: np.ndarray, *, all_in_first: bool = True
) -> np.ndarray:
    """Assign each inseparable set of samples to a part, as `_assign_classes` does, or `stratify` for several labels.

    Groups that get one answer count as one sample each: sizes differ, and parts are of answers.
    """
    if (groups := groups_of(dataset)) is None:
        return _assign_sets(dataset, _Sets(dataset.table), fractions, seed, kept, all_in_first)
    order = np.lexsort((dataset.table.contents, groups.numbers))  # the smallest SHA-256, as in `_Sets.drawn`
    rows = order[np.cumsum(groups.sizes) - groups.sizes]
    one_each = dataset.with_samples(dataset.table.take(rows))
    sets = _Sets(one_each.table, inseparable_set_ids(dataset.samples)[rows])
    kept = _kept_groups(dataset, groups, kept)
    return np.asarray(_assign_sets(one_each, sets, fractions, seed, kept, all_in_first)[groups.numbers])


def _assign_sets(
    dataset: Dataset, sets: _Sets, fractions: Mapping[P, float], seed: int | str, kept: np.ndarray, all_in_first: bool
) -> np.ndarray:
    pool = dataset.strata
    if dataset.task == "multilabel":
        return _assign_several(pool, sets, list(fractions.values()), seed, kept, required=all_in_first)
    return _assign_classes(pool, sets, fractions, seed, kept, all_in_first=all_in_first)


def _kept_groups(dataset: Dataset, groups: Groups, kept: np.ndarray) -> np.ndarray:
    """The part in `kept` of each group, or -1, int64 (G,); `UsageError` if its images are in several."""
    parts = np.full(len(groups), -1)
    np.maximum.at(parts, groups.numbers, kept)
    different = groups.numbers[(kept >= 0) & (kept != parts[groups.numbers])]
    if len(different):
        raise UsageError(
            f"keep has images of the group {groups.names[different[0]]!r} ({dataset.pool_by}) in several parts, and a "
            "group gets one answer. Expected a split that leaves groups whole."
        )
    return parts


def _assign_several(
    pool: SampleTable, sets: _Sets, shares: Sequence[float], seed: int | str, kept: np.ndarray, *, required: bool
) -> np.ndarray:
    """Indices in `shares`, int64 (N,), of images with several labels, by iterative stratification of their sets."""
    assigned = kept.copy()
    order = sets.drawn(np.arange(len(sets.sizes)), pool, seed)
    given = np.full(len(order), -1)
    for place, number in enumerate(order.tolist()):
        rows = sets[number]
        if (kept[rows] >= 0).any():
            _join_kept(rows, assigned, pool.groups.codes)
            given[place] = assigned[rows[0]]
    has = indicators(pool.labels, sorted(classes_in(pool.labels, "multilabel"))).astype(np.int64)
    counts = np.add.reduceat(has[sets.rows], sets.starts) if len(pool) else has
    parts = stratify(counts[order], sets.sizes[order], shares, given=given, required=required)
    part_of_set = np.empty(len(order), np.int64)
    part_of_set[order] = parts
    of_row = np.empty(len(pool), np.int64)
    of_row[sets.rows] = np.repeat(part_of_set, sets.sizes)
    return np.where(assigned >= 0, assigned, of_row)


def _assign_classes(
    pool: SampleTable,
    sets: _Sets,
    fractions: Mapping[P, float],
    seed: int | str,
    kept: np.ndarray,
    *,
    all_in_first: bool,
) -> np.ndarray:
    """Assign each inseparable set of samples to a part: indices in `fractions`, int64 (N,).

    Sets of several images come first, the large ones first, in an order drawn by the seed. Each goes to the part that
    brings the classes nearest to their quotas, by least squares. Then single images, in an order drawn by the seed,
    fill the last part, then the one before it and so on. So an added image moves the boundary between two parts by at
    most one image, and a class of single images meets its quotas exactly. When a class has no more sets left than parts
    without it, these parts get them, from the first part on. The first part also takes the remainder and, with
    `all_in_first`, needs an image of every class. `kept` has the parts that must not change, or -1, (N,); they may be
    others than those of `fractions`.
    """
    parts, assigned = list(fractions), kept.copy()
    codes, names = pool.labels.codes, pool.labels.names.tolist()
    images = {names[code]: count for code, count in enumerate(np.bincount(codes).tolist()) if count}
    quota = _quotas(images, fractions, all_in_first=all_in_first)
    counts: defaultdict[str, Counter[P]] = defaultdict(Counter)
    is_kept = np.logical_or.reduceat(kept[sets.rows] >= 0, sets.starts) if len(pool) else np.zeros(0, bool)
    for number in np.flatnonzero(is_kept).tolist():
        rows = sets[number]
        _join_kept(rows, assigned, pool.groups.codes)
        for label, part in zip(codes[rows].tolist(), assigned[rows].tolist(), strict=True):
            if part < len(parts):
                counts[names[label]][parts[part]] += 1
    order = sets.drawn(np.flatnonzero(~is_kept), pool, seed)
    of_free = ~np.repeat(is_kept, sets.sizes)
    contained = np.unique(np.stack([sets.number_of_row[of_free], codes[sets.rows[of_free]]]), axis=1)[1]
    remaining = Counter({names[code]: n for code, n in enumerate(np.bincount(contained).tolist()) if n})

    def parts_without(label: str) -> set[P]:
        """The parts that must get a set with this class now, because no more sets are left than such parts."""
        if remaining[label] > len(parts):
            return set()
        without = {part for part in parts if quota[label][part] and not counts[label][part]}
        return without if len(without) >= remaining[label] else set()

    single = np.searchsorted(-sets.sizes[order], -1)  # the first set of one image
    for number in order[:single].tolist():
        rows = sets[number]
        labels = Counter(names[code] for code in codes[rows].tolist())
        if without := set().union(*map(parts_without, labels)):
            part = min(without, key=parts.index)
        else:
            # Adding c images where d are missing changes the squared error by c**2 - 2*c*d; only d differs.
            gains = [
                sum(n * (quota[label][part] - counts[label][part]) for label, n in labels.items()) for part in parts
            ]
            part = parts[gains.index(max(gains))]
        assigned[rows] = parts.index(part)
        for label, count in labels.items():
            counts[label][part] += count
            remaining[label] -= 1
    rows = sets.rows[sets.starts[order[single:]]]
    rest: dict[str, dict[P, int]] = {}
    for row, code in zip(rows.tolist(), codes[rows].tolist(), strict=True):
        label = names[code]
        if without := parts_without(label):
            part = min(without, key=parts.index)
        else:
            if not rest:
                rest = {label: _fit(count, quota[label], counts[label]) for label, count in remaining.items()}
            missing = rest[label]
            part = next((part for part in reversed(parts) if missing[part] > counts[label][part]), parts[0])
        assigned[row] = parts.index(part)
        counts[label][part] += 1
        remaining[label] -= 1
    return assigned


class _Sets:
    """The inseparable sets of a pool: `rows` has those of one set after the other, from `starts` on.

    `number_of_row` is the number of the set of each of these rows. `ids` are those of sets that others connect, too.
    """

    def __init__(self, pool: SampleTable, ids: np.ndarray | None = None) -> None:
        self._number_of = inseparable_set_ids(pool) if ids is None else np.unique(ids, return_inverse=True)[1]
        self.rows = np.argsort(self._number_of, kind="stable")
        self.number_of_row = self._number_of[self.rows]
        self.starts = np.flatnonzero(np.diff(self.number_of_row, prepend=-1))
        self.sizes = np.diff(self.starts, append=len(pool))

    def __getitem__(self, number: int) -> np.ndarray:
        """The rows of a set, in their order."""
        start = self.starts[number]
        return self.rows[start : start + self.sizes[number]]

    def drawn(self, numbers: np.ndarray, pool: SampleTable, seed: int | str) -> np.ndarray:
        """These sets in the order in which they are assigned: the larger ones first, else drawn by the seed."""
        first = np.lexsort((pool.contents, self._number_of))[self.starts[numbers]]
        # By the smallest SHA-256 and not the path: data that moves keeps its split.
        digests = np.empty((len(numbers), 32), np.uint8)
        for i, sha256 in enumerate(pool.take(first).sha256s()):
            digests[i] = np.frombuffer(hashlib.sha256(f"{seed}:{sha256}".encode()).digest(), np.uint8)
        return numbers[np.lexsort((*digests.view(">u8").T[::-1], -self.sizes[numbers]))]


def _join_kept(rows: np.ndarray, assigned: np.ndarray, groups: np.ndarray) -> None:
    """Assign the rows of a set without a part to that of their group, else of the first row with one."""
    if len(rows) == 1:
        return
    old = rows[assigned[rows] >= 0].tolist()  # new samples may connect kept ones that are in different parts
    part_of_group = {group: assigned[row] for row in old if (group := int(groups[row])) >= 0}
    first_part = assigned[old[0]]
    for row in rows[assigned[rows] < 0].tolist():
        assigned[row] = part_of_group.get(int(groups[row]), first_part)


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


def inseparable_set_counts(samples: Sequence[Sample], task: Task = "classification") -> Counter[str]:
    """Number of inseparable sets that contain each class."""
    labels = SampleTable.of(samples).labels
    pairs = np.unique(np.stack([inseparable_set_ids(samples), labels.codes]), axis=1).T.tolist()
    texts = labels.names.tolist()
    found = {(number, name) for number, code in pairs for name in names_in(texts[code], task)}
    return Counter(name for _, name in found)


def inseparable_set_ids(samples: Sequence[Sample]) -> np.ndarray:
    """Number of the inseparable set of each sample, int64 (N,); a set has one group or nearly the same picture."""
    _, numbers = np.unique(_connected(SampleTable.of(samples)), return_inverse=True)
    return numbers.astype(np.int64)


def _connected(pool: SampleTable) -> np.ndarray:
    """For each sample, the first one that group, bytes or near duplicates connect it to, also by others, int64 (N,)."""
    pairs = []
    for codes in (pool.contents, pool.groups.codes, pool.near_duplicates.codes):
        _, first, number_of = np.unique(codes, return_index=True, return_inverse=True)
        before = first[number_of]
        joined = np.flatnonzero((codes >= 0) & (before != np.arange(len(pool))))
        pairs.append(np.stack([joined, before[joined]], axis=1))
    return connected_sets(len(pool), np.concatenate(pairs))
