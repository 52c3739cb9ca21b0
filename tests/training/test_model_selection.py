from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from regraft.models.classifier import Classifier, build
from regraft.training.losses import EpochMetrics
from regraft.training.model_selection import BestModel
from regraft.training.options import TrainingOptions

IMAGES = 100


@pytest.fixture(scope="module")
def model() -> Classifier:
    return build(classes=("a", "b"), image_size=32)


def _metrics(accuracy: float, loss: float, count: int = IMAGES, easiest: str = "first") -> EpochMetrics:
    losses = tuple(np.linspace(0.5, 1.5, count)[:: 1 if easiest == "first" else -1] * loss)
    return EpochMetrics(loss=loss, accuracy=accuracy, macro_f1=accuracy, count=count, calibrated_losses=losses)


@pytest.mark.parametrize(
    ("accuracies", "kept", "explained"),
    [
        ((0.80, 0.82), 2, False),  # the last one is the best
        ((0.82, 0.80), 2, True),  # it is worse by less than a standard error (0.038)
        ((0.90, 0.80), 1, False),  # by more
    ],
)
def test_the_summary_says_why_the_best_epoch_is_not_kept(
    model: Classifier, accuracies: tuple[float, float], kept: int, explained: bool
) -> None:
    best_model = BestModel(model, TrainingOptions(monitor="val_accuracy"), None)
    best_model.begin_phase()
    best_model.update("head", 0, _metrics(0.70, 0.9))
    best_model.begin_phase()
    for row, accuracy in enumerate(accuracies, start=1):
        best_model.update("finetune", row, _metrics(accuracy, 0.5))
    assert best_model.row == kept
    summary = best_model.summary(finetuned=True)
    assert summary.startswith("Fine-tuning lowered the validation loss per image by 0.400 (standard error ")
    assert ("An earlier epoch had a better val_accuracy, by less than its standard error" in summary) == explained


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize(("losses", "kept"), [((0.5, 0.4, 0.6), 2), ((0.4, 0.5, 0.6), 1)])
def test_of_epochs_with_an_equal_metric_the_one_with_the_lower_loss_is_kept(
    model: Classifier, schedule: Literal["cosine", "constant"], losses: tuple[float, ...], kept: int
) -> None:
    best_model = BestModel(model, TrainingOptions(monitor="val_accuracy", schedule=schedule), None)
    best_model.begin_phase()
    best_model.update("head", 0, _metrics(0.9, 0.9))
    best_model.begin_phase()
    for row, loss in enumerate(losses, start=1):
        best_model.update("finetune", row, _metrics(0.9, loss))
    assert best_model.row == kept


@pytest.mark.parametrize(("count", "kept"), [(17, 2), (100, 1)])
def test_on_few_images_only_a_clear_difference_decides(model: Classifier, count: int, kept: int) -> None:
    best_model = BestModel(model, TrainingOptions(monitor="val_accuracy"), None)
    best_model.begin_phase()
    best_model.update("head", 0, _metrics(0.80, 0.50, count))
    best_model.begin_phase()
    best_model.update("finetune", 1, _metrics(0.90, 0.45, count, "last"))
    best_model.update("finetune", 2, _metrics(0.80, 0.52, count, "last"))  # worse within the noise of 17
    assert best_model.row == kept
    summary = best_model.summary(finetuned=True)
    assert ("On only 17 images this is within the noise." in summary) == (count == 17)


def test_a_clear_rise_of_the_loss_rejects_fine_tuning_on_few_images_too(model: Classifier) -> None:
    best_model = BestModel(model, TrainingOptions(monitor="val_accuracy"), None)
    best_model.begin_phase()
    best_model.update("head", 0, _metrics(0.80, 0.50, 17))
    best_model.begin_phase()
    best_model.update("finetune", 1, _metrics(0.80, 2.00, 17))
    assert best_model.row == 0
