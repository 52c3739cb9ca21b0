"""Soft targets replace the labels in the loss, and unlabelled images train beside the labelled ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regraft.data.dataset import Dataset, Split, Unlabelled
from regraft.errors import RunError, UsageError
from regraft.models.classifier import Classifier
from regraft.training.soft_targets import SoftTargets, beside
from regraft.training.trainer import train

_OPTIONS: dict[str, Any] = {"finetune_epochs": 1, "views": 2, "batch_size": 8, "keep_finetuned": "always"}


def _one_hot(dataset: Dataset) -> np.ndarray:
    """Targets of one view, (1, N, 3)."""
    return np.eye(3, dtype=np.float32)[dataset.labels][None]


@pytest.fixture(scope="module")
def unlabelled(squares_split: Split) -> Dataset:
    """Pictures of the same kind: eight of each class, class by class."""
    others = [sample for part in ("val", "test") for sample in squares_split[part].samples]  # type: ignore[index]  # a part
    others.sort(key=lambda sample: sample.label)
    return Dataset.from_arrays([np.asarray(squares_split.dataset.source(sample)) for sample in others], ["?"] * 24)


def test_one_hot_targets_are_labels(make_model: Callable[..., Classifier], squares_split: Split) -> None:
    options = {**_OPTIONS, "finetune_from": "last", "seed": 3, "label_smoothing": 0.0}
    hard = train(make_model(), squares_split, **options)
    soft = train(make_model(), squares_split, **options, soft_targets=SoftTargets(_one_hot(squares_split.train)))
    assert [row.train_loss for row in soft.history] == [row.train_loss for row in hard.history]
    assert [fit.train_loss for fit in soft.head_path] == pytest.approx([fit.train_loss for fit in hard.head_path])


def test_unlabelled_images_teach_what_their_targets_say(
    make_model: Callable[..., Classifier], squares_split: Split, unlabelled: Dataset
) -> None:
    nothing = np.full((1, len(squares_split.train), 3), 1 / 3, np.float32)  # the labelled images say nothing
    truth = np.eye(3, dtype=np.float32)[np.repeat([0, 1, 2], 8)][None]
    options = {**_OPTIONS, "finetune_from": "last", "label_smoothing": 0.0}
    both = replace(squares_split, unlabelled=Unlabelled(unlabelled, "", len(unlabelled)))
    taught, misled = (
        train(make_model(), both, **options, soft_targets=SoftTargets(nothing, targets))
        for targets in (truth, np.roll(truth, 1, axis=2))
    )
    assert taught.train_accuracy is not None
    assert misled.train_accuracy is not None
    assert taught.train_accuracy > 0.6
    assert misled.train_accuracy < 0.3


def test_each_view_has_its_own_target(make_model: Callable[..., Classifier], squares_split: Split) -> None:
    options = {**_OPTIONS, "finetune_from": "last", "seed": 3}
    targets = _one_hot(squares_split.train)
    of_views = [targets, np.repeat(targets, 2, axis=0), np.concatenate([targets, np.full_like(targets, 1 / 3)])]
    alike, repeated, other = (
        train(make_model(), squares_split, **options, soft_targets=SoftTargets(t)) for t in of_views
    )
    assert [row.train_loss for row in repeated.history] == [row.train_loss for row in alike.history]
    assert [fit.train_loss for fit in other.head_path] == [fit.train_loss for fit in alike.head_path]  # the plain view
    assert [row.train_loss for row in other.history] != [row.train_loss for row in alike.history]


def test_a_checkpoint_of_other_targets_is_refused(
    make_model: Callable[..., Classifier], squares_split: Split, tmp_path: Path
) -> None:
    targets = _one_hot(squares_split.train)
    checkpoint = tmp_path / "last.safetensors"
    options = {**_OPTIONS, "finetune_from": "last", "checkpoint": checkpoint}
    train(make_model(), squares_split, **options, soft_targets=SoftTargets(targets))
    with pytest.raises(RunError, match="another model, other options"):
        train(make_model(), squares_split, **options, soft_targets=SoftTargets(np.roll(targets, 1, axis=2)))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.full((1, 5, 3), 1 / 3), r"the shape \(1, 5, 3\); expected \(1 or 2, 24, 3\)"),
        (np.full((1, 24, 3), 0.5), "no probabilities"),
    ],
)
def test_targets_that_do_not_fit_are_refused(
    make_model: Callable[..., Classifier], squares_split: Split, rows: np.ndarray, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train(make_model(), squares_split, **_OPTIONS, soft_targets=SoftTargets(rows))


def test_beside_reads_each_image_from_its_own_data(squares_split: Split, unlabelled: Dataset) -> None:
    both = beside(squares_split.train, unlabelled)
    count = len(squares_split.train)
    assert len(both) == count + len(unlabelled)
    assert [s.label for s in both.samples[count:]] == [None] * len(unlabelled)
    for part, first in ((squares_split.train, 0), (unlabelled, count)):
        for number, sample in enumerate(part.samples):
            joined = both.samples[first + number]
            assert joined.sha256 == sample.sha256
            assert np.array_equal(np.asarray(both.source(joined)), np.asarray(part.source(sample)))
    assert torch.equal(torch.from_numpy(both.table.sizes[:count]), torch.from_numpy(squares_split.train.table.sizes))


def test_beside_reads_files(squares_folder: Path, unlabelled: Dataset) -> None:
    from regraft.data.scan import scan

    files = scan(squares_folder, near_duplicates=False)
    both = beside(files, unlabelled)
    assert both.source(both.samples[0]) == files.source(files.samples[0])
    assert both.samples[0].label == files.samples[0].label
    assert isinstance(both.source(both.samples[len(files)]), np.ndarray)
