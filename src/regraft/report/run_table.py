"""The table of runs: what each cost and how good it is, in the same columns for one run and for a comparison.

Input: `metrics.json`. Output: a row of plain values, and its cells as text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from regraft.text import display_width, one_line, shorten

Row = Mapping[str, Any]


def run_row(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a run: scores in 0..1, errors, 10^6 bytes, seconds and ms; None for what was not measured."""
    model, time, test, val = metrics["model"], metrics["time"], metrics.get("test") or {}, metrics.get("val") or {}
    intervals, ordinal = test.get("intervals") or {}, test.get("ordinal") or {}
    # Of several labels the accuracy of training is the share of right answers, mostly that an image lacks a class.
    is_multilabel = "multilabel" in (test.get("task"), val.get("task"))

    def interval(name: str) -> list[float] | None:
        return list(intervals[name]) if name in intervals else None

    return {
        "name": model["backbone"],
        "weights": (model.get("weights") or {}).get("source", ""),
        "trained": describe_trained(model),
        "image_size": model["image_size"],
        "parameters": model["parameters"],
        "megabytes": model["megabytes"],
        "peak_megabytes": (metrics.get("memory") or {}).get("peak_megabytes"),
        "train_seconds": time["train_seconds"],
        "predict_ms_file": time.get("predict_ms_per_image"),
        "train_accuracy": None if is_multilabel else (metrics.get("train") or {}).get("accuracy"),
        "val_accuracy": val.get("accuracy"),
        "val_mean_average_precision": val.get("mean_average_precision"),
        "test_accuracy": test.get("accuracy"),
        "test_accuracy_interval": test.get("accuracy_interval"),
        "test_mean_average_precision": test.get("mean_average_precision"),
        "test_mean_average_precision_interval": interval("mean_average_precision"),
        "test_quadratic_kappa": ordinal.get("quadratic_kappa"),
        "test_quadratic_kappa_interval": (ordinal.get("intervals") or {}).get("quadratic_kappa"),
        "val_mae": val.get("mae"),
        "test_mae": test.get("mae"),
        "test_mae_interval": interval("mae"),
        "test_rmse": test.get("rmse"),
        "test_rmse_interval": interval("rmse"),
        "test_r2": test.get("r2"),
        "test_r2_interval": interval("r2"),
        "test_macro_f1": test.get("macro_f1"),
        "test_macro_f1_interval": interval("macro_f1"),
    }


def describe_trained(model: Mapping[str, Any]) -> str:
    """Say which layers of a run's model were trained, from the `model` of its metrics."""
    is_random = (model.get("weights") or {}).get("source") == "none"
    if model.get("trained") == "all":
        return "all, from scratch" if is_random else "all"
    boundary = model.get("finetuned_from")
    return (f"head and stages from {boundary}" if boundary else "head only") + ", the rest random" * is_random


def _known(pattern: Callable[[Any], str], name: str) -> Callable[[Row], str]:
    return lambda row: "" if row.get(name) is None else pattern(row[name])


def _score(name: str, pattern: str = "{:.3f}") -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        if row.get(name) is None:
            return ""
        value, low, high = (pattern.format(number) for number in (row[name], *row[f"{name}_interval"]))
        return f"{value} ({low} to {high})"

    return cell


#: Columns of the table, and what a row has in them; those of prediction alone are measured by `compare` only.
MODEL = "model"
COLUMNS: Mapping[str, Callable[[Row], str]] = {
    MODEL: lambda row: shorten(one_line(row["name"]), 40) + " (random weights)" * (row["weights"] == "none"),
    "trained": _known(str, "trained"),
    "epochs": _known(str, "finetune_epochs"),
    "input": _known("{} px".format, "image_size"),
    "parameters": _known(lambda count: f"{count / 1e6:.1f} M", "parameters"),
    "on disk": _known("{:.0f} MB".format, "megabytes"),
    "peak memory": _known(lambda size: f"{size / 1000:.1f} GB", "peak_megabytes"),
    "training": _known("{:,.0f} s".format, "train_seconds"),
    "1 image": _known("{:.1f} ms".format, "predict_ms_1"),
    "batch of 32": _known("{:.1f} ms".format, "predict_ms_32"),
    "from a file": _known("{:.1f} ms".format, "predict_ms_file"),
    "train accuracy": _known("{:.3f}".format, "train_accuracy"),
    "val accuracy": _known("{:.3f}".format, "val_accuracy"),
    "val mAP": _known("{:.3f}".format, "val_mean_average_precision"),
    "test accuracy (95 %)": _score("test_accuracy"),
    "test mAP (95 %)": _score("test_mean_average_precision"),
    "test kappa (95 %)": _score("test_quadratic_kappa"),
    "test macro-F1 (95 %)": _score("test_macro_f1"),
    "val MAE": _known("{:.4g}".format, "val_mae"),
    "test MAE (95 %)": _score("test_mae", "{:.4g}"),
    "test RMSE (95 %)": _score("test_rmse", "{:.4g}"),
    "test R2 (95 %)": _score("test_r2"),
}


def cells_of(row: Row) -> dict[str, str]:
    """Return the filled cells of one run by column."""
    return {name: text for name, cell in COLUMNS.items() if (text := cell(row))}


def folded(rows: Sequence[Row], width: int, *, gap: int = 2) -> Iterator[list[list[str]]]:
    """Fold the table into as many tables below each other as `width` in characters needs: rows of cells, titles first.

    Each begins with the names of the models, and no column is wider than its longest cell.
    """
    columns = {name: [name, *(cell(row) for row in rows)] for name, cell in COLUMNS.items()}
    columns = {name: cells for name, cells in columns.items() if any(cells[1:])}
    first = columns.pop(MODEL)
    block, used = [first], _width(first)
    for cells in columns.values():
        if len(block) > 1 and used + gap + _width(cells) > width:
            yield [list(row) for row in zip(*block, strict=True)]
            block, used = [first], _width(first)
        block.append(cells)
        used += gap + _width(cells)
    yield [list(row) for row in zip(*block, strict=True)]


def _width(cells: Sequence[str]) -> int:
    return max(map(display_width, cells))
