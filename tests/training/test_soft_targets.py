"""Soft targets replace the labels in the loss, and unlabeled images train beside the labeled ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regraft.data.dataset import Dataset, Split, Unlabeled
from regraft.errors import RunError, UsageError
from regraft.models.classifier import Classifier
from regraft.models.staged import StageOutput
from regraft.training import epochs
from regraft.training.activations import Activations
from regraft.training.data import TrainingData
from regraft.training.phase import PhaseTrainer
from regraft.training.soft_targets import SoftTargets, beside
from regraft.training.trainer import train

_OPTIONS: dict[str, Any] = {"finetune_epochs": 1, "views": 2, "batch_size": 8, "keep_finetuned": "always"}


def _one_hot(dataset: Dataset) -> np.ndarray:
    """Targets of one view, (1, N, 3)."""
    return np.eye(3, dtype=np.float32)[dataset.labels][None]


@pytest.fixture(scope="module")
def unlabeled(squares_split: Split) -> Dataset:
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


def test_unlabeled_images_teach_what_their_targets_say(
    make_model: Callable[..., Classifier], squares_split: Split, unlabeled: Dataset
) -> None:
    nothing = np.full((1, len(squares_split.train), 3), 1 / 3, np.float32)  # the labeled images say nothing
    truth = np.eye(3, dtype=np.float32)[np.repeat([0, 1, 2], 8)][None]
    options = {**_OPTIONS, "finetune_from": "last", "label_smoothing": 0.0}
    both = replace(squares_split, unlabeled=Unlabeled(unlabeled, "", len(unlabeled)))
    taught, misled = (
        train(make_model(), both, **options, soft_targets=SoftTargets(nothing, targets))
        for targets in (truth, np.roll(truth, 1, axis=2))
    )
    assert taught.train_accuracy is not None
    assert misled.train_accuracy is not None
    assert taught.train_accuracy > 0.6
    assert misled.train_accuracy < 0.3


def test_each_view_has_its_own_target(
    make_model: Callable[..., Classifier], squares_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = np.random.default_rng(0).dirichlet([1, 1, 1], (2, 24)).astype(np.float32)  # no two are alike
    drawn: list[tuple[int, int]] = []

    class Recording(PhaseTrainer):
        def _own_part(self, indices: np.ndarray, own: slice, key: int) -> tuple[StageOutput, torch.Tensor, float]:
            inputs, taught, weight = super()._own_part(indices, own, key)
            assert isinstance(self.batches, Activations)
            known = torch.stack([self.batches.batch(view, slice(0, 24)).values for view in range(2)])
            for row, target in zip(inputs.values, taught, strict=True):
                ((view, image),) = (known == row).flatten(2).all(dim=2).nonzero().tolist()
                assert torch.equal(target, torch.from_numpy(targets[view, image]))
                drawn.append((view, image))
            return inputs, taught, weight

    monkeypatch.setattr(epochs, "PhaseTrainer", Recording)
    train(make_model(), squares_split, **{**_OPTIONS, "finetune_from": "last"}, soft_targets=SoftTargets(targets))
    assert {image for _, image in drawn} == set(range(24))
    assert {view for view, _ in drawn} == {0, 1}


def test_targets_of_views_are_put_together_once(squares_split: Split) -> None:
    train, unlabeled = np.random.default_rng(0).dirichlet([1, 1, 1], (2, 10)), np.full((2, 4, 3), 1 / 3)
    targets = SoftTargets(train, unlabeled)
    of_views = targets.of_views
    assert of_views is not None
    assert of_views is targets.of_views
    assert of_views.shape == (2, 14, 3)
    plain = targets.plain()
    assert torch.equal(plain, of_views[0])
    assert plain.untyped_storage().nbytes() == 14 * 3 * 4  # of one view alone
    assert SoftTargets(train[:1], unlabeled[:1]).of_views is None


def test_training_and_unlabeled_images_need_the_same_views(squares_split: Split, unlabeled: Dataset) -> None:
    both = replace(squares_split, unlabeled=Unlabeled(unlabeled, "", len(unlabeled)))
    rows = np.repeat(_one_hot(squares_split.train), 2, axis=0)
    for of_unlabeled in (1, 3):
        with pytest.raises(UsageError, match=f"of 2 views of each training image, and of {of_unlabeled} of each"):
            SoftTargets(rows, np.full((of_unlabeled, 24, 3), 1 / 3)).check(both, views=2)


@pytest.mark.parametrize("is_taught", [True, False])
def test_a_process_holds_its_own_rows_unless_labels_are_propagated(
    make_model: Callable[..., Classifier],
    squares_split: Split,
    unlabeled: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    is_taught: bool,
) -> None:
    both = replace(squares_split, unlabeled=Unlabeled(unlabeled, "", len(unlabeled)))
    targets = SoftTargets(_one_hot(squares_split.train), np.full((1, 24, 3), 1 / 3)) if is_taught else None
    asked: list[bool] = []
    head_inputs = TrainingData.head_inputs

    def recording(*arguments: Any, own: bool, **options: Any) -> Any:
        asked.append(own)
        return head_inputs(*arguments, own=own, **options)

    monkeypatch.setattr(TrainingData, "head_inputs", recording)
    train(make_model(), both, finetune_epochs=0, soft_targets=targets)
    assert asked == [is_taught]


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


def test_beside_reads_each_image_from_its_own_data(squares_split: Split, unlabeled: Dataset) -> None:
    both = beside(squares_split.train, unlabeled)
    count = len(squares_split.train)
    assert len(both) == count + len(unlabeled)
    assert [s.label for s in both.samples[count:]] == [None] * len(unlabeled)
    for part, first in ((squares_split.train, 0), (unlabeled, count)):
        for number, sample in enumerate(part.samples):
            joined = both.samples[first + number]
            assert joined.sha256 == sample.sha256
            assert np.array_equal(np.asarray(both.source(joined)), np.asarray(part.source(sample)))
    assert torch.equal(torch.from_numpy(both.table.sizes[:count]), torch.from_numpy(squares_split.train.table.sizes))


def test_beside_reads_files(squares_folder: Path, unlabeled: Dataset) -> None:
    from regraft.data.scan import scan

    files = scan(squares_folder, near_duplicates=False)
    both = beside(files, unlabeled)
    assert both.source(both.samples[0]) == files.source(files.samples[0])
    assert both.samples[0].label == files.samples[0].label
    assert isinstance(both.source(both.samples[len(files)]), np.ndarray)
