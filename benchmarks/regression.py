"""Defect probability of solar cells: the solved head, fine-tuning, and scikit-learn's RidgeCV on the same features.

    python benchmarks/regression.py ELPV [--record] [--seeds 3] [--epochs 3]

ELPV is the folder `elpv_dataset/data` of the unpacked wheel `elpv-dataset`: 2,624 pictures of cells, each with the
probability of a defect that experts gave (0, 1/3, 2/3 or 1). Each seed is another division into training, validation
and test images (60, 20 and 20 %). scikit-learn's ridge regression gets the standardized features of the same frozen
backbone, and chooses its strength by leave-one-out cross-validation on the training images. Only the first seed is
fine-tuned, unless `--epochs 0`. Prints mean absolute error, RMSE and R2 on the test images, and the coverage of the
90 % intervals.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from evidence import save, take_flag
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import regraft
from regraft.atomic_io import write_csv
from regraft.cache import Cache
from regraft.data.dataset import Split
from regraft.evaluation.regression.metrics import RegressionEvaluation, evaluate_numbers
from regraft.evaluation.regression.predictions import RegressionPredictions
from regraft.training.callbacks import NullReporter
from regraft.training.frozen_features import frozen_features

_SIZE = 160


def manifest(folder: Path, target: Path) -> Path:
    """Write the table of the cells: absolute path and probability of a defect."""
    rows = [line.split()[:2] for line in (folder / "labels.csv").read_text().splitlines() if line.strip()]
    write_csv(target / "cells.csv", ("path", "defect"), [((folder / name).resolve(), value) for name, value in rows])
    return target / "cells.csv"


def ridge(parts: Split, cache: Cache) -> RegressionEvaluation:
    """scikit-learn's ridge regression on the features of the frozen backbone."""
    model = regraft.build(classes=parts.classes, task="regression", image_size=_SIZE)
    x = {part: frozen_features(model, parts[part], cache, NullReporter()).numpy() for part in parts}
    fitted = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(0, 5, 21)))
    fitted.fit(x["train"], parts.train.numbers)
    return evaluate_numbers(RegressionPredictions.from_arrays(parts.test.numbers, fitted.predict(x["test"])))


def solved(parts: Split, out: Path, epochs: int) -> RegressionEvaluation:
    """The head of regraft, or a fine-tuned model."""
    model = regraft.build(classes=parts.classes, task="regression", image_size=_SIZE)
    run = regraft.train(model, parts, out=out, finetune_epochs=epochs, views=4, reporter=NullReporter())
    return run.evaluate_numbers("test")


def main() -> None:
    """Train, and print a table."""
    record = take_flag()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[RegressionEvaluation]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        cache = Cache()
        dataset = regraft.scan(manifest(options.folder, Path(temporary)), task="regression", cache=cache)
        for seed in range(options.seeds):
            parts = regraft.split(dataset, train=0.6, val=0.2, test=0.2, seed=seed)
            mean = np.full(len(parts.test), parts.train.numbers.mean())
            results = {
                "the mean of the training images": evaluate_numbers(
                    RegressionPredictions.from_arrays(parts.test.numbers, mean)
                ),
                "scikit-learn RidgeCV": ridge(parts, cache),
                "solved head": solved(parts, Path(temporary) / f"head{seed}", 0),
            }
            if not seed and options.epochs:
                started = time.perf_counter()
                results["fine-tuned"] = solved(parts, Path(temporary) / "tuned", options.epochs)
                print(f"fine-tuning: {time.perf_counter() - started:.0f} s")
            for name, evaluation in results.items():
                found.setdefault(name, []).append(evaluation)
                print(f"seed {seed}, {name}: MAE {evaluation.mae:.4f}, RMSE {evaluation.rmse:.4f}, R2 {evaluation.r2}, "
                      f"coverage {evaluation.coverage}", flush=True)  # fmt: skip
    if record:
        facts = {
            name: {
                "RMSE": ", ".join(f"{one.rmse:.3f}" for one in evaluations),
                "R2": ", ".join(f"{one.r2:.3f}" for one in evaluations),
                "coverage": ", ".join("" if one.coverage is None else f"{one.coverage:.3f}" for one in evaluations),
            }
            for name, evaluations in found.items()
        }
        samples = {name: [one.mae for one in evaluations] for name, evaluations in found.items()}
        save("regression", samples, unit="mean absolute error", facts=facts, data=options.folder)


if __name__ == "__main__":
    main()
