"""regraft, measured like the peers: from image files to a saved model, with an empty cache.

    python regraft_train.py --data FOLDER --weights FILE --out FOLDER --epochs 10
    python regraft_train.py --data FOLDER --weights FILE --out FOLDER --preset best

A tenth of train is held out for validation, as by `regraft train`. The peers train on all of it; with `--val 0` so does
regraft, which then selects the L2 strength of the head by cross-validation and keeps the last epoch. As for the peers,
the time ends with the saved model and does not include the test images. `--preset` is all of `regraft train --preset`,
with its plan, calibration and report, and with the backbones that the preset chooses, by their names.
"""

# ruff: noqa: E402 (imports are timed apart)

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse
import os
import shutil
import tempfile
from pathlib import Path

import torch
from measured import listing, parser_of, peak_megabytes, report

import regraft
from regraft.cache import Cache
from regraft.config import load_config
from regraft.models.serialization import save_classifier
from regraft.runs.train import train_from
from regraft.training.trainer import train

IMPORT_SECONDS = time.perf_counter() - STARTED


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--epochs", type=int, default=10, help="fine-tuning epochs; 0: only the head")
    parser.add_argument("--views", type=int, default=0, help="views per training image; default: regraft's")
    parser.add_argument("--start", default="auto", help="finetune_from: the freeze boundary")
    parser.add_argument("--val", type=float, default=0.1, help="fraction of train that is held out")
    parser.add_argument("--warm", action="store_true", help="train twice, and time the second with a filled cache")
    parser.add_argument("--preset", help="settings under one name, instead of the options above; as `regraft train`")
    parser.add_argument("--own-size", action="store_true", help="the preset chooses the size of the images")
    parser.add_argument("--group-by", default="", help="regular expression; as `regraft train --group-by`")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.preset:
        train_preset(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(1 + options.warm):
            started = time.perf_counter()
            fractions = {"val": options.val, "test": 0.0, "train": 1 - options.val}
            dataset = regraft.scan(options.data / "train", group_by=options.group_by)
            parts = regraft.split(dataset, **fractions, seed=options.seed)
            model = regraft.build(
                classes=parts.classes, weights=str(options.weights), image_size=options.size, seed=options.seed
            )
            result = train(
                model,
                parts,
                cache=Cache(Path(folder)),
                finetune_epochs=options.epochs,
                finetune_from=options.start,
                views=options.views,
                seed=options.seed,
            )
            save_classifier(model, options.out)
            seconds, peak = time.perf_counter() - started, peak_megabytes()
    predictions = regraft.predict(model, listing(options.data / "test")[0])
    report(
        "regraft",
        (f"{options.epochs} epochs from {options.start}" if options.epochs else "head")
        + " without validation" * (not options.val)
        + " warm" * options.warm,
        options,
        import_seconds=IMPORT_SECONDS,
        seconds=seconds,
        peak=peak,
        predicted=[prediction.label for prediction in predictions],
        packages=("torch", "timm", "regraft"),
        prefix_backend=result.prefix_backend,
        steps={name: round(value, 3) for name, value in result.seconds.items()},
    )


def train_preset(options: argparse.Namespace) -> None:
    """Train, calibrate and report as the command does, with an empty cache."""
    run_folder = options.out / "run"
    shutil.rmtree(run_folder, ignore_errors=True)  # of an earlier call
    with tempfile.TemporaryDirectory() as folder:
        os.environ["REGRAFT_CACHE"] = folder
        started = time.perf_counter()
        settings = {
            "run.preset": options.preset,
            "data.test": 0.0,
            "data.group_by": options.group_by,
            "model.image_size": None if options.own_size else options.size,
            "training.seed": options.seed,
        }
        run = train_from(options.data / "train", load_config(overrides=settings), run_folder)
        seconds, peak = time.perf_counter() - started, peak_megabytes()
    predictions = regraft.predict(run, listing(options.data / "test")[0])
    report(
        "regraft",
        f"preset {options.preset}",
        options,
        import_seconds=IMPORT_SECONDS,
        seconds=seconds,
        peak=peak,
        predicted=[prediction.label for prediction in predictions],
        packages=("torch", "timm", "regraft"),
    )


if __name__ == "__main__":
    main()
