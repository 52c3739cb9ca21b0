"""Changes of inputs and answers are found, rarely where there are none, and said in sentences."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from regraft.errors import UsageError
from regraft.evaluation.drift import two_samples
from regraft.evaluation.drift.changes import Subject, find_changes, strange_p_values
from regraft.evaluation.drift.observations import Observations

CLASSES = ("crack", "sound")


def pictures(rng: np.random.Generator, count: int, *, cracks: float = 0.3, far: float = 0.0) -> Observations:
    """Pictures whose distances and features are those of any, moved by `far`, with this share of cracks."""
    features = rng.normal(size=(count, 20)).astype(np.float32)
    features[:, 0] += far
    confidence = np.where(rng.random(count) < cracks, rng.uniform(0.6, 1, count), rng.uniform(0, 0.4, count))
    observed = Observations.of_answers("classification", CLASSES, np.column_stack([confidence, 1 - confidence]))
    return replace(observed, distances=rng.chisquare(20, count) + 4 * far, features=features)


def changed(reference: Observations, new: Observations) -> dict[Subject, bool | None]:
    found = find_changes(reference, new)
    subjects: tuple[Subject, ...] = ("inputs", "answers")
    return {subject: found.has_changed(subject) for subject in subjects}


def test_what_has_changed_is_found() -> None:
    rng = np.random.default_rng(0)
    reference = pictures(rng, 200)
    assert changed(reference, pictures(rng, 100)) == {"inputs": False, "answers": False}
    assert changed(reference, pictures(rng, 100, far=3)) == {"inputs": True, "answers": False}
    assert changed(reference, pictures(rng, 100, cracks=0.8)) == {"inputs": False, "answers": True}


def test_false_alarms_are_as_rare_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_samples, "_PERMUTATIONS", 199)
    rng = np.random.default_rng(1)
    alarms = [find_changes(pictures(rng, 60), pictures(rng, 30), alpha=0.1).is_drift for _ in range(200)]
    assert sum(alarms) <= 28  # 10 % of 200, and two standard deviations


def test_a_part_of_strange_pictures_is_found() -> None:
    rng = np.random.default_rng(2)
    reference, new = pictures(rng, 300), pictures(rng, 100)
    assert new.distances is not None
    new.distances[:15] = 200
    found = {one.test: one for one in find_changes(reference, replace(new, features=None)).tests}
    assert found["strange"].adjusted < 0.001 < found["distance"].adjusted
    assert found["strange"].effect == pytest.approx(0.18, abs=0.06)
    assert found["strange"].interval[0] < found["strange"].effect < found["strange"].interval[1]


def test_features_find_what_distances_do_not() -> None:
    rng = np.random.default_rng(3)
    reference, new = pictures(rng, 200), pictures(rng, 100)
    assert new.features is not None
    new.features[:, 3] += 1.5
    found = {one.test: one for one in find_changes(reference, new).tests}
    assert found["features"].adjusted < 0.001
    assert found["features"].effect > 0.7
    assert found["distance"].adjusted > 0.05


def test_shares_come_with_intervals_that_hold_together() -> None:
    rng = np.random.default_rng(4)
    found = find_changes(pictures(rng, 200), pictures(rng, 100, cracks=0.6))
    assert {share.label for share in found.shares} == set(CLASSES)
    first = found.shares[0]
    assert first.interval[0] < first.new - first.reference < first.interval[1]
    assert abs(first.new - first.reference) == pytest.approx(0.3, abs=0.15)


def test_verdicts() -> None:
    rng = np.random.default_rng(5)
    reference = pictures(rng, 200)
    both = find_changes(reference, pictures(rng, 100, far=3, cracks=0.9))
    assert both.verdict.startswith("Inputs and answers have changed against validation (p = ")
    inputs = find_changes(reference, pictures(rng, 100, far=3), name="the earlier pictures")
    assert inputs.verdict.startswith("Inputs have changed against the earlier pictures (p = ")
    assert "No change of the answers is found (p = " in inputs.verdict
    none = find_changes(reference, pictures(rng, 100))
    assert none.verdict.startswith("No change of inputs or answers against validation is found (p = ")
    few = find_changes(reference, pictures(rng, 12))
    assert few.are_few
    assert few.verdict.startswith("Too few pictures to tell (12 pictures against 200 of validation)")
    blind = replace(pictures(rng, 100, cracks=0.9), distances=None, features=None)
    assert find_changes(reference, blind).verdict.endswith("Inputs could not be compared.")
    assert json.loads(json.dumps(both.to_json(), allow_nan=False))["inputs_changed"] is True


def test_a_large_change_is_found_in_few_pictures() -> None:
    rng = np.random.default_rng(6)
    assert find_changes(pictures(rng, 200), pictures(rng, 8, far=10)).is_drift


def test_several_labels_and_numbers() -> None:
    rng, thresholds = np.random.default_rng(7), np.array([0.5, 0.4, 0.6])
    names = ("red", "green", "blue")
    labels = [
        Observations.of_answers("multilabel", names, rng.random((count, 3)) ** power, thresholds)
        for count, power in ((150, 1), (80, 1), (80, [1, 1, 0.2]))
    ]
    assert find_changes(labels[0], labels[1]).has_changed("answers") is False
    found = find_changes(labels[0], labels[2])
    assert found.has_changed("answers")
    assert found.has_changed("inputs") is None
    assert found.shares[0].label == "blue"
    numbers = [
        Observations.of_answers("regression", ("age",), rng.normal(mean, spread, (100, 1)))
        for mean, spread in ((40, 10), (40, 10), (48, 10), (40, 25))
    ]
    assert [find_changes(numbers[0], other).is_drift for other in numbers[1:]] == [False, True, True]
    assert find_changes(numbers[0], numbers[2]).shares == ()


def test_wrong_arguments_are_refused() -> None:
    one = pictures(np.random.default_rng(8), 5)
    with pytest.raises(UsageError, match=r"alpha = 1; expected a rate of false alarms between 0 and 1"):
        find_changes(one, one, alpha=1.0)
    with pytest.raises(UsageError, match="0 new pictures and 5 of validation"):
        find_changes(one, one.take(np.empty(0, np.int64)))


def test_p_values_are_those_of_the_detector() -> None:
    p_values = strange_p_values(np.array([3.0, 1.0, 2.0]), np.array([0.5, 2.0, 9.0]))
    assert p_values == pytest.approx([1.0, 0.75, 0.25])
