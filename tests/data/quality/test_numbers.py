"""What is said of the numbers of images by these alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from regraft.data.dataset import Dataset, Part
from regraft.data.labels import number_text
from regraft.data.quality.cleaning import proposed
from regraft.data.quality.description import describe
from regraft.data.quality.findings import Finding, audit
from regraft.data.quality.numbers import by_range, far_out, robust_deviation
from regraft.data.samples import Sample, SampleTable


def dataset_of(numbers: Sequence[float], parts: Sequence[Part | None] = (), **changes: Sequence[str]) -> Dataset:
    """Images without files that have these numbers; `changes` are other fields of the samples."""
    samples = [
        Sample(path=f"{i:03d}.png", label=number_text(str(number)), size=(8, 8), sha256=f"{i:064x}",
               part=parts[i] if parts else None, group=None, near_duplicate_group=None)
        for i, number in enumerate(numbers)
    ]  # fmt: skip
    for name, values in changes.items():
        samples = [replace(sample, **{name: value}) for sample, value in zip(samples, values, strict=True)]
    return Dataset("data", SampleTable.of(samples), ("age",), task="regression")


def find(dataset: Dataset, kind: str) -> Finding | None:
    return next((finding for finding in audit(dataset) if finding.kind == kind), None)


def test_outliers_are_found_the_farthest_first() -> None:
    numbers = np.random.default_rng(0).normal(40, 10, 200).round(1).tolist()
    assert find(dataset_of(numbers), "outlier") is None
    found = find(dataset_of([*numbers, 300.0, -999.0]), "outlier")
    assert found is not None
    assert found.files == (("201.png",), ("200.png",))
    assert found.details == ("age -999", "age 300")
    assert found.title.startswith("2 images have numbers far from the others")


def test_numbers_beside_one_that_most_images_have_are_no_outliers() -> None:
    others = np.linspace(20, 80, 25).tolist()
    assert find(dataset_of([50.0] * 35 + others), "outlier") is None
    found = find(dataset_of([50.0] * 35 + [*others, 1e9]), "outlier")
    assert found is not None
    assert found.files == (("060.png",),)


def test_many_numbers_far_out_are_no_warning() -> None:
    found = find(dataset_of([*np.linspace(20, 80, 80).tolist(), *[-999.0] * 20]), "outlier")
    assert found is not None
    assert (found.severity, len(found.files)) == ("info", 20)


def test_rare_numbers_are_not_proposed_to_be_dropped() -> None:
    parts: list[Part | None] = ["train"] * 30 + ["test"] * 2
    findings = audit(dataset_of([*range(30), 15, 500], parts))
    assert {"outlier", "outside_train"} <= {finding.kind for finding in findings}
    assert not {"outlier", "outside_train"} & set(proposed(findings))


def test_nothing_is_far_out_where_half_of_the_values_are_equal() -> None:
    assert not far_out(np.array([0.0] * 8 + [1.0, 5.0])).any()
    assert not far_out(np.empty(0)).any()
    assert far_out(np.array([1.0, 2, 3, 4, 5, 6, 7, 100])).tolist() == [False] * 7 + [True]


def test_numbers_outside_of_those_of_train_are_named() -> None:
    dataset = dataset_of([1.0, 5, 9, 4, 9.5], ["train", "train", "train", "val", "test"])
    found = find(dataset, "outside_train")
    assert found is not None
    assert found.title == "1 test image has a number outside of those of train, 1 to 9."
    assert found.files == (("004.png",),)


def test_a_number_of_most_images_is_said() -> None:
    found = find(dataset_of([0.0] * 6 + [1.0, 2.0, 3.0, 4.0]), "frequent_number")
    assert found is not None
    assert found.title == "60 % of the images have the number 0."
    assert find(dataset_of([0.0, 1, 2, 3]), "frequent_number") is None


@pytest.mark.parametrize(("second", "is_copy", "conflicts"), [(41, True, True), (41, False, False), (80, False, True)])
def test_copies_contradict_by_any_and_near_duplicates_by_a_large_difference(
    second: float, is_copy: bool, conflicts: bool
) -> None:
    numbers = [40.0, second, *np.linspace(0, 100, 30).round(1).tolist()]
    groups = ["a", "a", *(str(i) for i in range(30))]
    hashes = [f"{0 if is_copy and i < 2 else i:064x}" for i in range(32)]
    dataset = dataset_of(numbers, near_duplicate_group=groups, sha256=hashes)
    found = find(dataset, "conflict")
    assert (found is not None) == conflicts
    assert found is None or "1 picture has different numbers" in found.title


def test_a_gross_error_does_not_hide_near_duplicates_that_contradict() -> None:
    numbers = [30.0, 60.0, 1e9, *np.linspace(0, 100, 30).round(1).tolist()]
    found = find(dataset_of(numbers, near_duplicate_group=["a", "a", *(str(i) for i in range(31))]), "conflict")
    assert found is not None
    assert found.files == (("000.png", "001.png"),)


def test_copies_contradict_beside_a_near_duplicate() -> None:
    numbers = [40.0, 41.0, 40.0, *np.linspace(0, 100, 30).round(1).tolist()]
    groups = ["a", "a", "a", *(str(i) for i in range(30))]
    hashes = [f"{max(i, 1):064x}" for i in range(33)]
    dataset = dataset_of(numbers, near_duplicate_group=groups, sha256=hashes)
    found = find(dataset, "conflict")
    assert found is not None
    assert found.files == (("000.png", "001.png", "002.png"),)


def test_the_robust_deviation() -> None:
    normal = np.random.default_rng(0).normal(5, 3, 100_000)
    assert robust_deviation(normal) == pytest.approx(3, rel=0.02)
    assert robust_deviation(np.array([0.0] * 8 + [1.0, 5.0])) == pytest.approx(np.std([0.0] * 8 + [1.0, 5.0]))
    assert robust_deviation(np.empty(0)) == 0


def test_ranges_are_in_order_and_of_equal_size() -> None:
    numbers = np.random.default_rng(0).permutation(np.arange(9.0, 49.0)).tolist()
    ranges = by_range(dataset_of(numbers))
    assert ranges.classes == ("9 to 18", "19 to 28", "29 to 38", "39 to 48")
    assert set(ranges.counts().values()) == {10}
    close = by_range(dataset_of([1000.01 + i / 1000 for i in range(40)]))
    assert len(close.classes) == len(set(close.classes)) == 4


def test_the_description_has_the_distribution() -> None:
    numbers = describe(dataset_of([1.0, 2, 3, 6], ["train", "train", "val", "val"]))["numbers"]
    assert numbers["quantity"] == "age"
    assert numbers["parts"]["all"]["mean"] == 3
    assert numbers["parts"]["val"]["largest"] == 6
    assert sum(numbers["histogram"]["counts"]) == 4
    assert len(numbers["histogram"]["edges"]) == 11
