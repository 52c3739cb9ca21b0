"""Measure the head for several labels per image: its time at 40 labels, and its macro-F1 beside scikit-learn's.

    python benchmarks/multilabel.py time [--images 20000] [--labels 40] [--record]
    python benchmarks/multilabel.py accuracy SETS [--only emoji] [--draws 5] [--record]

`time` fits the head, the calibration and the thresholds of each class for random features of the default head's width,
with correlated labels; a fifth of the images is for validation. Bar: 30 s on two cores.

`accuracy` has two sets. The solar cells of the wheel elpv-dataset are `mono` or `poly`, and some are `defective`. The
emoji of `python benchmarks/datasets.py --out SETS --only emoji` have a maker, a subgroup of Unicode and its first word
(`animal`, `animal-bird`, `noto`). Features are those of the default backbone. In each draw 60 % of the images (of the
groups) train, 20 % are for validation and 20 % for the test; a draw that is in `SETS/multilabel.json` is read from
there. scikit-learn's one-vs-rest LogisticRegressionCV gets the same features, standardized and rotated to their
principal axes, which changes no solution; C of each class is chosen by shuffled 5-fold cross-validation on the training
images. Thresholds for F1 are chosen on validation for all: those of `regraft` as in a training, from labels and
calibrated probabilities, the others from labels alone. `per class` is regraft's head with the L2 strength of each class
that has the lowest validation loss, where `regraft` has one for all.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence import save, take_flag
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier

import regraft
from regraft.atomic_io import write_csv
from regraft.cache import Cache
from regraft.data.dataset import Dataset
from regraft.data.split import inseparable_set_ids
from regraft.evaluation.multilabel.calibration import fit_slopes_and_offsets
from regraft.evaluation.multilabel.metrics import indicator_f1, mean_average_precision
from regraft.evaluation.multilabel.thresholds import choose_thresholds, thresholds_for_f1
from regraft.models.registry import DEFAULT_BACKBONE
from regraft.runs.demo import demo_images
from regraft.training.callbacks import NullReporter
from regraft.training.feature_rows import as_rows
from regraft.training.frozen_features import frozen_features
from regraft.training.head_loss import logits_of
from regraft.training.linear_head import LinearHead, fit_head
from regraft.training.losses import Objective

#: C of scikit-learn: 1 / (N l2), around what both choose.
_CS = np.logspace(-5, 0, 11)


PEER = "scikit-learn"
WAYS = ("regraft", "labels alone", "per class", PEER)


def main() -> None:
    """Measure, print and record."""
    record, parser = take_flag(), argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    timed = commands.add_parser("time")
    timed.add_argument("--images", type=int, default=20_000)
    timed.add_argument("--labels", type=int, default=40)
    compared = commands.add_parser("accuracy")
    compared.add_argument("sets", type=Path)
    compared.add_argument("--only", choices=("solar", "emoji"))
    compared.add_argument("--draws", type=int, default=5)
    given = parser.parse_args()
    if given.command == "time":
        measure_time(given.images, given.labels, record)
    else:
        for name, read in {"solar": solar, "emoji": partial(emoji, given.sets)}.items():
            if given.only in (None, name):
                compare(name, read(), given.draws, given.sets / "multilabel.json", record)


def measure_time(images: int, labels: int, record: bool) -> None:
    """Seconds and seconds of the processors for each step."""
    width = regraft.build(DEFAULT_BACKBONE, classes=["a", "b"], weights="none").head.features
    x, y = random_features(images, width, labels)
    train = images * 4 // 5
    rows, val = x[None, :train].clone(), (x[train:], torch.from_numpy(y[train:].astype(np.float32)))
    objective = Objective.of_labels(y[:train], [str(i) for i in range(labels)])
    clock = [(time.perf_counter(), time.process_time())]

    def tick() -> None:
        clock.append((time.perf_counter(), time.process_time()))

    best, path = fit_head(rows, torch.from_numpy(y[:train].astype(np.float32)), objective, val=val)
    tick()
    logits = logits_of(as_rows(val[0]), best.weight, best.bias).double().numpy()
    slopes, offsets = fit_slopes_and_offsets(y[train:], logits)
    tick()
    thresholds_for_f1(y[train:], sigmoid(slopes * logits + offsets))
    tick()
    wall, cpu = np.diff(np.array(clock), axis=0).T
    steps = dict(
        zip((f"L2 path, {len(path)} fits", "calibration", "thresholds"), zip(wall, cpu, strict=True), strict=True)
    )
    steps["all"] = (float(wall.sum()), float(cpu.sum()))
    for step, (seconds, of_processors) in steps.items():
        print(f"{step:20} {seconds:6.1f} s, {of_processors:6.1f} s of the processors")
    if record:
        facts = {step: {"wall_seconds": round(float(seconds), 1)} for step, (seconds, _) in steps.items()}
        facts["all"] |= {"images": images, "labels": labels, "features": width, "threads": torch.get_num_threads()}
        samples = {step: [own] for step, (_, own) in steps.items()}
        save("multilabel-time", samples, unit="processor seconds", facts=facts, title="Head for several labels")


def random_features(images: int, width: int, labels: int) -> tuple[torch.Tensor, np.ndarray]:
    """Features with a few strong directions, as those of a network, and labels that share some of these."""
    rng = np.random.default_rng(0)
    common = rng.standard_normal((images, 64)).astype(np.float32)
    x = common @ rng.standard_normal((64, width)).astype(np.float32)
    x += 2 * rng.standard_normal((images, width)).astype(np.float32)
    shared = rng.standard_normal((width, 8)) @ rng.standard_normal((8, labels))
    weight = (shared / 10 + rng.standard_normal((width, labels)) / 20) / width**0.5
    logits = x @ weight.astype(np.float32) + rng.uniform(-4, 0, labels)
    return torch.from_numpy(x), rng.random((images, labels)) < sigmoid(logits)


def solar() -> Dataset:
    """Solar cells: mono or poly, and defective if all experts said so."""
    folder, rows = demo_images(), []
    for line in (folder / "labels.csv").read_text().splitlines():
        name, probability, kind = line.split()
        if float(probability) in (0.0, 1.0):
            rows.append((folder / name, [kind, "defective"] if float(probability) else [kind], name))
    return dataset(rows)


def emoji(sets: Path) -> Dataset:
    """Emoji: maker, subgroup and its first word."""
    rows = []
    for file in sorted((sets / "emoji").glob("*/*/*.png")):
        code, maker = file.stem.rsplit(".", 1)
        subgroup = file.parent.name
        rows.append((file, [maker, subgroup, re.split("[-_ ]", subgroup)[0]], code))
    return dataset(rows)


def dataset(rows: list[tuple[Path, list[str], str]]) -> Dataset:
    """Scan files with labels and groups."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "labels.csv"
        cells = [(str(file), "|".join(sorted(set(labels))), group) for file, labels, group in rows]
        write_csv(manifest, ("path", "label", "group"), cells)
        return regraft.scan(manifest, task="multilabel")


def compare(name: str, data: Dataset, draws: int, kept: Path, record: bool) -> None:
    """Macro-F1 and mAP of each head on test images, by draw."""
    model = regraft.build(DEFAULT_BACKBONE, classes=data.classes, task="multilabel", shorter_side=data.shorter_side)
    x, y = frozen_features(model, data, Cache(), NullReporter()), data.indicators
    groups = inseparable_set_ids(data.samples)
    samples: dict[str, list[float]] = {}
    precision: dict[str, list[float]] = {}
    for seed in range(draws):
        every = json.loads(kept.read_text()) if kept.is_file() else {}
        of_draw = every.setdefault(f"{name} {seed}", {})
        if missing := [way for way in WAYS if way not in of_draw]:
            of_draw |= draw(x, y, parts_of(groups, seed), seed, missing)
            kept.write_text(json.dumps(every, indent=1))
        for way in WAYS:
            scores = of_draw[way]
            samples.setdefault(way, []).append(scores["macro-F1"])
            precision.setdefault(way, []).append(scores["mAP"])
            print(f"{name} {seed} {way:14} macro-F1 {scores['macro-F1']:.4f}  mAP {scores['mAP']:.4f}", flush=True)
    for way, scores in samples.items():
        gains = np.subtract(scores, samples[PEER])
        print(f"{name:6} {way:14} macro-F1 {np.mean(scores):.4f} ({gains.mean():+.4f}, deviation {gains.std():.4f})")
    if record:
        facts: dict[str, dict[str, Any]] = {
            way: {"mAP": round(float(np.mean(values)), 4), "mean": round(float(np.mean(samples[way])), 4)}
            for way, values in precision.items()
        }
        title = f"{len(data)} images, {len(data.classes)} labels"
        save(f"multilabel-{name}", samples, unit="macro-F1", title=title, facts=facts)


def draw(x: torch.Tensor, y: np.ndarray, part: np.ndarray, seed: int, ways: list[str]) -> dict[str, dict[str, float]]:
    """Scores of some heads on the test images of one draw."""
    scores, val, test = {}, part == 1, part == 2
    logits_of_way = regraft_heads(x, y, part, seed) if set(ways) - {PEER} else {}
    if PEER in ways:
        logits_of_way[PEER] = peer(x.numpy(), y, np.flatnonzero(part == 0))
    for way in ways:
        logits = logits_of_way[way]
        if way == "regraft":
            slopes, offsets = fit_slopes_and_offsets(y[val], logits[val])
            probabilities = sigmoid(slopes * logits + offsets)
            said = probabilities >= choose_thresholds(y[val], probabilities[val], "f1")
        else:
            said = sigmoid(logits) >= thresholds_for_f1(y[val], sigmoid(logits[val]))
        scores[way] = {
            "macro-F1": indicator_f1(y[test], said[test]),
            "mAP": mean_average_precision(y[test], logits[test]),
        }
    return scores


def parts_of(groups: np.ndarray, seed: int) -> np.ndarray:
    """Part of each image, 0 train, 1 validation, 2 test, which divides no group."""
    order = np.random.default_rng(seed).permutation(int(groups.max()) + 1)
    place = np.empty(len(order))
    place[order] = np.arange(len(order)) / len(order)
    return np.digitize(place[groups], (0.6, 0.8))


def regraft_heads(x: torch.Tensor, y: np.ndarray, part: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Logits of all images by each of regraft's heads, float64 (N, C)."""
    train, val = (np.flatnonzero(part == number) for number in (0, 1))
    targets = torch.from_numpy(y.astype(np.float32))
    objective = Objective.of_labels(y[train], [str(i) for i in range(y.shape[1])])
    best, path = fit_head(x[None, train], targets[train], objective, val=(x[val], targets[val]), seed=seed)
    logits = {head: (x @ head.weight.T + head.bias).double().numpy() for head in path}
    return {
        "regraft": logits[best],
        "labels alone": logits[best],
        "per class": per_class(path, logits, y, val),
    }


def per_class(
    path: list[LinearHead], logits: dict[LinearHead, np.ndarray], y: np.ndarray, val: np.ndarray
) -> np.ndarray:
    """Logits of each class by the head with its lowest validation loss."""
    every = np.stack([logits[head] for head in path])
    losses = np.logaddexp(0, np.where(y[val], -1, 1) * every[:, val]).mean(axis=1)
    return every[losses.argmin(axis=0), :, np.arange(y.shape[1])].T


def peer(x: np.ndarray, y: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Logits of scikit-learn's one-vs-rest logistic regression."""
    mean, deviation = x[train].mean(axis=0), x[train].std(axis=0)
    standardized = ((x - mean) / np.maximum(deviation, 1e-3 * deviation.mean())).astype(np.float64)
    _, _, axes = np.linalg.svd(standardized[train], full_matrices=False)
    rotated = standardized @ axes.T
    logistic = LogisticRegressionCV(
        Cs=_CS,
        cv=StratifiedKFold(5, shuffle=True, random_state=0),
        scoring="neg_log_loss",
        max_iter=1000,
        l1_ratios=(0,),
        use_legacy_attributes=False,
    )
    return OneVsRestClassifier(logistic).fit(rotated[train], y[train].astype(int)).decision_function(rotated)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -500, 500))))


if __name__ == "__main__":
    main()
