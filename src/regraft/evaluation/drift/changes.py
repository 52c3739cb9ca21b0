"""Decide by several tests whether inputs or answers have changed, with one rate of false alarms for all of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from regraft.errors import UsageError
from regraft.evaluation.comparison import holm
from regraft.evaluation.drift.observations import Observations
from regraft.evaluation.drift.two_samples import (
    MAX_FEATURE_ROWS,
    auc_interval,
    auc_of,
    distribution_test,
    exceedance_test,
    labels_test,
    rank_test,
    share_difference,
    shares_test,
    tell_apart,
)
from regraft.evaluation.intervals import wilson_interval
from regraft.text import pluralize

#: Rate of false alarms of all tests together: so often is a change found where there is none.
ALPHA = 0.01
#: Share of the reference pictures that are at least as strange as a picture that counts as strange.
STRANGE = 0.05
#: Pictures of a side below which only large changes can be found.
FEW = 20

Subject = Literal["inputs", "answers"]
#: What was compared, and what it says of: how far pictures are from the training, how many are far, whether features
#: tell them from others; which classes, labels or values are answered, and how surely.
Test = Literal["distance", "strange", "features", "classes", "labels", "value", "confidence"]


@dataclass(frozen=True)
class ShareChange:
    """The share of the answers with a class, before and now, and an interval of the difference.

    The intervals of all classes hold together, at 95 %.
    """

    label: str
    reference: float
    new: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Change:
    """The result of a test.

    Attributes:
        subject: Whether it is of what comes in, or of what the model says.
        test: What was compared.
        p_value: The p-value of this test alone.
        adjusted: The p-value among all tests together (Holm): compare this with a rate of false alarms.
        effect: How large the change is; for `distance`, `features`, `value` and `confidence` the probability that a new
            picture has more than one of the reference, for `strange` the share of strange pictures, and for `classes`
            and `labels` the largest change of a share.
        interval: 95 % interval of the effect.
        unchanged: The effect without a change.
        sentence: The effect in words.
    """

    subject: Subject
    test: Test
    p_value: float
    adjusted: float
    effect: float
    interval: tuple[float, float]
    unchanged: float
    sentence: str


@dataclass(frozen=True)
class Changes:
    """What has changed, by all tests together.

    Attributes:
        tests: The results, those of inputs first.
        shares: The share of each class in the answers, the largest changes first; () for numbers.
        pictures: Number of new pictures.
        reference_pictures: Number of pictures that they were compared with.
        alpha: Rate of false alarms.
        reference: What these are, such as "validation".
    """

    tests: tuple[Change, ...]
    shares: tuple[ShareChange, ...]
    pictures: int
    reference_pictures: int
    alpha: float = ALPHA
    reference: str = "validation"

    def p_value(self, subject: Subject) -> float | None:
        """The smallest adjusted p-value of a subject; None if it was not tested."""
        return min((one.adjusted for one in self.tests if one.subject == subject), default=None)

    def has_changed(self, subject: Subject) -> bool | None:
        """Whether a change was found; None if the subject was not tested."""
        p_value = self.p_value(subject)
        return None if p_value is None else p_value <= self.alpha

    @property
    def is_drift(self) -> bool:
        """Whether inputs or answers have changed."""
        return any(one.adjusted <= self.alpha for one in self.tests)

    @property
    def are_few(self) -> bool:
        """Whether there are so few pictures that only large changes can be found."""
        return min(self.pictures, self.reference_pictures) < FEW

    @property
    def verdict(self) -> str:
        """What has changed, in one or two sentences."""
        subjects: tuple[Subject, ...] = ("inputs", "answers")
        changed = [subject for subject in subjects if self.has_changed(subject)]
        against = f"against {self.reference}"
        if len(changed) == 2:
            p_values = " and ".join(f"p = {_p(self.p_value(subject))}" for subject in changed)
            return f"Inputs and answers have changed {against} ({p_values})."
        if changed:
            other = next(subject for subject in subjects if subject not in changed)
            text = f"{changed[0].capitalize()} have changed {against} (p = {_p(self.p_value(changed[0]))})."
            if self.p_value(other) is None:
                return f"{text} {other.capitalize()} could not be compared."
            return f"{text} No change of the {other} is found (p = {_p(self.p_value(other))})."
        if self.are_few:
            fewer = f"{pluralize(self.pictures, 'picture')} against {self.reference_pictures:,} of {self.reference}"
            return f"Too few pictures to tell ({fewer}): only a large change would be found. Give at least {FEW}."
        tested = " or ".join(subject for subject in subjects if self.p_value(subject) is not None)
        return f"No change of {tested} {against} is found (p = {_p(min(one.adjusted for one in self.tests))})."

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "verdict": self.verdict,
            "drift": self.is_drift,
            "inputs_changed": self.has_changed("inputs"),
            "answers_changed": self.has_changed("answers"),
            "too_few": self.are_few,
            "alpha": self.alpha,
            "pictures": self.pictures,
            "reference": self.reference,
            "reference_pictures": self.reference_pictures,
            "tests": [{**asdict(one), "interval": list(one.interval)} for one in self.tests],
            "shares": [{**asdict(one), "interval": list(one.interval)} for one in self.shares],
        }


def find_changes(
    reference: Observations, new: Observations, *, alpha: float = ALPHA, name: str = "validation", seed: int = 0
) -> Changes:
    """Test whether new pictures or the answers for them differ from those of the reference, whose name is `name`.

    What only one side has is not compared. The pictures must be independent of each other: count copies once.

    Raises:
        UsageError: There is no picture on one side, or `alpha` is not between 0 and 1.
    """
    if not 0 < alpha < 1:
        raise UsageError(f"alpha = {alpha:g}; expected a rate of false alarms between 0 and 1.")
    if not len(reference) or not len(new):
        raise UsageError(f"{len(new)} new pictures and {len(reference)} of {name}; expected at least one of each.")
    tests = [*_inputs(reference, new, name, seed), *_values_and_confidence(reference, new, name)]
    shares = _shares(reference, new)
    if shares:
        tests.append(_classes(reference, new, shares, name, seed))
    adjusted = holm([one.p_value for one in tests])
    tests = [replace(one, adjusted=p_value) for one, p_value in zip(tests, adjusted, strict=True)]
    return Changes(tuple(tests), shares, len(new), len(reference), alpha, name)


def strange_p_values(reference: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Share of the reference distances at least as large as each new one, itself included, float64 (N,)."""
    ordered = np.sort(reference)
    return np.asarray((len(ordered) - np.searchsorted(ordered, new) + 1) / (len(ordered) + 1))


def _inputs(reference: Observations, new: Observations, name: str, seed: int) -> list[Change]:
    tests: list[Change] = []
    if reference.distances is not None and new.distances is not None:
        before, now = reference.distances, new.distances
        what = f"A new picture is farther from the training pictures than one of {name}"
        tests.append(_by_rank("inputs", "distance", before, now, rank_test(before, now), what))
        strange = int((strange_p_values(before, now) <= STRANGE).sum())
        p_value = exceedance_test(len(before), len(now), STRANGE, strange)
        if p_value is not None:
            low, high = wilson_interval(strange, len(now))
            sentence = (
                f"{strange:,} of {len(now):,} pictures are strange ({100 * low:.0f} to {100 * high:.0f} %): farther "
                f"from the training pictures than all but {100 * STRANGE:g} % of {name}."
            )
            share = strange / len(now)
            tests.append(Change("inputs", "strange", p_value, 1.0, share, (low, high), STRANGE, sentence))
    if reference.features is not None and new.features is not None:
        auc, p_value = tell_apart(reference.features, new.features, seed=seed)
        counts = (min(len(rows), MAX_FEATURE_ROWS) for rows in (reference.features, new.features))
        low, high = auc_interval(auc, *counts)
        sentence = (
            f"A linear classifier of the features tells new pictures from {name} with an area under the ROC curve of "
            f"{auc:.2f} ({low:.2f} to {high:.2f}; about 0.5 without change)."
        )
        tests.append(Change("inputs", "features", p_value, 1.0, auc, (low, high), 0.5, sentence))
    return tests


def _values_and_confidence(reference: Observations, new: Observations, name: str) -> list[Change]:
    if new.task == "regression":
        p_value = distribution_test(reference.values, new.values)
        what = f"A new picture gets a larger number than one of {name}"
        return [_by_rank("answers", "value", reference.values, new.values, p_value, what)]
    p_value = rank_test(reference.confidence, new.confidence)
    what = f"The answer for a new picture is more confident than for one of {name}"
    return [_by_rank("answers", "confidence", reference.confidence, new.confidence, p_value, what)]


def _by_rank(subject: Subject, test: Test, before: np.ndarray, now: np.ndarray, p_value: float, what: str) -> Change:
    auc = auc_of(before, now)
    low, high = auc_interval(auc, len(before), len(now))
    sentence = (
        f"{what} with a probability of {100 * auc:.0f} % ({100 * low:.0f} to {100 * high:.0f}; 50 % without change)."
    )
    return Change(subject, test, p_value, 1.0, auc, (low, high), 0.5, sentence)


def _shares(reference: Observations, new: Observations) -> tuple[ShareChange, ...]:
    """The change of each class, the largest first; of classes that nobody was said to have none."""
    if new.task == "regression":
        return ()
    before, now = reference.said.sum(axis=0), new.said.sum(axis=0)
    counts, level = (len(reference), len(new)), 1 - 0.05 / len(new.classes)  # Bonferroni
    changes = []
    for label, were, are in zip(new.classes, before.tolist(), now.tolist(), strict=True):
        interval = share_difference(were, counts[0], are, counts[1], level)
        changes.append(ShareChange(label, were / counts[0], are / counts[1], interval))
    return tuple(sorted(changes, key=lambda one: -abs(one.new - one.reference)))


def _classes(
    reference: Observations, new: Observations, shares: tuple[ShareChange, ...], name: str, seed: int
) -> Change:
    before, now = reference.said.sum(axis=0), new.said.sum(axis=0)
    test: Test = "labels" if new.task == "multilabel" else "classes"
    if test == "classes":
        p_value = shares_test(before, now, seed=seed)
    else:
        p_value = labels_test(before, now, len(reference), len(new))
    most = shares[0]
    low, high = most.interval
    sentence = (
        f"{most.label} is the answer for {100 * most.new:.0f} % of the pictures, and for {100 * most.reference:.0f} % "
        f"of {name}: {_points(most.new - most.reference)} points ({_points(low)} to {_points(high)})."
    )
    return Change("answers", test, p_value, 1.0, most.new - most.reference, most.interval, 0.0, sentence)


def _points(share: float) -> str:
    return f"{100 * share:+.0f}"


def _p(value: float | None) -> str:
    """A p-value with two digits."""
    assert value is not None
    return f"{value:.2g}"
