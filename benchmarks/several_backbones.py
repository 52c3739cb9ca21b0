"""Accuracy and time of several backbones under one head, beside each of them alone.

    python benchmarks/several_backbones.py DATA [--backbones A B,C ...] [--epochs N ...] [--seeds S] [--train N]
        [--set KEY=VALUE] [--record]

DATA is as for `regraft train`. Each entry of `--backbones` is trained with each number of fine-tuning epochs and each
seed, which also divides the images; `--train` keeps so many training images, in equal shares of the classes. Every
training starts with an empty cache. Printed are the test accuracy, the chosen head, the seconds of the training, and
the images per second of the frozen part.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from draw import stratified_order
from evidence import save, take_flag

import regraft
from regraft.config import load_config
from regraft.data.dataset import Dataset, Split
from regraft.data.scan import scan
from regraft.runs.scan_and_split import split_with
from regraft.training.device import choose_device, choose_precision
from regraft.training.prefix_backend import images_per_second, make_backend

BACKBONES = (
    "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "mobilenetv2", "efficientnet_lite0,mobilenetv2",
    "efficientnet_lite0,efficientnet_lite1,efficientnet_lite2", "efficientnet_lite0,efficientnet_lite2,mobilenetv2",
)  # fmt: skip


def main() -> None:
    """Train everything and print a Markdown table."""
    record = take_flag()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--epochs", nargs="+", type=int, default=[0], help="fine-tuning epochs")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--train", type=int, default=0, help="training images; 0: all")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for `regraft train`")
    arguments = parser.parse_args()
    dataset = scan(arguments.data)
    samples: dict[str, list[float]] = {}
    facts: dict[str, dict[str, Any]] = {}
    print("| backbones | epochs | test accuracy | of each seed | head | s | images/s |\n|---|---|---|---|---|---|---|")
    for backbone in arguments.backbones:
        for epochs in arguments.epochs:
            rows = [
                _train(dataset, backbone, epochs, seed, arguments.train, arguments.set)
                for seed in range(arguments.seeds)
            ]
            label = f"{backbone}, {epochs} epochs"
            samples[label] = [row["accuracy"] for row in rows]
            facts[label] = {
                name: [row[name] for row in rows]
                for name in ("val_loss", "seconds", "head", "images_per_second", "train")
            }
            heads = ", ".join(str((row["head"] or {}).get("chosen", "")) for row in rows)
            each = ", ".join(f"{accuracy:.3f}" for accuracy in samples[label])
            print(
                f"| {backbone} | {epochs} | {mean(samples[label]):.3f} | {each} | {heads} "
                f"| {mean(row['seconds'] for row in rows):.1f} | {rows[0]['images_per_second']:.0f} |",
                flush=True,
            )
    if record:
        save("several-backbones", samples, unit="test accuracy", facts=facts)


def _train(dataset: Dataset, backbone: str, epochs: int, seed: int, count: int, settings: list[str]) -> dict[str, Any]:
    config = load_config(None, [*settings, f"training.seed={seed}"], {"model.backbone": backbone})
    parts = _fewer(split_with(dataset, config), count, seed)
    options = asdict(config.model)
    model = regraft.build(
        options.pop("backbone"), classes=parts.classes, shorter_side=dataset.shorter_side, seed=seed, **options
    )
    precision = choose_precision("auto", choose_device("auto"))
    backend = make_backend("torch", model, len(model.stages), precision)
    rate = images_per_second(backend, model.preprocessing.input_shape)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        training = asdict(config.training) | {"finetune_epochs": epochs, "cache_gb": 0.0}
        run = regraft.train(model, parts, out=Path(folder) / "run", **training)
        seconds, metrics = time.perf_counter() - started, run.metrics
    return {
        "accuracy": metrics["test"]["accuracy"],
        "val_loss": metrics["val"]["loss"] if "val" in metrics else None,
        "seconds": seconds,
        "head": metrics.get("head"),
        "images_per_second": rate,
        "train": len(parts.train),
    }


def _fewer(parts: Split, count: int, seed: int) -> Split:
    """The split with `count` training images; all of them for 0."""
    if not count or count >= len(parts.train):
        return parts
    table = parts.dataset.table
    train = np.flatnonzero(table.parts == 0)
    kept = train[stratified_order(parts.train.labels, seed)[:count]]
    chosen = np.sort(np.concatenate([kept, np.flatnonzero(table.parts != 0)]))
    return Split(parts.dataset.with_samples(table.take(chosen)))


if __name__ == "__main__":
    main()
