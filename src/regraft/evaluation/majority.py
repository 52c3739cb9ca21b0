"""Whether a model is better than always predicting the most frequent class: the one rule of all that depends on it.

What a model says about single images, such as likely wrong labels and heat maps, means something only then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from regraft.evaluation.comparison import SIGNIFICANT
from regraft.text import one_line, pluralize, shorten


@dataclass(frozen=True)
class MajorityTest:
    """A model beside the prediction of the most frequent class for every image, on the same images."""

    count: int  # number of images
    accuracy: float  # of the model, 0..1
    class_index: int  # the most frequent class; of equals the first
    majority_accuracy: float  # its share of the images, 0..1
    p: float  # p-value of McNemar's exact test, one-sided

    @property
    def is_better(self) -> bool:
        """Whether the model is clearly better; of models that are not, this holds for at most 5 %."""
        return self.p < SIGNIFICANT

    def objection(self, classes: Sequence[str]) -> tuple[str, str, str]:
        """Why what the model says about single images is not to be believed: text, name of the class, text.

        Three empty texts if the model is clearly better.
        """
        if self.is_better:
            return "", "", ""
        return (
            "The model is not clearly better than always predicting the most frequent class, “",
            shorten(one_line(classes[self.class_index]), 40),
            f"”: {100 * self.accuracy:.1f} % accuracy, beside {100 * self.majority_accuracy:.1f} %, on "
            f"{pluralize(self.count, 'image')}.",
        )


def compare_with_majority(confusion: np.ndarray) -> MajorityTest:
    """Compare a model with the majority class by its confusion matrix, int (C, C); row: true class, at least 1 image.

    Of the images that only one of the two predicts correctly, the model must have clearly more than half: McNemar's
    exact test (1947, Psychometrika 12), one-sided. It is paired: an interval of the accuracy may lie above the share of
    the class by the chance of the same few images.
    """
    from scipy.stats import binomtest  # takes a third of a second to import

    support, hits, count = confusion.sum(axis=1), np.diag(confusion), int(confusion.sum())
    majority = int(support.argmax())
    only_model, only_majority = int(hits.sum() - hits[majority]), int(support[majority] - hits[majority])
    discordant = only_model + only_majority
    p = float(binomtest(only_model, discordant, 0.5, alternative="greater").pvalue) if discordant else 1.0
    return MajorityTest(count, float(hits.sum() / count), majority, float(support[majority] / count), p)
