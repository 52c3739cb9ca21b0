"""Metrics for Prometheus of what a server sees and says: counts of all answers, and a window of the latest.

Labels are names of models and their classes, never something that a client sent.
"""

from __future__ import annotations

import time
from collections import Counter as CountOf
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, Summary
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from regraft.evaluation.drift.changes import STRANGE
from regraft.evaluation.drift.observations import Observations
from regraft.serving.answer_numbers import AnswerNumbers

#: Answers in a window.
WINDOW = 1000
#: Classes of a model that have series of their own; the later ones share one.
_MAX_LABELS, _OTHER, _NONE = 100, "(other)", "(none)"
_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_P_VALUES = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75)


@dataclass(eq=False)
class _Model:
    """Names of a model's classes in metrics, what it said in validation, and its latest answers.

    Beside each answer is its `time.monotonic()`, because the clock of the day may be set back.
    """

    name_of: dict[str, str]
    validation: dict[str, float]  # means by their metric
    validation_shares: dict[str, float]  # by label
    latest: deque[tuple[float, AnswerNumbers]] = field(default_factory=lambda: deque(maxlen=WINDOW))

    @classmethod
    def of(cls, classes: Sequence[str], validation: Observations | None) -> _Model:
        """A model without answers."""
        model = cls({name: name if i < _MAX_LABELS else _OTHER for i, name in enumerate(classes)}, {}, {})
        if validation is not None:
            numbers = {"confidence": validation.confidence, "value": validation.values}
            model.validation = {what: float(values.mean()) for what, values in numbers.items() if len(values)}
            said = ([classes[i] for i in np.flatnonzero(row).tolist()] for row in validation.said)
            counts = CountOf(label for labels in said for label in model.names(labels))
            model.validation_shares = {label: count / len(validation) for label, count in counts.items()}
        return model

    def names(self, labels: Sequence[str]) -> list[str]:
        """The names of the labels of an answer, each once."""
        return sorted({self.name_of[label] for label in labels}) or [_NONE]


class AnswerMetrics(Collector):
    """Counters of a registry, and gauges that are computed when Prometheus asks for them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._models: dict[str, _Model] = {}
        labels, only = ("model", "label"), ("model",)
        self._answers = Counter("regraft_answers", "Answers by class or label.", labels, registry=registry)
        self._confidence = Histogram(
            "regraft_confidence", "Confidence of answers, 0..1.", only, buckets=_SHARES, registry=registry
        )
        self._p_values = Histogram(
            "regraft_ood_p_value", "Out-of-distribution p-values.", only, buckets=_P_VALUES, registry=registry
        )
        self._values = Summary("regraft_value", "Numbers that are answered.", only, registry=registry)
        self.lost = Counter("regraft_answers_not_recorded", "Answers missing in the log of answers.", registry=registry)
        registry.register(self)

    def add_model(self, name: str, classes: tuple[str, ...], validation: Observations | None) -> None:
        """Begin to count the answers of a model; `validation` is what they are shown beside."""
        self._models[name] = _Model.of(classes, validation)

    def count(self, name: str, numbers: AnswerNumbers) -> None:
        """Count an answer of a model."""
        model = self._models[name]
        model.latest.append((time.monotonic(), numbers))
        if numbers.value is not None:
            self._values.labels(name).observe(numbers.value)
        else:
            for label in model.names(numbers.labels):
                self._answers.labels(name, label).inc()
        if numbers.confidence is not None:
            self._confidence.labels(name).observe(numbers.confidence)
        if numbers.ood_p_value is not None:
            self._p_values.labels(name).observe(numbers.ood_p_value)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The gauges without values; the registry asks for these once."""
        yield from _families().values()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges of the windows and of validation."""
        families = _families()
        for name, model in list(self._models.items()):
            latest = list(model.latest)
            families["regraft_window_answers"].add_metric([name], len(latest))
            if latest:
                families["regraft_window_seconds"].add_metric([name], time.monotonic() - latest[0][0])
            _add_window(families, name, model, [numbers for _, numbers in latest])
            for what, mean in model.validation.items():
                families[f"regraft_validation_{what}"].add_metric([name], mean)
            for label, share in model.validation_shares.items():
                families["regraft_validation_share"].add_metric([name, label], share)
        yield from families.values()


def _families() -> dict[str, GaugeMetricFamily]:
    both = {
        "confidence": "Mean confidence of answers",
        "value": "Mean number that is answered",
        "share": "Share of the answers with a class or label",
    }
    families = {
        "regraft_window_answers": (f"Answers in the window: the latest, at most {WINDOW}.", False),
        "regraft_window_seconds": ("Age of the oldest answer in the window.", False),
        "regraft_window_strange_share": (
            f"Share of pictures in the window with a p-value up to {STRANGE}; without a change about as much.", False,
        ),
    }  # fmt: skip
    for name, text in both.items():
        families[f"regraft_window_{name}"] = (f"{text} in the window.", name == "share")
        families[f"regraft_validation_{name}"] = (f"{text} in validation.", name == "share")
    return {
        name: GaugeMetricFamily(name, text, labels=["model", *(["label"] if has_label else [])])
        for name, (text, has_label) in families.items()
    }


def _add_window(
    families: dict[str, GaugeMetricFamily], name: str, model: _Model, window: Sequence[AnswerNumbers]
) -> None:
    p_values = [one.ood_p_value for one in window if one.ood_p_value is not None]
    if p_values:
        families["regraft_window_strange_share"].add_metric([name], float(np.mean(np.array(p_values) <= STRANGE)))
    for what in ("confidence", "value"):
        numbers = [number for one in window if (number := getattr(one, what)) is not None]
        if numbers:
            families[f"regraft_window_{what}"].add_metric([name], float(np.mean(numbers)))
    counts = CountOf(label for one in window if one.value is None for label in model.names(one.labels))
    for label, count in counts.items():
        families["regraft_window_share"].add_metric([name, label], count / len(window))
