"""Metrics of models that give an image any number of classes, with confidence intervals.

An average over classes is over those that an image has and an image lacks; about the others the images say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from regraft.data.pooling import Counted
from regraft.errors import DataError
from regraft.evaluation.intervals import PRIOR, interval_about, wilson_interval
from regraft.evaluation.metrics import (
    FEW_IMAGES,
    WIDE_INTERVAL,
    json_of_counted,
    lists_to_tuples,
    tuples_to_lists,
)
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.evaluation.subgroups import Subgroups, json_of_subgroups, subgroups_from_json
from regraft.evaluation.training_overlap import Scores, TrainingOverlap
from regraft.notebook_repr import NotebookRepr
from regraft.text import NAME_WIDTH, display_width, join_truncated, one_line, pluralize, shorten

#: Bootstrap draws, and largest number of values in memory at once.
_DRAWS, _CHUNK_VALUES = 1000, 4_000_000
#: Fields that JSON has only where they say something.
_LAST = ("counted", "subgroups")


@dataclass(frozen=True)
class LabelReport:
    """Metrics of one class, 0..1 and 0 where their denominator is 0, with 95 % intervals (low, high)."""

    name: str
    precision: float
    recall: float
    f1: float
    average_precision: float
    support: int  # number of images that have the class
    threshold: float
    precision_interval: tuple[float, float]  # Wilson, as that of recall; (0, 1) where the denominator is 0
    recall_interval: tuple[float, float]
    f1_interval: tuple[float, float]  # by the Bayesian bootstrap, as that of the average precision
    average_precision_interval: tuple[float, float]


@dataclass(frozen=True, eq=False)
class MultilabelEvaluation(NotebookRepr):
    """Metrics of one set of predictions. All but `loss` and the counts lie in 0..1.

    Attributes:
        count: Number of images.
        mean_average_precision: Mean over the classes of the average precision, which needs no threshold (mAP).
        micro_f1: F1 of all answers for all classes together.
        macro_f1: Mean F1 over the classes.
        exact_match: Share of the images all of whose classes are right, as scikit-learn's `accuracy_score`.
        exact_match_interval: 95 % Wilson interval of this share, (low, high).
        micro_precision: Share of the answers for all classes together that are right.
        micro_recall: Share of the classes of all images that are answered.
        hamming_loss: Share of the wrong answers among all answers for all classes.
        loss: Mean over images and classes of the binary cross-entropy in nats, 0 or more.
        per_class: Reports in class order, including classes that no image has.
        intervals: 95 % intervals by the Bayesian bootstrap over the images, by the names of the first three.
        cooccurrence: Number of images that have both of two classes, read-only int64 (C, C).
        overlap: Images that the model knows from its training; None: not looked for, or none.
        counted: What was predicted: an `image`, or a `group` of images.
        subgroups: The same for images of one camera, site or other value each, where that was asked for.
    """

    count: int
    mean_average_precision: float
    micro_f1: float
    macro_f1: float
    exact_match: float
    exact_match_interval: tuple[float, float]
    micro_precision: float
    micro_recall: float
    hamming_loss: float
    loss: float
    per_class: tuple[LabelReport, ...]
    intervals: Mapping[str, tuple[float, float]]
    cooccurrence: np.ndarray
    overlap: TrainingOverlap | None = None
    counted: Counted = "image"
    subgroups: tuple[Subgroups, ...] = ()

    @property
    def accuracy(self) -> float:
        """The same as `exact_match`, by scikit-learn's name."""
        return self.exact_match

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """The same as `exact_match_interval`."""
        return self.exact_match_interval

    @property
    def headline(self) -> Scores:
        """What several labels are judged by beside the exact match: mean average precision."""
        return {"mAP": (self.mean_average_precision, self.intervals["mean_average_precision"])}

    @property
    def tested(self) -> list[LabelReport]:
        """Reports of the classes that an image has and an image lacks, over which the averages are."""
        return [report for report in self.per_class if 0 < report.support < self.count]

    @property
    def at_chance(self) -> list[str]:
        """Names of the tested classes whose average precision is not clearly above that of a random order.

        That is about the share of the images that have the class; the interval of the average precision contains it.
        """
        return [r.name for r in self.tested if r.average_precision_interval[0] <= r.support / self.count]

    @property
    def doubtable(self) -> list[str]:
        """Names of the tested classes that the model clearly tells from the rest, so that it may doubt their labels."""
        at_chance = set(self.at_chance)
        return [report.name for report in self.tested if report.name not in at_chance]

    @property
    def weakest_first(self) -> list[LabelReport]:
        """Reports, the lowest average precision first and the untested classes last."""
        return sorted(self.per_class, key=lambda r: (not 0 < r.support < self.count, r.average_precision))

    def cautions(self) -> list[str]:
        """Sentences about claims for which there are too few images; empty if there are none."""
        cautions = (
            []
            if self.overlap is None
            else self.overlap.cautions(self.exact_match, self.headline, self.counted, name="exact match")
        )
        low, high = self.intervals["mean_average_precision"]
        if high - low > WIDE_INTERVAL:
            cautions.append(
                f"With {pluralize(self.count, self.counted)}, mean average precision is known only to about "
                f"±{50 * (high - low):.0f} points."
            )
        if untested := self.untested:
            cautions.append(
                f"{pluralize(len(untested), 'class was', 'classes were')} not tested, because no {self.counted} or "
                f"every {self.counted} here has it: {join_truncated(map(one_line, untested))}. Averages are over the "
                f"other {len(self.per_class) - len(untested)}."
            )
        if few := [r.name for r in self.tested if min(r.support, self.count - r.support) < FEW_IMAGES]:
            classes = pluralize(len(few), "class", "classes")
            cautions.append(
                f"Fewer than {FEW_IMAGES} {self.counted}s here have, or lack, {classes}, so the metrics of "
                f"{join_truncated(map(one_line, few))} are uncertain."
            )
        if weak := self.at_chance:
            cautions.append(
                f"The model does not clearly tell {pluralize(len(weak), 'class', 'classes')} from the rest: "
                f"{join_truncated(map(one_line, weak))}. The interval of the average precision contains the share of "
                f"the {self.counted}s that have the class, which a random order gives."
            )
        return [*cautions, *(text for one in self.subgroups for text in one.cautions())]

    @property
    def untested(self) -> list[str]:
        """Names of the classes that no image or every image has, over which no average is."""
        return [report.name for report in self.per_class if not 0 < report.support < self.count]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values without NaN."""
        return {
            "task": "multilabel",
            **{name: value for name, value in asdict(replace(self, subgroups=())).items() if name not in _LAST},
            **json_of_counted(self.counted),
            **json_of_subgroups(self.subgroups),
            "exact_match_interval": list(self.exact_match_interval),
            "per_class": [tuples_to_lists(asdict(report)) for report in self.per_class],
            "intervals": tuples_to_lists(self.intervals),
            "cooccurrence": self.cooccurrence.tolist(),
            "overlap": None if self.overlap is None else self.overlap.to_json(),
            "at_chance": self.at_chance,
            "untested": self.untested,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> MultilabelEvaluation:
        """The inverse of `to_json`; DataError for any other value."""
        try:
            fields = {name: item for name, item in value.items() if name not in ("task", "untested", "at_chance")}
            together = np.array(fields["cooccurrence"], np.int64)
            together.setflags(write=False)
            return cls(
                **{
                    **fields,
                    "exact_match_interval": tuple(fields["exact_match_interval"]),
                    "per_class": tuple(LabelReport(**lists_to_tuples(row)) for row in fields["per_class"]),
                    "intervals": lists_to_tuples(fields["intervals"]),
                    "cooccurrence": together,
                    "overlap": TrainingOverlap.from_json(overlap) if (overlap := value.get("overlap")) else None,
                    "subgroups": subgroups_from_json(value),
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not an evaluation: {error!r}; expected the output of `to_json`") from error

    def __str__(self) -> str:
        return self.report()

    def report(self, *, weakest: int = 0) -> str:
        """The metrics of each class as plain text, aligned in any fixed-width font.

        Where there are more than twice `weakest` classes, only so many are listed, those with the lowest average
        precision; 0: all.
        """
        columns = ("precision", "recall", "F1", "AP", "threshold", "support")
        listed: Sequence[LabelReport] = self.per_class
        if weakest and len(listed) > 2 * weakest:
            listed = self.weakest_first[:weakest]
        names = [shorten(one_line(report.name), NAME_WIDTH) for report in listed]
        width = max(map(display_width, [*names, "all right"]))
        lines = [" " * width + "".join(f"{column:>11}" for column in columns)]
        for name, report in zip(names, listed, strict=True):
            values = (report.precision, report.recall, report.f1, report.average_precision)
            threshold = "never" if report.threshold > 1 else f"{report.threshold:.4f}"
            cells = "".join(f"{value:>11.4f}" for value in values) + f"{threshold:>11}{report.support:>11}"
            lines.append(name + " " * (width - display_width(name)) + cells)
        averages = {"mAP": "mean_average_precision", "micro F1": "micro_f1", "macro F1": "macro_f1"}
        lines.append("")
        for title, name in averages.items():
            low, high = self.intervals[name]
            lines.append(f"{title:<{width}}{getattr(self, name):>11.4f}   95 % interval {low:.3f} to {high:.3f}")
        low, high = self.exact_match_interval
        lines.append(f"{'all right':<{width}}{self.exact_match:>11.4f}   95 % interval {low:.3f} to {high:.3f}")
        return "\n".join(lines) + "\n"


def evaluate_labels(predictions: MultilabelPredictions, said: np.ndarray | None = None) -> MultilabelEvaluation:
    """Compute all metrics; DataError without predictions.

    The answers are those at the thresholds, or `said`, bool (N, C), where an image must not have chosen its own.

    The average precision is the mean of the precision over the images that have the class, each at its own place in the
    order of the probabilities (Manning et al. 2008, Introduction to Information Retrieval, section 8.4), as
    scikit-learn computes it. A ratio with a denominator of 0 is 0.
    """
    if not len(predictions):
        raise DataError("0 predictions; expected at least one image to evaluate")
    truth, probabilities = predictions.indicators, predictions.probabilities
    said = predictions.predicted if said is None else said
    count = len(predictions)
    ranking = _Ranking(truth, probabilities)
    estimate = _scores(truth, said, ranking, np.ones((1, count)))
    draws: list[dict[str, np.ndarray]] = []
    rng = np.random.default_rng(0)
    size = max(1, min(_DRAWS, _CHUNK_VALUES // max(1, 3 * truth.size)))
    for start in range(0, _DRAWS, size):
        number = min(size, _DRAWS - start)
        weights = rng.standard_exponential((number, count))
        prior = rng.standard_gamma(PRIOR, (3, number, truth.shape[1])) * truth.any(axis=0)
        draws.append(_scores(truth, said, ranking, weights, prior))
    drawn = {name: np.concatenate([draw[name] for draw in draws]) for name in estimate}
    interval = {name: interval_about(estimate[name][0], drawn[name]) for name in estimate}
    hits, support, answers = (truth & said).sum(axis=0), truth.sum(axis=0), said.sum(axis=0)
    per_class = tuple(
        LabelReport(
            name=name,
            precision=float(hits[i] / answers[i]) if answers[i] else 0.0,
            recall=float(hits[i] / support[i]) if support[i] else 0.0,
            f1=float(estimate["f1"][0, i]),
            average_precision=float(estimate["average_precision"][0, i]),
            support=int(support[i]),
            threshold=float(predictions.thresholds[i]),
            precision_interval=wilson_interval(int(hits[i]), int(answers[i])) if answers[i] else (0.0, 1.0),
            recall_interval=wilson_interval(int(hits[i]), int(support[i])) if support[i] else (0.0, 1.0),
            f1_interval=_pair(interval["f1"][:, i]),
            average_precision_interval=_pair(interval["average_precision"][:, i]),
        )
        for i, name in enumerate(predictions.classes)
    )
    exact = int((truth == said).all(axis=1).sum())
    together = truth.T.astype(np.int64) @ truth.astype(np.int64)
    together.setflags(write=False)
    averages = ("mean_average_precision", "micro_f1", "macro_f1")
    return MultilabelEvaluation(
        count=count,
        exact_match=exact / count,
        exact_match_interval=wilson_interval(exact, count),
        micro_precision=float(hits.sum() / max(1, answers.sum())),
        micro_recall=float(hits.sum() / max(1, support.sum())),
        hamming_loss=float((truth != said).mean()),
        loss=binary_log_loss(truth, probabilities),
        per_class=per_class,
        intervals={name: _pair(interval[name]) for name in averages},
        cooccurrence=together,
        overlap=None,
        counted=predictions.counted,
        subgroups=(),
        **{name: float(estimate[name][0]) for name in averages},
    )


def binary_log_loss(indicators: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over images and classes of the binary cross-entropy in nats; probabilities are clipped at 2.2e-16."""
    return float(_log_losses(indicators, probabilities).mean()) + 0.0  # avoids -0.0


def image_losses(predictions: MultilabelPredictions) -> np.ndarray:
    """Binary cross-entropy of each image in nats, summed over the classes, float64 (N,); clipped as there."""
    return np.asarray(_log_losses(predictions.indicators, predictions.probabilities).sum(axis=1))


def _log_losses(indicators: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    right = np.where(indicators, probabilities, 1 - probabilities)
    return np.asarray(-np.log(np.clip(right, np.finfo(np.float64).eps, 1.0)))


def indicator_f1(truth: np.ndarray, said: np.ndarray) -> float:
    """Mean F1, 0..1, of answers, bool (N, C), over the classes that an image has and an image lacks; 0 without any."""
    tested = truth.any(axis=0) & ~truth.all(axis=0)
    whole = truth.sum(axis=0) + said.sum(axis=0)
    f1 = 2 * (truth & said).sum(axis=0) / np.maximum(whole, 1)
    return float(f1[tested].mean()) if tested.any() else 0.0


def mean_average_precision(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean average precision, 0..1, over the classes that an image has and an image lacks, (N, C); 0 without any."""
    ranking = _Ranking(truth, probabilities)
    scores = _scores(truth, np.zeros_like(truth), ranking, np.ones((1, len(truth))))
    return float(scores["mean_average_precision"][0])


def draws_of_average_precision(truth: np.ndarray, probabilities: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Average precision of each class in 1,000 draws of the Bayesian bootstrap, float64 (1000, C).

    The draws weight the images alike for all probabilities, (N, C), of the same number of images.
    """
    ranking, rng = _Ranking(truth, probabilities), np.random.default_rng(seed)
    size = max(1, min(_DRAWS, _CHUNK_VALUES // max(1, 3 * len(truth))))
    return np.concatenate(
        [
            ranking.average_precision(rng.standard_exponential((min(size, _DRAWS - start), len(truth))))
            for start in range(0, _DRAWS, size)
        ]
    )


def average_precisions(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average precision of each class, float64 (b, C), 0..1, for weights of the images, (b, N); 0 if none has it."""
    ranking, size = _Ranking(truth, probabilities), max(1, _CHUNK_VALUES // max(1, 3 * len(truth)))
    return np.concatenate(
        [
            ranking.average_precision(weights[start : start + size].astype(np.float64))
            for start in range(0, len(weights), size)
        ]
    )


class _Ranking:
    """The images in the order of their probabilities, for each class; images with equal ones share a place."""

    def __init__(self, truth: np.ndarray, probabilities: np.ndarray) -> None:
        self.order = np.argsort(-probabilities, axis=0, kind="stable")
        ranked = np.take_along_axis(probabilities, self.order, axis=0)
        self.truth = np.take_along_axis(truth, self.order, axis=0)
        is_end = np.ones(ranked.shape, bool)
        is_end[:-1] = ranked[1:] < ranked[:-1]
        # For each place, the last place with the same probability.
        places = np.where(is_end, np.arange(len(ranked))[:, None], len(ranked))
        self.ends = np.minimum.accumulate(places[::-1], axis=0)[::-1]

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """Average precision of each class, (b, C), for weights of the images (b, N); 0 for a class that none has."""
        result = np.zeros((len(weights), self.order.shape[1]))
        for column in range(self.order.shape[1]):
            ranked = weights[:, self.order[:, column]]
            right = ranked * self.truth[:, column]
            ends = self.ends[:, column]
            precision = np.cumsum(right, axis=1)[:, ends] / np.maximum(np.cumsum(ranked, axis=1)[:, ends], 1e-300)
            total = right.sum(axis=1)
            result[:, column] = (right * precision).sum(axis=1) / np.where(total > 0, total, 1.0)
        return result


def _scores(
    truth: np.ndarray, said: np.ndarray, ranking: _Ranking, weights: np.ndarray, prior: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Scores for weights of the images (b, N): by class (b, C), and averages (b,).

    `prior`, (3, b, C), are weights of further images with each class, that is said, or missed and ranked last, and of
    one without it of which the class is said. With them a class without errors is not certain to have none, as for
    images with one class (`intervals.draw_counts`).
    """
    hits, support, answers = (weights @ values.astype(np.float64) for values in (truth & said, truth, said))
    tested = truth.any(axis=0) & ~truth.all(axis=0)
    average_precision = ranking.average_precision(weights)
    if prior is not None:
        first, last, false = prior
        share = support / weights.sum(axis=1, keepdims=True)  # the precision at the last place
        average_precision = (support * average_precision + first + last * share) / np.maximum(
            support + first + last, 1e-300
        )
        hits, support, answers = hits + first, support + first + last, answers + first + false
    f1 = 2 * hits / np.maximum(support + answers, 1e-300)
    total = (support + answers).sum(axis=1)
    none = np.zeros(len(weights))
    return {
        "f1": f1,
        "average_precision": average_precision,
        "mean_average_precision": average_precision[:, tested].mean(axis=1) if tested.any() else none,
        "micro_f1": 2 * hits.sum(axis=1) / np.maximum(total, 1e-300),
        "macro_f1": f1[:, tested].mean(axis=1) if tested.any() else none,
    }


def _pair(values: np.ndarray) -> tuple[float, float]:
    return float(values[0]), float(values[1])
