"""The order of classes: by the numbers in their names, or as it is given."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.data.class_order import in_order
from regraft.data.dataset import Dataset
from regraft.data.labels import LabelOptions
from regraft.errors import UsageError


@pytest.mark.parametrize(
    "ordered",
    [
        ("0", "1", "2", "10"),
        ("-1", "0", "1"),
        ("0", "0.25", ".5", "1e1"),
        ("0-9", "10-19", "100+"),
        ("0_none", "1_mild", "2_severe"),
        ("grade 1", "Grade 2", "grade 10"),
        ("level-1", "level-2"),
        ("BI-RADS 1", "BI-RADS 2"),
        ("1/3", "2/3"),
        ("1 year", "2 years", "10 years"),
        ("0-9 kg", "10-19kg", "100 kg"),
        ("1: mild", "2: severe"),
        ("1st", "2nd", "3rd", "11th"),
        ("0. none", "1. some"),
    ],
)
def test_numbers_in_names_are_an_order(ordered: tuple[str, ...]) -> None:
    assert in_order(sorted(ordered), (), "data") == ordered


@pytest.mark.parametrize(
    "names",
    [
        ("high", "low", "medium"),
        ("1", "high"),
        ("10-15", "10-20"),  # equal numbers
        ("grade 1", "stage 2"),
        ("1,000", "900"),  # a thousand, or one
        ("900", "1 000"),
        ("6 months", "1 year", "2 years"),
        ("100g", "1kg", "5kg"),
        ("2h", "30min"),
        ("1k", "500"),
        ("0-9 days", "1-2 weeks"),
    ],
)
def test_other_names_are_never_sorted_silently(names: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="--order") as error:
        in_order(names, (), "photos")
    assert "photos" in str(error.value)
    assert names[0] in str(error.value)


def test_a_given_order_is_taken_and_checked() -> None:
    names = ("high", "low", "medium")
    assert in_order(names, ("low", "medium", "high"), "data") == ("low", "medium", "high")
    assert in_order(("1", "2"), ("2", "1"), "data") == ("2", "1")
    for order, problem in (
        (("low", "high"), "does not name medium"),
        (("low", "medium", "high", "top"), "no class: top"),
        (("low", "low", "medium", "high"), "names twice: low"),
    ):
        with pytest.raises(UsageError, match=problem):
            in_order(names, order, "data")


def test_an_order_asks_for_the_task() -> None:
    assert LabelOptions(order=("a", "b")).is_ordinal
    assert LabelOptions("ordinal").read_as == "classification"
    assert LabelOptions("multilabel").read_as == "multilabel"
    with pytest.raises(UsageError, match="task is multilabel"):
        LabelOptions("multilabel", order=("a", "b"))
    with pytest.raises(UsageError, match="task=ordinal"):
        LabelOptions("ordinal", separator="|")


def test_arrays_have_an_order_too() -> None:
    images, labels = np.zeros((3, 8, 8, 3), np.uint8), ["low", "high", "medium"]
    data = Dataset.from_arrays(images, labels, task="ordinal", order=["low", "medium", "high"])
    assert (data.classes, data.ordered, data.task) == (("low", "medium", "high"), True, "classification")
    assert data.labels.tolist() == [0, 2, 1]
    with pytest.raises(UsageError, match="--order"):
        Dataset.from_arrays(images, labels, task="ordinal")
    assert not Dataset.from_arrays(images, labels).ordered
    tree = {"low": "rest", "medium": "rest", "high": None}
    with pytest.raises(UsageError, match="without an order"):
        Dataset.from_arrays(images, labels, taxonomy=tree, task="ordinal", order=["low", "medium", "high"])
