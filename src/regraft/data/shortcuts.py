"""The shortcut alarm: can the label be guessed from what it should not depend on?

Enters: samples. Leaves: for each property of the files, how well it alone gives the label away. A network finds such a
shortcut too, and fails where it is missing.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from regraft.data.dataset import Sample
from regraft.data.facts import Facts

#: Folds of the cross-validation, and into how many bins a number is sorted.
_FOLDS, _BINS = 5, 24
#: Values of a property that fewer samples have are taken together.
_RARE = 5


@dataclass(frozen=True)
class Shortcut:
    """How well a property gives the label away.

    Attributes:
        name: Of the property, such as `image size`.
        accuracy: Mean over the classes of the share that is guessed right from the property alone, by 5-fold
            cross-validation, 0 to 1.
        chance: The same of blind guessing: 1 / classes.
        visible: Whether the property follows from what a network sees, so that it may belong to the matter
            (brightness, or how well an image can be compressed) and need not be an accident (file format).
        examples: Values and the class that mostly has them, in words.
    """

    name: str
    accuracy: float
    chance: float
    visible: bool
    examples: tuple[str, ...]

    @property
    def strength(self) -> float:
        """How far the accuracy is above chance: 0 at chance, 1 where every label is guessed."""
        return max(0.0, (self.accuracy - self.chance) / (1 - self.chance))


def measure_shortcuts(samples: Sequence[Sample], bundles: np.ndarray) -> list[Shortcut]:
    """Guess the label of every sample from each property alone, by a table made from the other folds.

    Args:
        samples: Those with facts count.
        bundles: Numbers of the bundles of samples that belong together, (N,); they are never divided between folds.

    Returns:
        The most telling first; none where there are fewer than two classes of at least ten bundles each.
    """
    kept = [i for i, sample in enumerate(samples) if sample.facts is not None]
    samples, bundles = [samples[i] for i in kept], bundles[kept]
    per_class = Counter(label for label, _ in {(s.label, int(b)) for s, b in zip(samples, bundles, strict=True)})
    names = sorted(label for label, count in per_class.items() if count >= 2 * _FOLDS)
    if len(names) < 2:
        return []
    number = {name: i for i, name in enumerate(names)}
    kept = [i for i, sample in enumerate(samples) if sample.label in number]
    samples, bundles = [samples[i] for i in kept], bundles[kept]
    labels = np.array([number[s.label] for s in samples])
    facts = [s.facts for s in samples if s.facts is not None]
    order = np.random.default_rng(0).permutation(int(bundles.max()) + 1)
    fold = order[bundles] % _FOLDS
    found = []
    for name, visible, values_of in _PROPERTIES:
        codes, words = _sorted_into(values_of(samples, facts))
        if len(words) < 2:
            continue
        accuracy = _accuracy(codes, labels, fold, len(words), len(names))
        examples = _examples(codes, words, labels, names)
        found.append(Shortcut(name, accuracy, 1 / len(names), visible, examples))
    return sorted(found, key=lambda shortcut: -shortcut.accuracy)


def _sorted_into(values: Sequence[str | float]) -> tuple[np.ndarray, list[str]]:
    """The number of the bin of each value, int64 (N,), and what to call the bins."""
    if isinstance(values[0], str):
        counts = Counter(values)
        words = sorted(str(value) for value, count in counts.items() if count >= _RARE)
        index = dict.fromkeys(counts, len(words)) | {word: i for i, word in enumerate(words)}
        codes = np.array([index[value] for value in values])
        return codes, [*words, "others"] if len(words) < len(counts) else words
    numbers = np.array(values, dtype=np.float64)
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, _BINS + 1)[1:-1]))
    codes = np.searchsorted(edges, numbers, side="left")
    ends = [f"{edge:.4g}" for edge in edges]
    words = [f"to {ends[0]}", *(f"{a} to {b}" for a, b in pairwise(ends)), f"above {ends[-1]}"]
    return codes, words if len(np.unique(codes)) > 1 else words[:1]


def _accuracy(codes: np.ndarray, labels: np.ndarray, fold: np.ndarray, bins: int, classes: int) -> float:
    """Balanced accuracy of the class that is most over-represented in a sample's bin in the other folds."""
    right = np.zeros(classes)
    for held_out in range(_FOLDS):
        known = fold != held_out
        cells = np.bincount(codes[known] * classes + labels[known], minlength=bins * classes)
        table = cells.reshape(bins, classes)
        shares = table / np.maximum(table.sum(axis=0), 1)
        guess = shares.argmax(axis=1)[codes[~known]]
        right += np.bincount(labels[~known][guess == labels[~known]], minlength=classes)
    return float((right / np.bincount(labels, minlength=classes)).mean())


def _examples(codes: np.ndarray, words: Sequence[str], labels: np.ndarray, names: Sequence[str]) -> tuple[str, ...]:
    """Of the commonest bins, the class that most of their samples have."""
    found = []
    for code, count in Counter(codes.tolist()).most_common(4):
        label, times = Counter(labels[codes == code].tolist()).most_common(1)[0]
        found.append(f"{words[code]}: {100 * times / count:.0f} % {names[label]} ({count:,} images)")
    return tuple(found)


def _patterns(samples: Sequence[Sample]) -> list[str]:
    """The files' names with their classes, numbers and made-up identifiers taken out."""
    classes = {label: label.lower() for label in {s.label for s in samples}}
    paths = unicodedata.normalize("NFC", "\0".join(s.path.replace("\0", " ") for s in samples)).lower().split("\0")
    # Joined, as to do the same for one name after the other takes three times as long.
    names = "\0".join(
        path[path.rfind("/") + 1 :].replace(classes[s.label], "<class>") for path, s in zip(paths, samples, strict=True)
    )
    names = re.sub(r"(?<=[^\0])\.[^.\0]*(?=\0|$)", "", names)
    names = re.sub(r"(?<![a-z])(?=[0-9a-f-]*[0-9])[0-9a-f-]{8,}(?![a-z])", "*", names)
    return re.sub(r"\d+", "#", names).split("\0")


def _sizes(_: Sequence[Sample], facts: Sequence[Facts]) -> list[str]:
    sizes = [(f.width, f.height) for f in facts]
    words = {size: f"{size[0]} x {size[1]}" for size in set(sizes)}
    return [words[size] for size in sizes]


#: Name, whether a network sees it, and the values of all samples: words or numbers.
_PROPERTIES: tuple[tuple[str, bool, Callable[[Sequence[Sample], Sequence[Facts]], Sequence[str | float]]], ...] = (
    ("image size", False, _sizes),
    ("number of pixels", False, lambda _, facts: [float(f.width * f.height) for f in facts]),
    ("aspect ratio", False, lambda _, facts: [f.width / f.height for f in facts]),
    ("size of the file", True, lambda _, facts: [float(f.bytes) for f in facts]),
    ("bytes for each pixel (compression)", True, lambda _, facts: [f.bytes / (f.width * f.height) for f in facts]),
    ("file format", False, lambda _, facts: [f.format for f in facts]),
    ("colour mode", False, lambda _, facts: [f.mode for f in facts]),
    ("file-name pattern", False, lambda samples, _: _patterns(samples)),
    ("brightness", True, lambda _, facts: [f.brightness for f in facts]),
    ("contrast", True, lambda _, facts: [f.contrast for f in facts]),
    ("sharpness", True, lambda _, facts: [f.sharpness for f in facts]),
)
