"""Accuracy and time with K cached views of each training image, K = 1, 2, 4, 8, 16.

    python benchmarks/views.py DATA [--epochs 10] [--seeds 2] [--set KEY=VALUE]

DATA is as for `regraft train`. Every training starts with an empty cache, and the fine-tuned model is always kept. With
K = 1, the activations at the boundary are flipped instead.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import mean

import regraft
from regraft.cache import Cache
from regraft.config import load_config
from regraft.data.scan import scan
from regraft.evaluation.intervals import wilson_interval
from regraft.evaluation.metrics import evaluate
from regraft.runs.evaluate import predict_dataset
from regraft.runs.scan_and_split import split_with
from regraft.training.trainer import train

VIEWS = (1, 2, 4, 8, 16)


def main() -> None:
    """Train with each K and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=10, help="fine-tuning epochs, at least one")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for `regraft train`")
    arguments = parser.parse_args()
    print("| views | test accuracy | seeds | prefix s | fine-tuning s |\n|---|---|---|---|---|", flush=True)
    dataset = scan(arguments.data)
    for views in VIEWS:
        correct, seconds, accuracies = [], [], []
        for seed in range(arguments.seeds):
            config = load_config(None, [*arguments.set, f"training.seed={seed}"])
            parts = split_with(dataset, config)
            chosen = asdict(config.model)
            model = regraft.build(
                chosen.pop("backbone"), classes=parts.classes, shorter_side=dataset.shorter_side, seed=seed, **chosen
            )
            options = asdict(config.training) | {"views": views, "finetune_epochs": arguments.epochs}
            with tempfile.TemporaryDirectory() as folder:
                result = train(
                    model, parts, augmentation=config.augmentation, cache=Cache(Path(folder)),
                    **options | {"keep_finetuned": "always"},
                )  # fmt: skip
            seconds.append(result.seconds)
            predictions = predict_dataset(model, parts.test)
            accuracies.append(evaluate(predictions).accuracy)
            correct.append(accuracies[-1] * len(parts.test))
        low, high = wilson_interval(round(mean(correct)), len(parts.test))
        print(
            f"| {views} | {mean(accuracies):.3f} ({low:.3f} to {high:.3f}) "
            f"| {', '.join(f'{a:.3f}' for a in accuracies)} "
            f"| {mean(s['prefix'] for s in seconds):.1f} | {mean(s['finetune'] for s in seconds):.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
