"""Assign every image to train, val or test.

Enters: a `Dataset`. Leaves: a `Split`. Images that belong together (one group, or the same bytes) share a
part; classes keep their proportions; the same data, fractions and seed give the same split.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from regraft.data.dataset import PARTS, Dataset, Part, Sample, Split
from regraft.errors import UsageError
from regraft.files import csv_text, write_text


def split(dataset: Dataset, *, train: float = 0.8, val: float = 0.1, test: float = 0.1, seed: int = 0) -> Split:
    """Divide a data set, keeping the parts that it has.

    Data that comes in parts keeps them; a missing val or test part is taken from train, `val` or `test` of
    all images that are in train. Otherwise all images are divided by the three fractions.

    Args:
        dataset: What `scan` returned.
        train: Fraction of the images for train, above 0.
        val: Fraction for val, 0 or more.
        test: Fraction for test, 0 or more. The three add up to 1.
        seed: Another seed, another split.

    Raises:
        UsageError: The fractions are negative or do not add up to 1.
    """
    fractions: dict[Part, float] = {"train": train, "val": val, "test": test}
    if not (train > 0 <= min(val, test) and abs(train + val + test - 1) <= 1e-6):
        raise UsageError(
            f"train={train:g}, val={val:g}, test={test:g}; expected fractions from 0 to 1 that add up to 1."
        )
    given = {s.part for s in dataset.samples if s.part is not None}
    if not given:
        return Split(_divided(dataset, dataset.samples, fractions, seed))
    missing = {part: fractions[part] for part in PARTS if part not in given and fractions[part] > 0}
    if not missing:
        return Split(dataset)
    pool = [s for s in dataset.samples if s.part == "train"]
    return Split(_divided(dataset, pool, {"train": 1 - sum(missing.values()), **missing}, seed))


def write_split(path: Path, split: Split) -> None:
    """Write `path,label,part,sha256`; `scan(path, root=split.dataset.root)` reads the same split back."""
    write_text(path, split_text(split))


def split_text(split: Split) -> str:
    """What `write_split` writes."""
    rows = ((s.path, s.label, s.part, s.sha256) for s in split.dataset.samples)
    return csv_text(("path", "label", "part", "sha256"), rows)


def _divided(dataset: Dataset, pool: Sequence[Sample], fractions: Mapping[Part, float], seed: int) -> Dataset:
    assigned = dict(_assign(pool, fractions, seed))
    return dataset.with_samples([replace(s, part=assigned.get(s.path, s.part)) for s in dataset.samples])


def _assign(pool: Sequence[Sample], fractions: Mapping[Part, float], seed: int) -> Iterable[tuple[str, Part]]:
    """Give each bundle to the part where it brings the classes nearest to their quotas, by least squares.

    Bundles go in order of size, then in an order drawn by the seed: large ones are placed while there is most
    room, single images even out what they left. A class of single images meets its quotas exactly. When a
    class has no more bundles than parts that still have none of it, these are served, in the order train,
    val, test; every class is therefore in train.
    """
    quota = _quotas(Counter(s.label for s in pool), fractions)
    taken: dict[str, Counter[Part]] = defaultdict(Counter)
    bundles = _bundles(pool)
    waiting = Counter(label for bundle in bundles for label in {s.label for s in bundle})

    def lot(bundle: Sequence[Sample]) -> tuple[int, bytes]:
        key = f"{seed}:{min(s.sha256 for s in bundle)}"  # no path: a data set that moves keeps its split
        return -len(bundle), hashlib.sha256(key.encode()).digest()

    for bundle in sorted(bundles, key=lot):
        labels = Counter(s.label for s in bundle)

        def room(part: Part, labels: Counter[str] = labels) -> int:
            # Adding c images to a lack d changes its square by c**2 - 2*c*d; only d differs between parts.
            return sum(count * (quota[label][part] - taken[label][part]) for label, count in labels.items())

        bare: set[Part] = set()
        for label in labels:
            without = {part for part in fractions if quota[label][part] and not taken[label][part]}
            if len(without) >= waiting[label]:
                bare |= without
        part = min(bare, key=PARTS.index) if bare else max(fractions, key=room)
        for label, count in labels.items():
            taken[label][part] += count
            waiting[label] -= 1
        for sample in bundle:
            yield sample.path, part


def _quotas(counts: Mapping[str, int], fractions: Mapping[Part, float]) -> dict[str, dict[Part, int]]:
    """Whole numbers for each class, within one of the fractions; train gets at least one.

    What rounding takes from a part in one class it gets back in the next, so that 50 classes of 5 images at
    0.8, 0.1 and 0.1 fill all three parts.
    """
    owed = dict.fromkeys(fractions, 0.0)
    quotas: dict[str, dict[Part, int]] = {}
    for label, count in sorted(counts.items()):
        exact = {part: count * fraction for part, fraction in fractions.items()}
        quota = {part: int(value + 1e-9) for part, value in exact.items()}
        rest = {part: exact[part] - quota[part] for part in fractions}
        # A part with nothing left over stays as it is, so that no class is more than one image off.
        order = sorted(fractions, key=lambda part: (rest[part] < 1e-9, -rest[part] - owed[part], PARTS.index(part)))
        for part in order[: count - sum(quota.values())]:
            quota[part] += 1
        if quota["train"] == 0:
            donor = max(quota, key=lambda part: quota[part] - exact[part])  # the one that gained most by rounding
            quota[donor] -= 1
            quota["train"] = 1
        for part in fractions:
            owed[part] += exact[part] - quota[part]
        quotas[label] = quota
    return quotas


def bundle_ids(samples: Sequence[Sample]) -> np.ndarray:
    """The number of the bundle of each sample, int64 (N,): one group, or the same bytes, is one bundle."""
    number = {s.path: i for i, bundle in enumerate(_bundles(samples)) for s in bundle}
    return np.array([number[s.path] for s in samples], dtype=np.int64)


def _bundles(pool: Sequence[Sample]) -> list[list[Sample]]:
    """Samples that must stay together: the same group or the same bytes, followed transitively."""
    parent = list(range(len(pool)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, sample in enumerate(pool):
        for kind, value in (("bytes", sample.sha256), ("group", sample.group)):
            if value is not None:
                parent[find(i)] = find(first.setdefault((kind, value), i))
    bundles: dict[int, list[Sample]] = defaultdict(list)
    for i, sample in enumerate(pool):
        bundles[find(i)].append(sample)
    return list(bundles.values())
