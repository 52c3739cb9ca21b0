"""The Grafana dashboard in `deploy/` is valid, and asks only for metrics and labels that the server has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from regraft.evaluation.drift.observations import Observations
from regraft.models.inference import Prediction
from regraft.serving.answer_numbers import AnswerNumbers
from regraft.serving.metrics import Metrics

DASHBOARD = Path(__file__).parent.parent.parent / "deploy" / "grafana-dashboard.json"
#: Words of PromQL that are no metrics.
_LANGUAGE = {"sum", "avg", "max", "by", "rate", "histogram_quantile", "label_values"}


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return value


@pytest.fixture(scope="module")
def labels_of() -> dict[str, set[str]]:
    """The labels of each series of a server that has answered for a model of classes and one of numbers."""
    metrics = Metrics()
    for task, name, probabilities, value in (
        ("classification", "photos", np.array([0.9, 0.1]), None), ("regression", "ages", np.empty(0), 4.0),
    ):  # fmt: skip
        classes = ("a", "b") if value is None else ("age",)
        validation = Observations.of_answers(
            task, classes, np.array([[0.9, 0.1]]) if value is None else np.ones((1, 1))
        )  # type: ignore[arg-type]  # a Task
        metrics.answers.add_model(name, classes, validation)
        prediction = Prediction("", classes, probabilities, None, 0.5, 1.0, value=value)
        metrics.answers.count(name, AnswerNumbers.of(prediction, task))  # type: ignore[arg-type]  # a Task
        metrics.batch.labels(name).observe(1)
        metrics.inference.labels(name).observe(1)
        metrics.images.labels(name, "answered").inc()
    metrics.requests.labels("/predict", "POST", "200").inc()
    metrics.seconds.labels("/predict").observe(1)
    metrics.problems.labels("x").inc()
    metrics.rejections.labels("x").inc()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {"job"}).update(sample.labels)
    return found


def queries(dashboard: dict[str, Any]) -> list[str]:
    """Every query of the panels and of the variables."""
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    return [*panels, *(one["definition"] for one in dashboard["templating"]["list"] if "definition" in one)]


def test_queries_are_of_metrics_that_exist(dashboard: dict[str, Any], labels_of: dict[str, set[str]]) -> None:
    asked = set()
    for query in queries(dashboard):
        plain = re.sub(r'"[^"]*"', '""', query)
        for name in re.findall(r"[a-z_]+(?=\{|,)", re.sub(r"\{[^}]*\}", "{}", plain)):
            if name not in _LANGUAGE and name.startswith(("regraft", "process")):
                asked.add(name)
                assert name in labels_of, (name, query)
                for selector in re.findall(rf"{name}\{{([^}}]*)\}}", plain):
                    assert set(re.findall(r"(\w+)=", selector)) <= labels_of[name], query
        for grouped in re.findall(r"by \(([^)]*)\)", plain):
            names = re.findall(r"(?:regraft|process)\w+", plain)
            assert all({label.strip() for label in grouped.split(",")} <= labels_of[name] for name in names), query
    own = {name for name in labels_of if name.startswith("regraft_window")}
    assert own <= asked | {"regraft_window_answers"}


def test_panels_do_not_overlap_and_have_one_number_each(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = set()
    for panel in panels:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        cells |= own
    references = {"${datasource}"}
    assert {panel["datasource"]["uid"] for panel in panels if "datasource" in panel} == references
    assert {one["name"] for one in dashboard["templating"]["list"]} == {"datasource", "job", "model"}
