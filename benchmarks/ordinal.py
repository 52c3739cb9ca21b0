"""Grades of defects of solar cells: a head of cumulative logits beside one that knows of no order.

    python benchmarks/ordinal.py ELPV [--record] [--seeds 10] [--few 100]

ELPV is the folder `elpv_dataset/data` of the unpacked wheel `elpv-dataset`: 2,624 pictures of cells, each with the
probability of a defect that experts gave (0, 1/3, 2/3 or 1), which are the grades. Each seed is another division into
training, validation and test images (60, 20 and 20 %). Both heads read the same features of the frozen backbone, and
choose their strength by the same validation images. They are solved on all training images, and on `--few` of them,
with the same shares of the grades. Prints quadratic weighted kappa, the mean absolute error in steps, accuracy and log
loss on the test images.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from evidence import save, take_flag
from regression import manifest

import regraft
from regraft.cache import Cache
from regraft.data.dataset import PARTS
from regraft.data.labels import ModelTask
from regraft.evaluation.metrics import Evaluation, evaluate
from regraft.evaluation.predictions import Predictions
from regraft.training.callbacks import NullReporter
from regraft.training.frozen_features import frozen_features
from regraft.training.linear_head import fit_head, stratified_part
from regraft.training.losses import Objective

_SIZE = 160
_TASKS: dict[str, ModelTask] = {"without an order": "classification", "cumulative logits": "ordinal"}


def head_of(
    features: torch.Tensor, labels: torch.Tensor, part: dict[str, torch.Tensor], classes: int, task: ModelTask
) -> Evaluation:
    """A head that is solved on the train rows of a part, evaluated on its test rows."""
    names = [str(grade) for grade in range(classes)]
    objective = Objective.of_labels(labels.numpy(), names, task=task)
    rows, val = part["train"], part["val"]
    head, _ = fit_head(features[rows], labels[rows], objective, val=(features[val], labels[val]))
    logits = objective.logits(features[part["test"]] @ head.weight.T + head.bias)
    probabilities = logits.double().softmax(dim=1).numpy()
    return evaluate(Predictions.from_arrays(labels[part["test"]].numpy(), probabilities, names, ordered=True))


def main() -> None:
    """Solve the heads, and print a table."""
    record = take_flag()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--few", type=int, default=100)
    options = parser.parse_args()
    found: dict[str, list[Evaluation]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        dataset = regraft.scan(manifest(options.folder, Path(temporary)), task="ordinal", cache=Cache())
        model = regraft.build(classes=dataset.classes, task="ordinal", image_size=_SIZE)
        features = frozen_features(model, dataset, Cache(), NullReporter())
    labels, classes = torch.from_numpy(dataset.labels), len(dataset.classes)
    for seed in range(options.seeds):
        table = regraft.split(dataset, train=0.6, val=0.2, test=0.2, seed=seed).dataset.table
        part = {name: torch.from_numpy(np.flatnonzero(table.parts == i)) for i, name in enumerate(PARTS)}
        few = stratified_part(labels[part["train"]].numpy(), options.few, seed=seed)
        for what, rows in (("", part["train"]), (f", {options.few} images", part["train"][torch.from_numpy(few)])):
            for how, task in _TASKS.items():
                result = head_of(features, labels, part | {"train": rows}, classes, task)
                found.setdefault(how + what, []).append(result)
                print(f"seed {seed}, {how}{what}: {_facts(result)}", flush=True)
    names = sorted(found, key=lambda name: "images" in name)
    for name in names:
        print(f"{name}: {', '.join(f'{key} {value}' for key, value in _means(found[name]).items())}")
    if record:
        samples = {name: [_kappa(one) for one in found[name]] for name in names}
        facts = {name: _means(found[name]) for name in names}
        save("ordinal", samples, unit="quadratic weighted kappa", facts=facts, data=options.folder)


def _kappa(evaluation: Evaluation) -> float:
    assert evaluation.ordinal is not None
    assert evaluation.ordinal.quadratic_kappa is not None
    return evaluation.ordinal.quadratic_kappa


def _error(evaluation: Evaluation) -> float:
    assert evaluation.ordinal is not None
    return evaluation.ordinal.mean_absolute_error


_FACTS: dict[str, Callable[[Evaluation], float]] = {
    "steps": _error, "accuracy": lambda one: one.accuracy, "log_loss": lambda one: one.loss,
}  # fmt: skip


def _facts(evaluation: Evaluation) -> str:
    return ", ".join(f"{name} {of(evaluation):.4f}" for name, of in {"kappa": _kappa, **_FACTS}.items())


def _means(evaluations: list[Evaluation]) -> dict[str, str]:
    return {name: f"{np.mean([of(one) for one in evaluations]):.3f}" for name, of in _FACTS.items()}


if __name__ == "__main__":
    main()
