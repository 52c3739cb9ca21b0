from __future__ import annotations

import numpy as np
import pytest

from regraft.models.classifier import Classifier, build
from regraft.training.keeping import Keeper
from regraft.training.objective import Scores
from regraft.training.options import TrainingOptions

IMAGES = 100


@pytest.fixture(scope="module")
def model() -> Classifier:
    return build(classes=("a", "b"), image_size=32)


def _scores(accuracy: float, loss: float) -> Scores:
    refined = tuple(np.linspace(0.5, 1.5, IMAGES) * loss)
    return Scores(loss=loss, accuracy=accuracy, macro_f1=accuracy, count=IMAGES, refined=refined)


@pytest.mark.parametrize(
    ("accuracies", "kept", "settled"),
    [
        ((0.80, 0.82), 2, False),  # the last one is the best
        ((0.82, 0.80), 2, True),  # it is worse by less than a standard error (0.038)
        ((0.90, 0.80), 1, False),  # by more
    ],
)
def test_why_it_is_not_the_best_epoch_that_is_kept_is_said(
    model: Classifier, accuracies: tuple[float, float], kept: int, settled: bool
) -> None:
    keeper = Keeper(model, TrainingOptions(), None)
    keeper.begin_phase()
    keeper.judge("head", 0, _scores(0.70, 0.9))
    keeper.begin_phase()
    for row, accuracy in enumerate(accuracies, start=1):
        keeper.judge("finetune", row, _scores(accuracy, 0.5))
    assert keeper.row == kept
    words = keeper.verdict(finetuned=True)
    assert words.startswith("Fine-tuning lowered the loss of a validation image by 0.400 (standard error ")
    assert ("An earlier epoch had a better val_accuracy, by less than its standard error" in words) == settled
