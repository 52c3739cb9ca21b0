"""Whether a model is better than always predicting the most frequent class: the one rule of all that depends on it.

What a model says about single images, such as likely wrong labels and heat maps, means something only then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from regraft.data.pooling import Counted
from regraft.evaluation.comparison import SIGNIFICANT
from regraft.text import one_line, pluralize, shorten

#: Images of other classes that a perfect model needs for `SIGNIFICANT`: each is a coin that it wins.
_LEAST_OTHERS = math.ceil(-math.log2(SIGNIFICANT))


@dataclass(frozen=True)
class MajorityTest:
    """A model beside the prediction of the most frequent class for every image, on the same images."""

    count: int  # number of images
    accuracy: float  # of the model, 0..1
    class_index: int  # the most frequent class; of equals the first
    majority_accuracy: float  # its share of the images, 0..1
    p: float  # p-value of McNemar's exact test, one-sided
    others: int = 0  # number of images of other classes, which only the model can predict correctly
    enough: int = 0  # about the number of images that would show this difference; 0: there is none to be shown

    @property
    def is_better(self) -> bool:
        """Whether the model is clearly better; of models that are not, this holds for at most 5 %."""
        return self.p < SIGNIFICANT

    def objection(self, classes: Sequence[str], counted: Counted = "image") -> tuple[str, str, str]:
        """Why what the model says about single images is not to be believed: text, name of the class, text.

        Three empty texts if the model is clearly better.
        """
        if self.is_better:
            return "", "", ""
        return (
            "The model is not clearly better than always predicting the most frequent class, “",
            shorten(one_line(classes[self.class_index]), 40),
            f"”: {100 * self.accuracy:.1f} % accuracy, beside {100 * self.majority_accuracy:.1f} %, on "
            f"{pluralize(self.count, counted)}.{self._advice(counted)}",
        )

    def _advice(self, counted: Counted) -> str:
        """How many images would tell, where these are too few."""
        if self.others < _LEAST_OTHERS:
            return (
                f" These are too few {counted}s to tell: even a perfect model needs at least {_LEAST_OTHERS} of other "
                f"classes, and here {'is' if self.others == 1 else 'are'} {self.others}."
            )
        return f" At these accuracies it takes about {self.enough:,} {counted}s to tell." if self.enough else ""


def compare_with_majority(confusion: np.ndarray) -> MajorityTest:
    """Compare a model with the majority class by its confusion matrix, int (C, C); row: true class, at least 1 image.

    Of the images that only one of the two predicts correctly, the model must have clearly more than half: McNemar's
    exact test (1947, Psychometrika 12), one-sided. It is paired: an interval of the accuracy may lie above the share of
    the class by the chance of the same few images.
    """
    from scipy.special import bdtr  # scipy.stats has the test, and takes half a second more to import

    support, hits, count = confusion.sum(axis=1), np.diag(confusion), int(confusion.sum())
    majority = int(support.argmax())
    only_model, only_majority = int(hits.sum() - hits[majority]), int(support[majority] - hits[majority])
    discordant = only_model + only_majority
    p = float(bdtr(only_majority, discordant, 0.5))
    others, enough = int(count - support[majority]), 0
    if p >= SIGNIFICANT and only_model > only_majority:
        # Of d discordant images the model wins d (1 + excess) / 2: by the normal approximation with its correction
        # for continuity, these are enough where d excess - 1 >= z sqrt(d).
        excess, z = (only_model - only_majority) / discordant, NormalDist().inv_cdf(1 - SIGNIFICANT)
        needed = ((z + math.sqrt(z**2 + 4 * excess)) / (2 * excess)) ** 2
        enough = max(math.ceil(count * needed / discordant), count + 1)
    return MajorityTest(count, float(hits.sum() / count), majority, float(support[majority] / count), p, others, enough)
