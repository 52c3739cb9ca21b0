"""A comparison of models as a table and as a picture.

Enters: rows and pairs in plain values, as `comparison.json` has them. Leaves: Markdown, and a PNG: accuracy against
training time, the discs as large as the models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, PercentFormatter

from regraft.evaluation.comparison import SIGNIFICANT
from regraft.evaluation.names import one_line, shorten
from regraft.report import style
from regraft.report.model_card import escape_markdown

#: Heads of the columns, and how a row fills them.
COLUMNS: Mapping[str, Any] = {
    "model": lambda row: shorten(one_line(row["name"]), 40) + (" (random weights)" if row["weights"] == "none" else ""),
    "parameters": lambda row: f"{row['parameters'] / 1e6:.1f} M",
    "on disk": lambda row: f"{row['megabytes']:.0f} MB",
    "peak memory": lambda row: f"{row['peak_megabytes'] / 1000:.1f} GB",
    "training": lambda row: f"{row['train_seconds']:.0f} s",
    "epochs": lambda row: str(row["finetune_epochs"]),
    "input": lambda row: f"{row['image_size']} px",
    "image, 1": lambda row: f"{row['predict_ms_1']:.1f} ms",
    "image, 32": lambda row: f"{row['predict_ms_32']:.1f} ms",
    "train": lambda row: _share(row["train_accuracy"]),
    "val": lambda row: _share(row["val_accuracy"]),
    "test (95 %)": lambda row: _with_interval(row["test_accuracy"], row["test_accuracy_interval"]),
    "macro-F1 (95 %)": lambda row: _with_interval(row["test_macro_f1"], row["test_macro_f1_interval"]),
}
_COLOURS = {"none": style.FAINT}


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _with_interval(value: float, interval: Sequence[float]) -> str:
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def markdown_of(rows: Sequence[Mapping[str, Any]], pairs: Sequence[Mapping[str, Any]], said: Sequence[str]) -> str:
    """The table, the differences and the conclusion, as Markdown.

    Args:
        rows: Models.
        pairs: Every two.
        said: Sentences.
    """
    lines = ["# Comparison", "", *(f"{escape_markdown(sentence, 1000)}\n" for sentence in said)]
    lines += _table(list(COLUMNS), [[cell(row) for cell in COLUMNS.values()] for row in rows])
    lines += [
        "",
        "Training is the training alone, decoding not counted, in a process of its own, whose memory is given, with so "
        "many epochs of fine-tuning beside the head; an image's time is the network's on the CPU, alone and in batches "
        "of 32.",
    ]
    if pairs:
        lines += ["", "## Every two on the same test images", ""]
        lines += _table(
            ["", "points of accuracy (95 %)", "only the first is right", "only the second", "p", "p, corrected"],
            [
                [
                    f"{pair['first']} less {pair['second']}",
                    "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * v for v in (pair["accuracy"], *pair["interval"]))),
                    str(pair["only_first"]),
                    str(pair["only_second"]),
                    f"{pair['p']:.2g}",
                    f"{pair['p_corrected']:.2g}",
                ]
                for pair in pairs
            ],
        )
        lines += [
            "",
            f"p: the probability of so large a difference by chance (McNemar's exact test), and corrected for the "
            f"number of pairs (Holm); below {SIGNIFICANT:g} a difference is taken for more than chance.",
        ]
    return "\n".join(lines) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(heads) + " |",
        "|---" + "|---:" * (len(heads) - 1) + "|",
        *("| " + " | ".join(map(escape_markdown, row)) + " |" for row in rows),
    ]


def plot_comparison(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw test accuracy against training time; a disc's area is the number of parameters.

    Args:
        rows: Models.
        path: The PNG to write.
    """
    figure = Figure(figsize=(12, 7), layout=ConstrainedLayoutEngine(w_pad=0.2, h_pad=0.15))
    axes = figure.subplots()
    style.clear_axes(axes)
    axes.grid(color=style.LINE, linewidth=1)
    axes.set_axisbelow(True)
    seconds = np.array([max(row["train_seconds"], 0.1) for row in rows])
    accuracy = np.array([row["test_accuracy"] for row in rows])
    most = max(row["parameters"] for row in rows)
    low, high = np.array([row["test_accuracy_interval"] for row in rows]).T
    axes.set_xscale("log")
    axes.set_xlim(seconds.min() / 2, seconds.max() * 3.2)
    room = 0.06 * (high.max() - low.min())
    axes.set_ylim(low.min() - room, min(1.005, high.max() + 2 * room))
    places = _apart(axes.transData.transform(np.column_stack([seconds, accuracy])))
    for row, x, y, down, up, shift in zip(rows, seconds, accuracy, low, high, places, strict=True):
        colour = style.FAINT if row["weights"] == "none" else style.BLUE
        axes.plot([x, x], [down, up], color=style.INK, linewidth=1.5, zorder=4)
        area = 60 + 1600 * row["parameters"] / most
        axes.scatter([x], [y], s=area, color=colour, alpha=0.75, edgecolors="white", linewidths=1.5, zorder=3)
        words = style.drawable(f"{shorten(one_line(row['name']), 28)}  {100 * y:.1f} %")
        offset = (area**0.5 / 2 + 6, shift - 4)
        axes.annotate(words, (x, y), xytext=offset, textcoords="offset points", size=style.TEXT_SIZE, color=style.INK)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else ""))
    axes.tick_params(axis="x", which="minor", length=0, colors=style.MUTED, labelsize=style.SMALL_SIZE)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("seconds of training", size=style.TEXT_SIZE, color=style.MUTED)
    axes.set_ylabel("test accuracy, with 95 % interval", size=style.TEXT_SIZE, color=style.MUTED)
    figure.suptitle(
        "Accuracy and what it costs", x=0.016, ha="left", size=style.TITLE_SIZE, color=style.INK,
    )  # fmt: skip
    note = "A disc's area is the number of parameters"
    note += "; grey began with random weights." if any(row["weights"] == "none" for row in rows) else "."
    style.write(axes, note, (0, 1), (0, 10), size=style.SMALL_SIZE, colour=style.MUTED)
    style.save(figure, path)


def _apart(points: np.ndarray, least: float = 26.0) -> list[float]:
    """How far each label is moved up or down so that labels of near discs do not lie on one another, in points."""
    order = np.argsort(points[:, 1])
    shifts, taken = [0.0] * len(points), list[tuple[float, float]]()
    for i in order.tolist():
        x, y = points[i]
        at = y
        for other_x, other in sorted(taken, key=lambda place: place[1]):
            if abs(other_x - x) < 330 and abs(at - other) < least:
                at = other + least
        taken.append((x, at))
        shifts[i] = float(at - y) * 0.72  # pixels of 100 an inch to points of 72
    return shifts
