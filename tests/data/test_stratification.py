"""Iterative stratification: shares of every label, whole sets, and few moves when an image is added."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.data.dataset import Dataset, Sample
from regraft.data.labels import classes_in, join_labels, split_labels
from regraft.data.samples import PARTS
from regraft.data.split import fold_numbers, inseparable_set_ids, split
from regraft.data.split_file import write_split
from regraft.data.stratification import stratify

SHARES = (0.8, 0.1, 0.1)


def dataset_of(labels: list[set[str]], groups: list[str | None] | None = None) -> Dataset:
    """Images with these labels, no two with the same bytes."""
    samples = []
    for number, names in enumerate(labels):
        name = f"{number:05d}.png"
        sha256 = hashlib.sha256(name.encode()).hexdigest()
        samples.append(Sample(name, join_labels(names), sha256, group=groups[number] if groups else None))
    classes = sorted(classes_in([sample.label for sample in samples], "multilabel"))
    return Dataset(Path(), tuple(samples), tuple(classes), task="multilabel")


def random_labels(count: int, classes: int, seed: int) -> list[set[str]]:
    """Labels from frequent to rare, some of which come together."""
    rng = np.random.default_rng(seed)
    rates = 0.5 * 0.8 ** np.arange(classes)
    has = rng.random((count, classes)) < rates * (0.4 + 1.2 * rng.random((count, 1)))
    return [{f"c{label:02d}" for label in np.flatnonzero(row)} for row in has]


def deviation(counts: np.ndarray, parts: np.ndarray) -> float:
    """Mean distance of a label's images in a part from its share, in images."""
    found = np.stack([counts[parts == part].sum(axis=0) for part in range(len(SHARES))])
    return float(np.abs(found - np.array(SHARES)[:, None] * counts.sum(axis=0)).mean())


@pytest.mark.parametrize("seed", range(3))
def test_shares_are_nearer_than_those_of_a_naive_split(seed: int) -> None:
    dataset = dataset_of(random_labels(1000, 15, seed))
    parts = split(dataset, seed=seed).dataset.table.parts
    naive = np.random.default_rng(seed).choice(3, len(dataset), p=SHARES)
    counts = dataset.indicators.astype(int)
    assert deviation(counts, parts) < 0.35 * deviation(counts, naive)
    sizes = np.bincount(parts, minlength=3) / len(dataset)
    assert np.abs(sizes - SHARES).max() < 0.02


@given(
    st.lists(st.sets(st.sampled_from("abcdef")), min_size=2, max_size=60),
    st.lists(st.one_of(st.none(), st.sampled_from([f"g{i}" for i in range(10)])), min_size=60, max_size=60),
    st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_parts_are_whole_and_every_class_can_be_learned(
    labels: list[set[str]], groups: list[str | None], seed: int
) -> None:
    dataset = dataset_of(labels, groups[: len(labels)])
    parts = split(dataset, seed=seed)
    assert split(dataset, seed=seed) == parts
    numbers = inseparable_set_ids(dataset.samples)
    assert len(set(zip(numbers.tolist(), parts.dataset.table.parts.tolist(), strict=True))) == len(
        set(numbers.tolist())
    )
    assert classes_in(parts.train.table.labels, "multilabel") == set(dataset.classes)


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=60), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_a_class_of_three_is_in_every_part(labels: list[str], seed: int) -> None:
    """Images with one label each never stand in each other's way."""
    parts = split(dataset_of([{label} for label in labels]), seed=seed)
    for label in set(labels):
        if labels.count(label) >= 3:
            assert all(label in classes_in(parts[part].table.labels, "multilabel") for part in PARTS)


def test_rare_classes_are_in_every_part_among_frequent_ones() -> None:
    labels = random_labels(400, 4, 0)
    for number in range(12):
        labels[number * 7].add(f"rare{number % 4}")
    parts = split(dataset_of(labels))
    for part in PARTS:
        assert {f"rare{number}" for number in range(4)} <= classes_in(parts[part].table.labels, "multilabel")


def test_an_added_image_moves_few() -> None:
    labels = random_labels(1001, 12, 1)
    with_all = split(dataset_of(labels)).dataset.table.parts
    moved = [
        int((split(dataset_of([*labels[:-1], extra])).dataset.table.parts[:-1] != with_all[:-1]).sum())
        for extra in ({"c00"}, {"c01", "c05"}, {"c11"}, set())
    ]
    assert np.mean(moved) < 30, moved


def test_kept_images_stay_and_fill_their_parts(tmp_path: Path) -> None:
    labels = random_labels(300, 6, 2)
    first = split(dataset_of(labels[:200]))
    write_split(tmp_path / "split.csv", first)
    both = split(dataset_of(labels), keep=tmp_path / "split.csv")
    assert both.dataset.table.parts[:200].tolist() == first.dataset.table.parts.tolist()
    assert np.abs(np.bincount(both.dataset.table.parts) / 300 - SHARES).max() < 0.03


def test_folds_have_equal_shares() -> None:
    dataset = dataset_of(random_labels(500, 8, 3), [f"g{i // 2}" for i in range(500)])
    numbers = fold_numbers(dataset, 5)
    has = dataset.indicators
    for label in range(len(dataset.classes)):
        counts = np.bincount(numbers[has[:, label]], minlength=5)
        assert counts.max() - counts.min() <= max(6, 0.25 * counts.mean())
    assert np.ptp(np.bincount(numbers)) <= 15
    assert all(len(set(numbers[i : i + 2])) == 1 for i in range(0, 500, 2))


def test_parts_without_a_share_stay_empty() -> None:
    counts = np.ones((10, 2), np.int64)
    parts = stratify(counts, np.ones(10, np.int64), (0.7, 0.3, 0.0), required=True)
    assert np.bincount(parts, minlength=3).tolist() == [7, 3, 0]
    assert len(stratify(counts[:0], np.ones(0, np.int64), (1.0,))) == 0


def test_labels_come_back_from_the_file_of_a_split(tmp_path: Path) -> None:
    labels = [{"a|b", "c"}, {"d, e"}, set(), {"[f]"}]
    parts = split(dataset_of(labels), val=0, test=0)
    write_split(tmp_path / "split.csv", parts)
    assert [set(split_labels(sample.label)) for sample in parts.dataset.samples] == labels
