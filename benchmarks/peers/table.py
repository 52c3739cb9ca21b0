"""The results of `run.py` as a table and a picture.

    python benchmarks/peers/table.py .bench/results.jsonl [--data NAME] [--plot FILE.png]

One row for each recipe: accuracy (of the median run, with a 95 % Wilson interval for one run), seconds from image files
to a saved model without the program's imports (median and range), seconds of those imports, peak memory.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import ScalarFormatter

from regraft.evaluation.intervals import wilson_interval

#: Recipes on one line of the picture, in this order.
LINES = {
    "regraft": "regraft_train",
    "hand-written loop, frozen then fine-tuned": "loop --recipe frozen",
    "hand-written loop, full fine-tuning": "loop --recipe full",
    "fastai": "fastai_learner",
    "transformers Trainer": "hf_trainer",
    "scikit-learn on features": "sklearn_features",
}


def rows_of(file: Path, data: str | None) -> dict[str, list[dict[str, Any]]]:
    """Results by command, in the order of their first runs."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "error" not in row and (data is None or row["data"] == data):
            rows[row["command"]].append(row)
    return rows


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown."""
    lines = ["| | accuracy | seconds | imports | MB | runs |", "|---|---|---|---|---|---|"]
    for command, runs in rows.items():
        correct = int(median(run["correct"] for run in runs))
        low, high = wilson_interval(correct, runs[0]["count"])
        seconds = sorted(run["seconds"] for run in runs)
        spread = f" ({seconds[0]:.1f} to {seconds[-1]:.1f})" if len(runs) > 1 else ""
        imports, peak = (median(run[name] for run in runs) for name in ("import_seconds", "peak_megabytes"))
        accuracy = f"{correct / runs[0]['count']:.3f} ({low:.3f} to {high:.3f})"
        lines.append(
            f"| `{command}` | {accuracy} | {median(seconds):.1f}{spread} | {imports:.1f} | {peak:.0f} | {len(runs)} |"
        )
    return "\n".join(lines)


def plot(rows: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """Accuracy against time, a line for each way of training."""
    figure, axes = plt.subplots(figsize=(8, 5), dpi=150, layout="constrained")
    for number, (name, start) in enumerate(LINES.items()):
        runs = {c: r for c, r in rows.items() if c.startswith(start) and "--warm" not in c}
        points = sorted(
            (median(run["seconds"] for run in r), median(run["accuracy"] for run in r)) for r in runs.values()
        )
        if points:
            axes.plot(
                *zip(*points, strict=True),
                marker="o",
                linestyle="-" if name in ("regraft", "hand-written loop, full fine-tuning") else "",
                color=f"C{number}",
                linewidth=2.5 if name == "regraft" else 1.2,
                label=name,
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("seconds from image files to a saved model, two cores")
    axes.set_ylabel("test accuracy")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


def main() -> None:
    """Print, and draw if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--data", help="name of the data folder; default: all")
    parser.add_argument("--plot", type=Path, help="draw the picture into this file")
    arguments = parser.parse_args()
    rows = rows_of(arguments.results, arguments.data)
    print(table(rows))
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
