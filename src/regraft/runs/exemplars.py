"""Features of a few images of each class, which a run keeps so that it can grow when its images are gone.

Input: a finished training. Output: `exemplars.safetensors`, of at most 16 MB: what the head reads of some training,
validation and test images, with their labels, parts and hashes, and how many images each stands for. Those of training
images have the mean of their class. There are no
pictures and no names of files in it. Only a head that is one linear layer has it, because such a head is solved from
these numbers alone, while the layers below it stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from regraft import distributed
from regraft.atomic_io import atomic_write
from regraft.data.dataset import Dataset, Part, Split
from regraft.data.samples import PARTS
from regraft.data.stored_features import StoredFeatures
from regraft.errors import RunError
from regraft.models.classifier import Classifier
from regraft.models.serialization import WEIGHTS, read_model_json
from regraft.runs.class_changes import ClassChanges
from regraft.training.callbacks import Training

EXEMPLARS = "exemplars.safetensors"
#: Size of the file in bytes at most, without the labels and hashes.
_MAX_BYTES = 16_000_000
#: Rows for each training image: its own, and half a row each of validation and test images.
_ROWS_OF_TRAIN = 2


@dataclass(frozen=True, eq=False)
class Exemplars:
    """The file of a run: E images with their hashes, labels and parts, and their features."""

    sha256s: tuple[str, ...]
    labels: tuple[str, ...]
    parts: tuple[Part, ...]
    stored: StoredFeatures

    def changed(self, changes: ClassChanges) -> Exemplars:
        """Those of the classes that stay, with their new names."""
        labels = [changes.new_name(label) for label in self.labels]
        return replace(self, labels=tuple(labels)).take(np.array([bool(label) for label in labels]))

    def take(self, rows: np.ndarray) -> Exemplars:
        """Some of the images, bool (E,)."""
        chosen = np.flatnonzero(rows).tolist()
        sha256s, labels, parts = (
            tuple(values[i] for i in chosen) for values in (self.sha256s, self.labels, self.parts)
        )
        return Exemplars(sha256s, labels, parts, self.stored.take(rows))  # type: ignore[arg-type]


def number_of(model: Classifier, limit: int) -> int:
    """Training images of each class of which a run keeps the features; 0 where it keeps none."""
    head = model.head
    if (
        distributed.is_distributed()
        or head.widths
        or head.attention is not None
        or model.task != "classification"
        or model.ordered
    ):
        return 0
    if model.pool_by:  # a row of the head is a group
        return 0
    of_a_class = 2 * head.features * _ROWS_OF_TRAIN  # two bytes a number
    return min(limit, _MAX_BYTES // (of_a_class * len(model.classes)))


def choose(labels: np.ndarray, count: int) -> np.ndarray:
    """Numbers of at most `count` images of each class, rising, for labels int64 (N,); always the same ones."""
    order = np.random.default_rng(0).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    first = np.searchsorted(labels[by_class], labels[by_class])
    return np.sort(by_class[np.arange(len(labels)) - first < count])


def held_out_rows(dataset: Dataset, count: int) -> np.ndarray:
    """Numbers of the held-out images of which a run keeps the features, rising, where `count` is that of training."""
    parts = dataset.table.parts.astype(np.int64)
    return choose(parts * len(dataset.classes) + dataset.labels, -(-count // 2))


def moved_to_means(features: torch.Tensor, labels: np.ndarray, weights: np.ndarray, chosen: np.ndarray) -> torch.Tensor:
    """Features of the `chosen` rows, float32 (K, F), moved together so that a class has the mean of all its rows.

    A few rows of a class have another mean than many by chance, and the head would put its borders around it. Features
    that are moved to the mean of a class stand for it almost as well as its own (FeTrIL, Petit and others 2023, arXiv
    2211.13131). Features are float32 (N, F) with labels, int64 (N,), and weights, float32 (N,).
    """
    values, own = features[torch.from_numpy(chosen)].clone(), labels[chosen]
    for label in np.unique(own):
        rows, kept = np.flatnonzero(labels == label), np.flatnonzero(own == label)
        values[kept] += _mean(features[rows], weights[rows]) - _mean(values[kept], weights[chosen[kept]])
    return values


def _mean(values: torch.Tensor, weights: np.ndarray) -> torch.Tensor:
    shares = torch.from_numpy(weights / weights.sum()).double()
    return (shares @ values.double()).float()


@contextmanager
def captured(model: Classifier, rows: np.ndarray) -> Iterator[list[torch.Tensor]]:
    """A list that gets the features of these of the images that the model predicts meanwhile, float32 (F,) each."""
    wanted, found, number = set(rows.tolist()), list[torch.Tensor](), 0
    if not wanted:
        yield found
        return

    def keep(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal number
        for row in inputs[0]:
            if number in wanted:
                found.append(row.detach().float().cpu().clone())
            number += 1

    handle = model.head.classifier.register_forward_pre_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def write_exemplars(
    path: Path, split: Split, training: Training, held_out: tuple[np.ndarray, torch.Tensor] | None, count: int
) -> None:
    """Write the exemplars of a run whose model is saved; `held_out` are rows of its held-out images, and features."""
    (path / EXEMPLARS).unlink(missing_ok=True)
    if not count or training.train_features is None:
        return
    indices, features = training.train_features
    train, weights = split.train, np.ones(len(split.train), np.float32)
    if split.stored is not None:
        weights[len(split.with_files("train")) :] = split.stored_of("train").weights
    codes = train.labels
    chosen = choose(codes[indices.numpy()], count)
    rows = indices.numpy()[chosen]
    totals = np.bincount(codes, weights, len(split.classes))
    kept = np.bincount(codes[rows], weights[rows], len(split.classes))
    shares = weights[rows] * (totals / np.maximum(kept, 1e-9))[codes[rows]]  # those of a class add up as before
    numbers = indices.numpy()
    values = moved_to_means(features, codes[numbers], weights[numbers], chosen)
    pieces = [(train, rows, values, shares)]
    if held_out is not None and len(held_out[0]):
        table = split.dataset.table
        others = split.dataset.with_samples(table.take(table.parts != PARTS.index("train")))
        pieces.append((others, held_out[0], held_out[1], np.ones(len(held_out[0]))))
    samples = [dataset.samples[int(row)] for dataset, numbers, _, _ in pieces for row in numbers]
    features = torch.cat([values for _, _, values, _ in pieces])
    stored = StoredFeatures(features.numpy(), np.concatenate([numbers for *_, numbers in pieces]).astype(np.float32))
    sha256s, labels, parts = zip(*((sample.sha256, sample.label, sample.part) for sample in samples), strict=True)
    save_exemplars(path, Exemplars(sha256s, labels, parts, stored))


def rename_exemplars(earlier: Path, path: Path, changes: ClassChanges) -> None:
    """Copy the exemplars of a run, if it has any, to one whose classes have new names and whose model is saved."""
    if (found := read_exemplars(earlier)) is None:
        return
    save_exemplars(path, found.changed(changes))


def save_exemplars(path: Path, exemplars: Exemplars) -> None:
    """Write the exemplars of a run whose model is saved, in half precision where the numbers fit."""
    features = torch.from_numpy(exemplars.stored.features)
    if len(features) and features.abs().max() < torch.finfo(torch.float16).max:
        features = features.half()
    description = {
        "model": read_model_json(path)["sha256"][WEIGHTS],
        "sha256s": exemplars.sha256s,
        "labels": exemplars.labels,
        "parts": exemplars.parts,
    }
    tensors = {"features": features.contiguous(), "weights": torch.from_numpy(exemplars.stored.weights)}
    with atomic_write(path / EXEMPLARS) as temporary:
        save_file(tensors, temporary, {"exemplars": json.dumps(description)})


def read_exemplars(path: Path) -> Exemplars | None:
    """The exemplars of a run; None if it has none of its model. Raises `RunError` if the file is damaged."""
    file = path / EXEMPLARS
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            description = json.loads(opened.metadata()["exemplars"])
            features, weights = (opened.get_tensor(name).float().numpy() for name in ("features", "weights"))
        found = Exemplars(
            tuple(description["sha256s"]), tuple(description["labels"]), tuple(description["parts"]),
            StoredFeatures(features, weights),
        )  # fmt: skip
        if not len(found.sha256s) == len(found.labels) == len(found.parts) == len(features) == len(weights):
            raise ValueError("its columns have different lengths")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{file} is damaged: {error}. Copy the run again.") from error
    return found if description["model"] == read_model_json(path)["sha256"][WEIGHTS] else None
