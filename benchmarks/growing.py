"""Add a class to a model: with all images, from the features that its run keeps, and by training anew.

    python benchmarks/growing.py FOLDER [--classes N] [--size PIXELS] [--record]

FOLDER has the folders `train/` and `test/` of CIFAR-10's classes. For each of N classes (default 3), a model learns all
other classes with the default settings; then the class is added. Training anew has all images and the default settings.
Runs see the images in `train/` alone, which they split; every way starts with the cache that the first training has
left. Prints accuracies on the images in `test/`, of the old classes and of the new one, and seconds. Bars: from the
features, old classes lose at most 2 points more than with all images; with all images the result is that of training
anew within its 95 % interval, in a tenth of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence import save, take_flag

import regraft
from regraft.config import load_config
from regraft.data.stored_features import StoredFeatures
from regraft.evaluation.comparison import paired_difference
from regraft.evaluation.predictions import Predictions
from regraft.runs.evaluate import predict_dataset
from regraft.runs.exemplars import choose, moved_to_means, read_exemplars, save_exemplars
from regraft.runs.train import train_from

#: Training images of each class whose features are left; the first is what a run keeps.
EXEMPLARS = (100, 20, 5)


def main() -> None:
    """Grow by each class in each way, and print and record the results."""
    record, parser = take_flag(), argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--size", type=int, default=160)
    given = parser.parse_args()
    names = sorted(path.name for path in (given.folder / "train").iterdir())
    samples: dict[str, list[float]] = {}
    facts: dict[str, dict[str, list[float]]] = {}
    for name in names[:: max(1, len(names) // given.classes)][: given.classes]:
        with tempfile.TemporaryDirectory() as folder:
            for way, values in grow_by(name, names, given.folder.resolve(), Path(folder), given.size).items():
                print(name, way, values, flush=True)
                samples.setdefault(way, []).append(values.pop("seconds"))
                for fact, value in values.items():
                    facts.setdefault(way, {}).setdefault(fact, []).append(round(value, 4))
    means = {way: {fact: statistics.mean(values) for fact, values in of_way.items()} for way, of_way in facts.items()}
    for way, of_way in means.items():
        shown = "  ".join(f"{fact} {value:.3f}" for fact, value in of_way.items())
        print(f"{way:35} {statistics.mean(samples[way]):6.1f} s  {shown}")
    if record:
        shown = {way: facts[way] | shares(of_way) for way, of_way in means.items()}
        save("growing", samples, unit="s", title="A class more", facts=shown, data=given.folder)


def shares(means: dict[str, float]) -> dict[str, str]:
    """Mean accuracies as the table has them: of the old classes, of the new one and of all."""
    names = {"old classes": "old", "new class": "new", "all classes": "all"}
    return {short: f"{100 * means[name]:.1f} %" for name, short in names.items() if name in means}


def grow_by(name: str, names: list[str], data: Path, folder: Path, size: int) -> dict[str, dict[str, float]]:
    """Seconds and accuracies of each way of adding the class."""
    settings: dict[str, Any] = {"model.image_size": size}
    old = [other for other in names if other != name]
    for place, classes in (("old", old), ("new", [name]), ("all", names)):
        (folder / place).mkdir()
        for one in classes:
            (folder / place / one).symlink_to(data / "train" / one)
    first, _ = timed(folder, "before", folder / "old", settings, cache=None)
    tested = regraft.scan(data / "test")
    is_old = np.isin(tested.labels, [names.index(one) for one in old])
    before = predict_dataset(first.classifier, tested.with_samples(tested.table.take(is_old)))
    results = {"before": {"seconds": 0.0, "old classes": accuracy(before, old)}}
    growth = {"run.from_run": str(first.path), "training.finetune_epochs": 0}
    runs = {
        "all images": timed(folder, "all images", folder / "new", settings | growth, cache="before"),
        "training anew": timed(folder, "anew", folder / "all", settings, cache="before"),
    }
    for count in EXEMPLARS:
        copy = without_images(first, folder / f"kept-{count}", count)
        way = f"features of {count} images a class"
        runs[way] = timed(folder, way, folder / "new", settings | growth | {"run.from_run": str(copy)}, cache="before")
    predictions = {way: predict_dataset(run.classifier, tested) for way, (run, _) in runs.items()}
    for way, after in predictions.items():
        seconds = runs[way][1]
        results[way] = {"seconds": seconds, "old classes": accuracy(after, old), "new class": accuracy(after, [name])}
        results[way]["all classes"] = accuracy(after, names)
        if way == "all images":
            difference = paired_difference(after, predictions["training anew"])
            results[way] |= {
                "difference": difference.accuracy, "low": difference.interval[0], "high": difference.interval[1],
            }  # fmt: skip
    return results


def timed(
    folder: Path, name: str, data: Path, settings: dict[str, Any], *, cache: str | None
) -> tuple[regraft.Run, float]:
    """Train with a copy of the cache that a training has left, and return the run and its seconds."""
    own = folder / "caches" / name
    if cache is not None:
        shutil.copytree(folder / "caches" / cache, own)
    os.environ["REGRAFT_CACHE"] = str(own)
    started = time.perf_counter()
    run = train_from(data, load_config(overrides=settings), folder / "runs" / name)
    return run, time.perf_counter() - started


def without_images(run: regraft.Run, folder: Path, count: int) -> Path:
    """A copy of a run that does not find its images and has the features of fewer."""
    shutil.copytree(run.path, folder)
    (folder / "source.json").write_text(json.dumps({"data": str(folder / "gone")}))
    found = read_exemplars(folder)
    assert found is not None
    labels = np.unique(found.labels, return_inverse=True)[1]
    is_train = np.array(found.parts) == "train"
    kept = ~is_train
    kept[np.flatnonzero(is_train)[choose(labels[is_train], count)]] = True
    weights, features = found.stored.weights.copy(), found.stored.features.copy()
    chosen = np.flatnonzero(is_train & kept)
    values = torch.from_numpy(features[is_train])
    places = np.cumsum(is_train) - 1
    features[chosen] = moved_to_means(values, labels[is_train], weights[is_train], places[chosen]).numpy()
    for label in np.unique(labels):
        rows = is_train & (labels == label)
        weights[rows & kept] *= weights[rows].sum() / weights[rows & kept].sum()
    save_exemplars(folder, replace(found, stored=StoredFeatures(features, weights)).take(kept))
    return folder


def accuracy(predictions: Predictions, classes: list[str]) -> float:
    """Share of the images of these classes that are predicted correctly, 0..1."""
    chosen = np.isin(np.array(predictions.classes)[predictions.labels], classes)
    return float((predictions.predicted == predictions.labels)[chosen].mean())


if __name__ == "__main__":
    main()
