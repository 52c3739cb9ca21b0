"""The strangest pictures, and those to label next."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from regraft.evaluation.drift.observations import Observations
from regraft.studies.drift.choose import label_next, strangest


def observed(count: int = 60) -> Observations:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.8, 1.0, count)
    confidence[:3] = (0.5, 0.51, 0.52)
    answers = np.column_stack([confidence, 1 - confidence])
    distances = rng.uniform(1, 2, count)
    distances[10:13] = (30, 40, 50)
    features = rng.normal(size=(count, 8)).astype(np.float32)
    features[11] = features[12]  # the same content twice
    return replace(
        Observations.of_answers("classification", ("a", "b"), answers), distances=distances, features=features,
        names=tuple(f"{i}.png" for i in range(count)),
    )  # fmt: skip


def test_the_farthest_are_the_strangest() -> None:
    found = strangest(observed(), np.linspace(0, 1, 60), 3)
    assert [one.name for one in found] == ["12.png", "11.png", "10.png"]
    assert {one.reason for one in found} == {"distance"}
    assert strangest(replace(observed(), distances=None), None, 3) == ()


def test_strange_and_unsure_pictures_are_labeled_next() -> None:
    found = label_next(observed(), None, 4)
    chosen = {one.name: one.reason for one in found}
    assert len(chosen) == 4
    assert {chosen.get(name) for name in ("10.png", "12.png")} & {"distance"}
    assert {chosen.get(name) for name in ("0.png", "1.png", "2.png")} & {"confidence"}
    assert not {"11.png", "12.png"} <= set(chosen)  # one of two that show the same
    assert label_next(observed(), None, 0) == ()
    assert len(label_next(observed(14), None, 20)) == 14


def test_what_is_known_decides() -> None:
    numbers = replace(Observations.of_answers("regression", ("age",), np.arange(9.0)[:, None]), names=("x",) * 9)
    assert len(label_next(numbers, None, 4)) == 4
    unsure = replace(observed(), distances=None, features=None)
    assert {one.reason for one in label_next(unsure, None, 3)} == {"confidence"}
    assert label_next(unsure, None, 3)[0].name == "0.png"
