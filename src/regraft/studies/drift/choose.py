"""Choose the strangest pictures, and those whose labels would teach the model most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from regraft.evaluation.drift.observations import Observations

#: Candidates for labels, for each that is chosen: the strangest and the least confident.
_CANDIDATES = 5

#: By what a picture was chosen: it is far from the training pictures, or its answer is not confident.
Reason = Literal["distance", "confidence"]


@dataclass(frozen=True)
class ChosenPicture:
    """A picture: by what it was chosen, what the model says of it and with which confidence.

    `p_value` is the share of the reference pictures that are at least as far from the training pictures.
    """

    name: str
    answer: str
    confidence: float | None
    p_value: float | None
    reason: Reason


def strangest(observed: Observations, p_values: np.ndarray | None, count: int) -> tuple[ChosenPicture, ...]:
    """The pictures farthest from the training pictures; () where no distances are known."""
    if observed.distances is None:
        return ()
    order = np.argsort(-observed.distances, kind="stable")[:count]
    return tuple(_chosen(observed, p_values, row, "distance") for row in order.tolist())


def label_next(observed: Observations, p_values: np.ndarray | None, count: int) -> tuple[ChosenPicture, ...]:
    """Pictures to label next: strange or unsure ones that differ from each other, the most urgent first.

    A picture is as urgent as its rank among the strangest or the least confident ones, whichever is higher. Of the most
    urgent each next picture is one whose features are far from those of all before (Gonzalez 1985, Theoretical
    Computer Science 38, 293-306), weighted by its urgency.
    """
    number = len(observed)
    strange, unsure = np.zeros(number), np.zeros(number)
    if observed.distances is not None:
        strange = stats.rankdata(observed.distances) / number
    if len(observed.confidence):
        unsure = stats.rankdata(-observed.confidence) / number
    urgency = np.maximum(strange, unsure)
    candidates = np.argsort(-urgency, kind="stable")[: _CANDIDATES * count]
    if not len(candidates):
        return ()
    rows = _spread_out(_places(observed)[candidates], urgency[candidates], count)
    return tuple(
        _chosen(observed, p_values, row, "distance" if strange[row] >= unsure[row] else "confidence")
        for row in candidates[rows].tolist()
    )


def _places(observed: Observations) -> np.ndarray:
    """Coordinates of the pictures, float64 (N, F): features, or else what is said and with which confidence."""
    if observed.features is not None:
        places = observed.features.astype(np.float64)
    elif observed.task == "regression":
        places = observed.values[:, None]
    else:
        places = np.column_stack([observed.said.astype(np.float64), observed.confidence])
    spread = places.std(axis=0)
    return np.asarray((places - places.mean(axis=0))[:, spread > 0] / spread[spread > 0])


def _spread_out(places: np.ndarray, urgency: np.ndarray, count: int) -> np.ndarray:
    """Numbers of at most `count` of n places, int64, the most urgent first, each far from those before."""
    chosen = [0]
    distance = np.linalg.norm(places - places[0], axis=1)
    while len(chosen) < min(count, len(places)):
        score = distance * urgency
        score[chosen] = -1.0
        chosen.append(int(score.argmax()))
        distance = np.minimum(distance, np.linalg.norm(places - places[chosen[-1]], axis=1))
    return np.array(chosen)


def _chosen(observed: Observations, p_values: np.ndarray | None, row: int, reason: Reason) -> ChosenPicture:
    return ChosenPicture(
        observed.names[row] if observed.names else "", observed.said_of(row),
        float(observed.confidence[row]) if len(observed.confidence) else None,
        None if p_values is None else float(p_values[row]), reason,
    )  # fmt: skip
