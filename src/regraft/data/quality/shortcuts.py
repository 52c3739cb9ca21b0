"""Detect shortcuts: properties of the files, not of their content, that predict the label; a network learns them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from regraft.data.dataset import Sample
from regraft.data.image_stats import ImageStats
from regraft.data.labels import split_labels

#: Folds of the cross-validation, and bins of a numeric property.
_FOLDS, _BINS = 5, 24
#: Categories with fewer samples are merged.
_RARE = 5


_Values = Callable[[Sequence[Sample], Sequence[ImageStats]], Sequence[str | float]]


@dataclass(frozen=True)
class Shortcut:
    """How well a property, such as `image size`, predicts the label."""

    name: str
    accuracy: float  # balanced, of a prediction from the property alone, by 5-fold cross-validation
    chance: float  # accuracy of guessing
    visible: bool  # to the network, so that it may be a legitimate feature and not an accident
    examples: tuple[str, ...]  # most frequent values, each with the class that most of their samples have
    p: float = 0.0  # probability of as many right predictions by chance, corrected for the number of properties
    label: str = ""  # of several labels, the one that is predicted

    @property
    def strength(self) -> float:
        """Accuracy above chance, rescaled: 0 at chance, 1 for a perfect prediction."""
        return max(0.0, (self.accuracy - self.chance) / (1 - self.chance))


def measure_shortcuts(samples: Sequence[Sample], ids: np.ndarray, several: Sequence[str] = ()) -> list[Shortcut]:
    """Predict the label of every sample from each property alone, with a table made from the other folds.

    Samples without `image_stats` are ignored. `ids` are the numbers of inseparable sets, (N,), which folds never
    divide. The strongest shortcut comes first; there is none if fewer than two classes have ten inseparable sets. If
    samples have any of `several` classes, each of these is predicted by itself, and its images are compared with all
    others.
    """
    known = [i for i, sample in enumerate(samples) if sample.image_stats is not None]
    samples, ids = [samples[i] for i in known], ids[known]
    if not several:
        return _of_labels(samples, ids, [s.label for s in samples], _Bins(samples))
    has, bins = [set(split_labels(s.label)) for s in samples], _Bins(samples)
    found = []
    for name in several:
        labels = [name if name in labels else f"not {name}" for labels in has]
        found += [
            replace(one, label=name, p=min(1.0, one.p * len(several))) for one in _of_labels(samples, ids, labels, bins)
        ]
    return sorted(found, key=lambda shortcut: -shortcut.strength)


class _Bins:
    """The bins of the properties of samples, each computed once for any selection of all of them."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples, self._of_all = samples, dict[str, tuple[np.ndarray, list[str]]]()

    def of(self, name: str, values_of: _Values, chosen: Sequence[int]) -> tuple[np.ndarray, list[str]]:
        """Bin number of each chosen sample, int64 (n,), and a description of each bin."""
        if len(chosen) < len(self._samples):
            return self._compute(values_of, [self._samples[i] for i in chosen])
        if name not in self._of_all:
            self._of_all[name] = self._compute(values_of, self._samples)
        return self._of_all[name]

    def _compute(self, values_of: _Values, samples: Sequence[Sample]) -> tuple[np.ndarray, list[str]]:
        return _assign_bins(values_of(samples, [s.image_stats for s in samples if s.image_stats is not None]))


def _of_labels(samples: Sequence[Sample], ids: np.ndarray, labels: Sequence[str], bins_of: _Bins) -> list[Shortcut]:
    """The shortcuts to labels that are one for each sample."""
    per_class = Counter(label for label, _ in {(label, int(i)) for label, i in zip(labels, ids, strict=True)})
    names = sorted(label for label, count in per_class.items() if count >= 2 * _FOLDS)
    if len(names) < 2:
        return []
    number = {name: i for i, name in enumerate(names)}
    known = [i for i, label in enumerate(labels) if label in number]
    ids = ids[known]
    codes = np.array([number[labels[i]] for i in known])
    fold = np.random.default_rng(0).permutation(int(ids.max()) + 1)[ids] % _FOLDS
    shortcuts = []
    for name, visible, values_of in _PROPERTIES:
        bins, descriptions = bins_of.of(name, values_of, known)
        if len(descriptions) > 1:
            predicted = _cross_val_predict(bins, codes, fold, len(descriptions), len(names))
            recalls = np.bincount(codes[predicted == codes], minlength=len(names)) / np.bincount(codes)
            examples, p = _examples(bins, descriptions, codes, names), _p_value(codes, predicted, len(names))
            p = min(1.0, p * len(_PROPERTIES))
            shortcuts.append(Shortcut(name, float(recalls.mean()), 1 / len(names), visible, examples, p))
    return sorted(shortcuts, key=lambda shortcut: -shortcut.accuracy)


def _assign_bins(values: Sequence[str | float]) -> tuple[np.ndarray, list[str]]:
    """Bin number of each value, int64 (N,), and a description of each bin."""
    if isinstance(values[0], str):
        counts = Counter(values)
        words = sorted(str(value) for value, count in counts.items() if count >= _RARE)
        index = dict.fromkeys(counts, len(words)) | {word: i for i, word in enumerate(words)}
        bins = np.array([index[value] for value in values])
        return bins, [*words, "others"] if len(words) < len(counts) else words
    numbers = np.array(values, dtype=np.float64)
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, _BINS + 1)[1:-1]))
    bins = np.searchsorted(edges, numbers, side="left")
    ends = [f"{edge:.4g}" for edge in edges]
    words = [f"to {ends[0]}", *(f"{a} to {b}" for a, b in pairwise(ends)), f"above {ends[-1]}"]
    return bins, words if len(np.unique(bins)) > 1 else words[:1]


def _cross_val_predict(
    bins: np.ndarray, labels: np.ndarray, fold: np.ndarray, n_bins: int, n_classes: int
) -> np.ndarray:
    """Predict the class that is most over-represented in a bin in the other folds, int64 (N,)."""
    predictions = np.empty_like(labels)
    for number in range(_FOLDS):
        train, test = fold != number, fold == number
        cells = np.bincount(bins[train] * n_classes + labels[train], minlength=n_bins * n_classes)
        table = cells.reshape(n_bins, n_classes)
        shares = table / np.maximum(table.sum(axis=0), 1)
        predictions[test] = shares.argmax(axis=1)[bins[test]]
    return predictions


def _p_value(labels: np.ndarray, predicted: np.ndarray, n_classes: int) -> float:
    """Probability of as many right predictions if the labels were shuffled: 1 for predictions at chance or below.

    Mean and variance are those of the permutation distribution (Hoeffding 1951, Annals of Mathematical Statistics 22),
    which is nearly normal.
    """
    count = len(labels)
    share = np.bincount(labels, minlength=n_classes) / count
    wanted = np.bincount(predicted, minlength=n_classes) / count
    expected = float(share @ wanted)
    # The matrix of 1 where a prediction meets a label, centered by rows and columns; all entries of two classes agree.
    deviations = np.eye(n_classes) - share[:, None] - wanted[None, :] + expected
    variance = count**2 / (count - 1) * float(wanted @ deviations**2 @ share) if count > 1 else 0.0
    if variance <= 0:
        return 1.0
    return NormalDist().cdf(-(float((labels == predicted).sum()) - count * expected) / variance**0.5)


def _examples(
    bins: np.ndarray, descriptions: Sequence[str], labels: np.ndarray, names: Sequence[str]
) -> tuple[str, ...]:
    examples = []
    for number, count in Counter(bins.tolist()).most_common(4):
        label, times = Counter(labels[bins == number].tolist()).most_common(1)[0]
        examples.append(f"{descriptions[number]}: {100 * times / count:.0f} % {names[label]} ({count:,} images)")
    return tuple(examples)


def _file_name_patterns(samples: Sequence[Sample]) -> list[str]:
    """File names without their classes, also of several labels, numbers and random identifiers."""
    classes = {
        label: [name.lower() for name in (label, *label.split("|")) if name] for label in {s.label for s in samples}
    }
    paths = unicodedata.normalize("NFC", "\0".join(s.path.replace("\0", " ") for s in samples)).lower().split("\0")
    # One string with all names: one by one, the substitutions take three times as long.
    names = "\0".join(
        reduce(lambda name, one: name.replace(one, "<class>"), classes[s.label], path[path.rfind("/") + 1 :])
        for path, s in zip(paths, samples, strict=True)
    )
    names = re.sub(r"(?<=[^\0])\.[^.\0]*(?=\0|$)", "", names)
    names = re.sub(r"(?<![a-z])(?=[0-9a-f-]*[0-9])[0-9a-f-]{8,}(?![a-z])", "*", names)
    return re.sub(r"\d+", "#", names).split("\0")


#: Name of each property, whether the network's input shows it, and its values, as strings or numbers.
_PROPERTIES: tuple[tuple[str, bool, _Values], ...] = (
    ("image size", False, lambda _, stats: [f"{f.width} x {f.height}" for f in stats]),
    ("number of pixels", False, lambda _, stats: [float(f.width * f.height) for f in stats]),
    ("aspect ratio", False, lambda _, stats: [f.width / f.height for f in stats]),
    ("file size", True, lambda _, stats: [float(f.bytes) for f in stats]),
    ("bytes per pixel (compression)", True, lambda _, stats: [f.bytes / (f.width * f.height) for f in stats]),
    ("file format", False, lambda _, stats: [f.format for f in stats]),
    ("color mode", False, lambda _, stats: [f.mode for f in stats]),
    ("file-name pattern", False, lambda samples, _: _file_name_patterns(samples)),
    ("brightness", True, lambda _, stats: [f.brightness for f in stats]),
    ("contrast", True, lambda _, stats: [f.contrast for f in stats]),
    ("sharpness", True, lambda _, stats: [f.sharpness for f in stats]),
)
