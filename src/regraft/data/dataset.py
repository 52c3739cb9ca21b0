"""The values that the data step hands on: samples, a data set, a split.

Enters: what `scan` or a notebook found. Leaves: frozen values; nothing here touches the disk.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from regraft.data.decode import MAX_PIXELS, ImageSource, decode_image
from regraft.data.facts import Facts
from regraft.data.storage import Folder, Storage
from regraft.errors import DataError, ImageError
from regraft.shown import Shown

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    Attributes:
        path: Its name: relative to the data set's root, with forward slashes; or a made-up one for an array.
        label: Class name.
        sha256: Of the file's bytes (of the pixels for an array); equal values mean exact duplicates.
        part: `train`, `val` or `test` where the data says so, else None.
        group: Samples of one group are never divided between parts; None: alone.
        size: Width and height in pixels, as decoded.
        facts: What reading the file told; None for an array.
        twins: Samples with the same name here show the same picture, and are never divided; None: alone.
    """

    path: str
    label: str
    sha256: str
    part: Part | None = None
    group: str | None = None
    size: tuple[int, int] | None = None
    facts: Facts | None = field(default=None, repr=False)
    twins: str | None = None


@dataclass(frozen=True)
class BadFile:
    """A file that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Pair:
    """Two images that show the same picture.

    Attributes:
        first: Path of the one.
        second: Path of the other.
        likeness: Correlation of the two, laid over one another, up to 1.
        mirrored: Whether one is the mirror image of the other.
        features: Correlation of what a network sees in the two, -1 to 1, 0 for any two images; None: it was not asked.
    """

    first: str
    second: str
    likeness: float
    mirrored: bool
    features: float | None = None


@dataclass(frozen=True)
class Dataset(Shown, by="regraft.report.notebook.dataset"):
    """Labelled images, their classes, and what was left out.

    Attributes:
        root: What the samples' paths are relative to: a folder or file; a URL, without credentials, as text.
        samples: In a fixed order (sorted by path).
        classes: Class names in the order of the model's outputs: sorted by code point, once, here.
        bad: Files that could not be read.
        ignored: Files that are not images by their ending.
        notes: What a person should know about the data, in sentences.
        max_pixels: The largest image that was read; whoever reads the images again must allow as much.
        storage: What holds the files; None: the folder `root`.
        pairs: Near duplicates; of images that show the same, enough pairs to join them all.
        faults: Why it cannot be trained on, in sentences; only of a lenient scan, which raises no error for them.
    """

    root: Path | str
    samples: tuple[Sample, ...]
    classes: tuple[str, ...]
    bad: tuple[BadFile, ...] = ()
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    max_pixels: int = MAX_PIXELS
    storage: Storage | None = field(default=None, repr=False, compare=False)
    pairs: tuple[Pair, ...] = field(default=(), repr=False)
    faults: tuple[str, ...] = ()
    _arrays: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_arrays(
        cls,
        images: Sequence[np.ndarray] | np.ndarray,
        labels: Sequence[str],
        *,
        groups: Sequence[str | None] | None = None,
    ) -> Dataset:
        """A data set of images that are in memory already.

        Args:
            images: N arrays as `decode_image` takes them.
            labels: N class names.
            groups: N names of groups that a split must not divide; None: alone.

        Raises:
            DataError: The lengths differ.
            ImageError: An array is no image; the message says which.
        """
        groups = [None] * len(labels) if groups is None else groups
        if not len(images) == len(labels) == len(groups):
            lengths = f"{len(images)} images, {len(labels)} labels and {len(groups)} groups"
            raise DataError(f"{lengths}; expected one label, and one group if any, for each image.")
        arrays: dict[str, np.ndarray] = {}
        for i, image in enumerate(images):
            try:
                arrays[f"array-{i:07d}"] = decode_image(np.asarray(image))
            except ImageError as error:
                raise ImageError(error.reason, f"images[{i}]") from error
        samples = tuple(
            Sample(
                path=path,
                label=str(labels[i]),
                sha256=hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest(),
                group=None if (group := groups[i]) is None else str(group),
                size=(array.shape[1], array.shape[0]),
            )
            for i, (path, array) in enumerate(arrays.items())
        )
        return cls(Path(), samples, tuple(sorted({s.label for s in samples})), _arrays=arrays)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)

    def __repr__(self) -> str:
        """One line; the samples are in `samples`."""
        bad = f", {len(self.bad)} unreadable" if self.bad else ""
        return f"Dataset({str(self.root)!r}, {len(self)} images, {len(self.classes)} classes{bad})"

    def source(self, sample: Sample) -> ImageSource:
        """What the decoder reads for this sample.

        Raises:
            ImageError: It is no file of its own, and can no longer be read.
        """
        if (array := self._arrays.get(sample.path)) is not None:
            return array
        try:
            return (self.storage or Folder(Path(self.root))).source(sample.path)
        except (OSError, ValueError) as error:
            raise ImageError(str(getattr(error, "strerror", None) or error), sample.path) from error

    @property
    def labels(self) -> np.ndarray:
        """Class index of each sample, int64 (N,)."""
        index = {name: i for i, name in enumerate(self.classes)}
        return np.array([index[s.label] for s in self.samples], dtype=np.int64)

    @property
    def shorter_side(self) -> int:
        """Median of the images' shorter sides in pixels; 0 where no size is known."""
        sides = [min(s.size) for s in self.samples if s.size]
        return int(np.median(sides)) if sides else 0

    def counts(self) -> dict[str, int]:
        """Samples of each class, in class order, zeros included."""
        counter = Counter(s.label for s in self.samples)
        return {name: counter[name] for name in self.classes}

    def with_samples(self, samples: Sequence[Sample]) -> Dataset:
        """The same data set with other samples, classes unchanged."""
        return replace(self, samples=tuple(samples))


@dataclass(frozen=True)
class Split(Shown, by="regraft.report.notebook.split"):
    """The assignment of images to train, val and test; every sample carries its part."""

    dataset: Dataset

    def __post_init__(self) -> None:
        """Refuse a sample without a part."""
        if any(s.part is None for s in self.dataset.samples):
            raise DataError("A split needs a part for every sample; call regraft.split(dataset) first.")

    def __repr__(self) -> str:
        """One line."""
        parts = ", ".join(f"{len(self[part])} {part}" for part in self)
        return f"Split({str(self.dataset.root)!r}, {parts}, {len(self.classes)} classes)"

    def __getitem__(self, part: Part) -> Dataset:
        """The samples of one part."""
        return self.dataset.with_samples([s for s in self.dataset.samples if s.part == part])

    def __iter__(self) -> Iterator[Part]:
        """The names of the parts that have samples, in the order train, val, test."""
        present = {s.part for s in self.dataset.samples}
        return (part for part in PARTS if part in present)

    @property
    def train(self) -> Dataset:
        """What the model learns from."""
        return self["train"]

    @property
    def val(self) -> Dataset:
        """What choices are made on: strength, epoch, whether fine-tuning is kept."""
        return self["val"]

    @property
    def test(self) -> Dataset:
        """What nothing is chosen on."""
        return self["test"]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in output order."""
        return self.dataset.classes
