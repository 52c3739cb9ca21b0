from __future__ import annotations

from collections.abc import Callable
from typing import Any

from regraft.report.record import ClassificationRecord
from regraft.report.run_page import key_numbers
from regraft.report.run_table import COLUMNS, cells_of, describe_trained, folded, run_row
from regraft.runs.run import Run


def test_the_row_of_a_run_has_everything(squares_run: Run) -> None:
    cells = cells_of(run_row(squares_run.metrics))
    of_compare = {"epochs", "1 image", "batch of 32"}
    of_several_labels, of_order = {"val mAP", "test mAP (95 %)"}, {"test kappa (95 %)"}
    of_numbers = {"val MAE", "test MAE (95 %)", "test RMSE (95 %)", "test R2 (95 %)"}
    assert cells.keys() == COLUMNS.keys() - of_compare - of_several_labels - of_order - of_numbers
    assert cells["trained"].startswith("head and stages from blocks.")
    assert cells["input"] == "32 px"
    accuracy = squares_run.metrics["test"]["accuracy"]
    assert cells["test accuracy (95 %)"].startswith(f"{accuracy:.3f} (")


def test_what_trained_is_said() -> None:
    random, pretrained = {"source": "none"}, {"source": "wheel"}
    for model, words in (
        ({"trained": "all", "finetuned_from": "a", "weights": random}, "all, from scratch"),
        ({"trained": "all", "finetuned_from": "a", "weights": pretrained}, "all"),
        ({"trained": "head", "finetuned_from": None, "weights": random}, "head only, the rest random"),
        ({"finetuned_from": "blocks.5"}, "head and stages from blocks.5"),  # of an earlier version
        ({"finetuned_from": None}, "head only"),
    ):
        assert describe_trained(model) == words


def test_a_wide_table_is_folded_into_several_with_every_column_once() -> None:
    row: dict[str, Any] = dict.fromkeys(
        ("image_size", "parameters", "megabytes", "peak_megabytes", "train_seconds", "train_accuracy"), 1.0
    )
    rows = [row | {"name": name, "weights": "wheel", "trained": "head only"} for name in ("a", "bb" * 10)]
    for width in (20, 60, 80, 200):
        blocks = list(folded(rows, width))
        titles = [title for block in blocks for title in block[0][1:]]
        assert len(set(titles)) == len(titles) == 7
        assert all(len(block) == 3 and block[0][0] == "model" for block in blocks)
        if width >= 60:
            for block in blocks:
                assert sum(max(map(len, column)) + 2 for column in zip(*block, strict=True)) - 2 <= width


def test_the_top_of_a_report_has_the_table(make_record: Callable[..., ClassificationRecord]) -> None:
    record = make_record(("ant", "bee"))
    record.metrics["train"] = {"accuracy": 0.98}  # type: ignore[index]
    names = [name for _, name in key_numbers(record)]
    assert {"train accuracy", "val accuracy", "parameters", "of weights", "peak memory", "training time",
            "prediction of an image file"} <= set(names)  # fmt: skip
