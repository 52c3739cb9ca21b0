"""Whatever classes and folders are called, every tracker takes the names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name

from regraft.config import Config
from regraft.tracking.scalars import distinct_tags, epoch_scalars, final_scalars, flat_settings, tag
from regraft.training.callbacks import Epoch

HOSTILE = [
    "..",
    ".",
    "",
    "a/b",
    "a\\b",
    "../../etc",
    "a\nb",
    "\udcff",
    "日本",
    "é",
    "A",
    "a",
    " a ",
    "x" * 999,
    "a:b#%",
]


@given(st.text() | st.sampled_from(HOSTILE))
def test_mlflow_takes_every_tag(text: str) -> None:
    name = f"test_f1/{tag(text)}"
    _validate_metric_name(name)
    name.encode("utf-8")
    assert len(name) < 120
    assert name.count("/") == 1
    assert ":" not in name


@given(st.lists(st.text(max_size=5) | st.sampled_from(HOSTILE)))
def test_no_two_tags_are_alike(names: list[str]) -> None:
    tags = distinct_tags(names)
    assert len({tag.casefold() for tag in tags}) == len(names)


def test_ordinary_names_stay_as_they_are() -> None:
    assert distinct_tags(["red", "Daisy flower", "日本", "a-b_c.d"]) == ["red", "Daisy flower", "日本", "a-b_c.d"]
    assert distinct_tags(["a/b", "a:b", "A/B"]) == ["a_b", "a_b_2", "A_B_3"]


def test_settings_are_plain_and_can_be_written() -> None:
    flat = flat_settings(
        Config().model_dump(mode="json") | {"data": {"keep_split": "\udcff", "val": 0.1, "remote": True}}
    )
    assert all(isinstance(value, (bool, int, float, str)) for value in flat.values())
    assert flat["tracking.to"] == "[]"
    assert flat["data.keep_split"] == "\\udcff"
    assert flat["data.val"] == 0.1


def test_an_epoch_has_what_it_measured() -> None:
    row = Epoch("head", 2, 0.5, 0.75, None, None, None, 0.1, 2.0, 10.0)
    assert epoch_scalars(row) == {
        "head/train_loss": 0.5, "head/train_accuracy": 0.75, "head/lr": 0.1, "head/seconds": 2.0,
        "head/images_per_second": 10.0,
    }  # fmt: skip


def test_finals_are_finite_numbers_with_intervals() -> None:
    report = {"name": "a/b", "precision": 1.0, "recall": 0.5, "f1": 0.6, "support": 2}
    metrics = {
        "train": {"accuracy": None, "count": 3},
        "test": {
            "accuracy": 0.5, "accuracy_interval": [0.1, 0.9], "loss": float("nan"), "top5": None,
            "intervals": {"macro_f1": [0.2, 0.8]}, "per_class": [report], "confusion": [[1]],
        },
        "calibration": {"temperature": 1.5, "fitted_on": "val", "test": {"before": {"ece": 0.2}, "after": {"ece": 1}}},
    }  # fmt: skip
    assert final_scalars(metrics) == {
        "train/count": 3.0, "test/accuracy": 0.5, "test/accuracy_low": 0.1, "test/accuracy_high": 0.9,
        "test/macro_f1_low": 0.2, "test/macro_f1_high": 0.8, "test_recall/a_b": 0.5, "test_f1/a_b": 0.6,
        "calibration/temperature": 1.5, "calibration/test_ece_before": 0.2, "calibration/test_ece_after": 1.0,
    }  # fmt: skip
    many = {"test": {"per_class": [report | {"name": str(i)} for i in range(101)]}}
    assert final_scalars(many) == {}
