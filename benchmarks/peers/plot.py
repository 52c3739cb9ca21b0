"""Draw accuracy against time from a recorded run of `run.py`.

python benchmarks/peers/plot.py benchmarks/results/peers-cifar10-1k.json --out docs/images/peers.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import ScalarFormatter

#: Lines of the plot, with the start of the commands of their recipes.
LINES = {
    "regraft": "regraft_train",
    "hand-written loop, frozen then fine-tuned": "loop --recipe frozen",
    "hand-written loop, full fine-tuning": "loop --recipe full",
    "fastai": "fastai_learner",
    "transformers Trainer": "hf_trainer",
    "scikit-learn on features": "sklearn_features",
}


def main() -> None:
    """Read the result and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    measurements = json.loads(arguments.result.read_text(encoding="utf-8"))["measurements"]
    figure, axes = plt.subplots(figsize=(8, 5), dpi=150, layout="constrained")
    for number, (name, start) in enumerate(LINES.items()):
        points = sorted(
            (median(m["samples"]), median(m["facts"]["accuracies"]))
            for m in measurements
            if m["label"].startswith(start) and "--warm" not in m["label"]
        )
        if points:
            line = "-" if name in ("regraft", "hand-written loop, full fine-tuning") else ""
            width = 2.5 if name == "regraft" else 1.2
            axes.plot(*zip(*points, strict=True), marker="o", linestyle=line, color=f"C{number}", linewidth=width,
                      label=name)  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("seconds from image files to a saved model, two cores")
    axes.set_ylabel("test accuracy")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out)


if __name__ == "__main__":
    main()
