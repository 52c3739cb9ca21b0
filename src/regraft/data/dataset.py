"""The values that describe data: samples, a data set, a split. No image is read before a decoder needs it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from regraft.data.arrays import read_arrays
from regraft.data.band_values import Bands, measure_bands
from regraft.data.class_order import ORDERED_TREE, in_order
from regraft.data.decode import (
    MAX_PIXELS,
    ImageSource,
    decode_picture,
)
from regraft.data.labels import (
    AskedTask,
    LabelOptions,
    ModelTask,
    Task,
    classes_in,
    indicators,
    names_in,
    numbers,
    quantile_bins,
)
from regraft.data.rgb import ValueRange, describe_value_range, measure_value_range
from regraft.data.samples import PARTS as PARTS
from regraft.data.samples import Part as Part
from regraft.data.samples import Sample as Sample
from regraft.data.samples import SampleTable
from regraft.data.storage import Folder, Storage, image_error
from regraft.data.stored_features import StoredFeatures
from regraft.data.taxonomy import Taxonomy, check_parents
from regraft.errors import DataError, ImageErrorCode, UsageError
from regraft.notebook_repr import NotebookRepr


@dataclass(frozen=True)
class BadFile:
    """A file that is left out because it cannot be read.

    Attributes:
        path: Path relative to the data set's root.
        reason: Why it cannot be read, in a few words.
        code: The kind of reason.
    """

    path: str
    reason: str
    code: ImageErrorCode = ImageErrorCode.UNREADABLE


@dataclass(frozen=True)
class Pair:
    """Paths of two images of nearly the same picture, one of which may be the mirror image of the other."""

    first: str
    second: str
    similarity: float  # correlation after alignment, at most 1
    mirrored: bool
    features: float | None = None  # that of a backbone's features, -1..1, about 0 if unrelated; None: not computed


@dataclass(frozen=True)
class Dataset(NotebookRepr):
    """Labeled images, their classes, and the files that were left out.

    Attributes:
        root: Folder or file that the samples' paths are relative to; for remote data the URL without credentials.
        samples: The samples, sorted by path. Those of a scan are in columns (`table`) and become objects on access.
        classes: Class names in the order of the model's outputs: sorted by code point, or lowest first if they are
            `ordered`; of numbers the name of the quantity alone, such as "age".
        task: Whether an image has one class (`classification`), any number of them (`multilabel`; then the label of a
            sample is what `regraft.data.labels.join_labels` makes of its classes), or a number (`regression`; then the
            label is that number as text).
        bad: Files that cannot be read.
        ignored: Files in the data that are not used: no images by their extension, hidden, or in no class folder.
        notes: What the user should know about the data, in sentences.
        max_pixels: Pixel limit of the scan; reading the images again needs the same limit.
        storage: Storage that holds the files; None: the folder `root`.
        pairs: Near duplicates. Each group of them is connected, but not every pair of a group is listed.
        class_problems: Why a model cannot be trained on the data, in sentences; only a lenient scan returns any.
        scanned: The path or URL from which `scan` finds the same images again; empty if there is none.
        band_numbers: Numbers, from 1, of the bands of the images that are the channels; () for gray and colors.
        taxonomy: The tree above the classes, if there is one.
        ordered: Whether the classes have an order, such as grades (the task `ordinal`), of which an image has one.
        pool_by: What its groups are, such as "patient", if one group gets one answer; empty: each image gets one.
        subgroups: For each column or pattern of which metrics are asked for, such as "camera", the value of each image
            that has one, by its path.
    """

    root: Path | str
    samples: Sequence[Sample]
    classes: tuple[str, ...]
    bad: tuple[BadFile, ...] = ()
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    max_pixels: int = MAX_PIXELS
    storage: Storage | None = field(default=None, repr=False, compare=False)
    pairs: tuple[Pair, ...] = field(default=(), repr=False)
    class_problems: tuple[str, ...] = ()
    scanned: str = field(default="", repr=False, compare=False)
    task: Task = "classification"
    band_numbers: tuple[int, ...] = ()
    taxonomy: Taxonomy | None = field(default=None, repr=False)
    ordered: bool = False
    pool_by: str = field(default="", repr=False)
    subgroups: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False, compare=False)
    _arrays: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_arrays(
        cls,
        images: Sequence[np.ndarray] | np.ndarray,
        labels: Sequence[str] | Sequence[Collection[str]] | Sequence[float],
        *,
        groups: Sequence[str | None] | None = None,
        task: AskedTask = "auto",
        quantity: str = "value",
        bands: str = "",
        taxonomy: Mapping[str, str | None] | None = None,
        order: Sequence[str] = (),
    ) -> Dataset:
        """Make a data set from images in memory.

        Args:
            images: N arrays as `decode_image` accepts them, or one array (N, H, W, C), whose floats have one range.
            labels: N class names; or N collections of them, which make a multi-label data set; or N numbers.
            groups: N group names, which a split keeps in one part; None: no group.
            task: `regression` if the labels are numbers to predict: `auto` takes them for names of classes; `ordinal`
                if the classes have an order.
            quantity: What the numbers are, such as "age".
            bands: Channels to use, of arrays (H, W, C) of any C and of integers or floats: `all`, or numbers from 1,
                such as `4,3,2`. Default: gray or colors, or all of 2 or more than 4 channels.
            taxonomy: The parent of each class and node of a tree, by name; None: no tree.
            order: The classes of the task `ordinal`, lowest first; default: by the numbers in their names.

        Raises:
            UsageError: `bands` is something else, or the order of the classes is not known or beside a tree.
            DataError: The lengths differ, or the channels, a label is no finite number, or the tree does not have
                every class at its ends.
            ImageError: An array is not an image; the message says which one.
        """
        asked = LabelOptions(task, order=tuple(order))
        found = read_arrays(images, labels, groups, asked.read_as, bands)
        of_data = {quantity} if found.task == "regression" else classes_in([s.label for s in found.samples], found.task)
        classes = tuple(sorted(of_data))
        if asked.is_ordinal:
            if taxonomy is not None:
                raise UsageError(ORDERED_TREE)
            classes = in_order(classes, asked.order, "The data set")
        tree = None if taxonomy is None else Taxonomy.of(check_parents(taxonomy, "The taxonomy"), classes)
        return cls(
            Path(), found.samples, classes, task=found.task, band_numbers=found.band_numbers, taxonomy=tree,
            ordered=asked.is_ordinal, _arrays=found.arrays,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        bad = f", {len(self.bad)} unreadable" if self.bad else ""
        return f"Dataset({str(self.root)!r}, {len(self)} images, {len(self.classes)} classes{bad})"

    def source(self, sample: Sample) -> ImageSource:
        """The path, bytes or array that the decoder reads; raises `ImageError` if a storage can no longer read it."""
        if (array := self._arrays.get(sample.path)) is not None:
            return array
        try:
            return (self.storage or Folder(Path(self.root))).source(sample.path)
        except (OSError, ValueError) as error:
            raise image_error(error, sample.path) from error

    @property
    def is_in_memory(self) -> bool:
        """Whether the images are arrays, and not files."""
        return bool(self._arrays)

    @cached_property
    def table(self) -> SampleTable:
        """The samples in columns, for work on many of them."""
        return SampleTable.of(self.samples)

    @property
    def model_task(self) -> ModelTask:
        """The task as `regraft.build` takes it: `ordinal` if the classes have an order, else `task`."""
        return "ordinal" if self.ordered else self.task

    @property
    def targets(self) -> np.ndarray:
        """What a model is trained to answer: `labels`; whether an image has each class, float32 (N, C); or `numbers`.

        Numbers are float64 (N, 1), since those of times, for example, differ where float32 has no digits.
        """
        if self.task == "regression":
            return self.numbers[:, None]
        return self.labels if self.task == "classification" else self.indicators.astype(np.float32)

    @property
    def numbers(self) -> np.ndarray:
        """The number of each sample, float64 (N,), of a data set of numbers."""
        assert self.task == "regression"
        return numbers(self.table.labels)

    @property
    def strata(self) -> SampleTable:
        """The samples with the labels whose shares a split keeps: of numbers, bins of about equally many images."""
        table = self.table
        return table.with_labels(quantile_bins(table.labels)) if self.task == "regression" else table

    @property
    def indicators(self) -> np.ndarray:
        """Whether each sample has each class, bool (N, C)."""
        if self.task == "multilabel":
            return indicators(self.table.labels, self.classes)
        return np.asarray(self.labels[:, None] == np.arange(len(self.classes)))

    def names_of(self, sample: Sample) -> tuple[str, ...]:
        """The classes of a sample; if it has a number, what the numbers are."""
        return self.classes if self.task == "regression" else names_in(sample.label, self.task)

    @property
    def labels(self) -> np.ndarray:
        """Class index of each sample, int64 (N,), of a data set in which an image has one class."""
        assert self.task == "classification"
        labels, index = self.table.labels, {name: i for i, name in enumerate(self.classes)}
        of_code = np.array([index.get(name, -1) for name in labels.names.tolist()], dtype=np.int64)
        numbers: np.ndarray = of_code[labels.codes]
        if len(numbers) and numbers.min() < 0:
            raise KeyError(labels.names[labels.codes[numbers.argmin()]])
        return numbers

    @property
    def shorter_side(self) -> int:
        """Median of the images' shorter sides in pixels; 0 if no size is known."""
        sides = self.table.shorter_sides
        sides = sides[sides > 0]
        return int(np.median(sides)) if len(sides) else 0

    @property
    def value_range(self) -> ValueRange:
        """The values that become black and white in images of more than 8 bits: integers, and floats; 0 and 0: none.

        They are percentiles over the training images, or over all if there are none: the 1st of the images' `low` and
        the 99th of their `high`. If these are equal, black is 0.
        """
        are_training = self.table.parts <= PARTS.index("train")
        return measure_value_range(self.table.stats[are_training | ~are_training.any()])

    @property
    def channels(self) -> int:
        """Number of channels C of the images as a model takes them."""
        return len(self.band_numbers) or 3

    @cached_property
    def bands(self) -> Bands | None:
        """The bands that are the channels, with their values; None for gray and colors.

        The values are those of the training images, or of all if there are none; of more than 1000, of as many evenly
        spread. Raises `ImageError` if an image can no longer be read.
        """
        if not self.band_numbers:
            return None
        parts = self.table.parts
        are_training = parts <= PARTS.index("train")
        chosen = np.flatnonzero(are_training | ~are_training.any())
        return measure_bands(
            self.band_numbers, len(chosen), lambda i: self.source(self.samples[chosen[i]]), self.max_pixels
        )

    def picture_decoder(self) -> Callable[..., np.ndarray]:
        """`decode_picture` with the values and bands of these images."""
        numbers, ranges = ((), ()) if self.bands is None else (self.bands.numbers, self.bands.ranges)
        return partial(
            decode_picture, max_pixels=self.max_pixels, value_range=self.value_range, numbers=numbers, ranges=ranges
        )

    def describe_values(self, value_range: ValueRange) -> list[str]:
        """Sentences about how images of more than 8 bits, if there are any, become images of 8 bits."""
        if self.bands is not None:
            return [self.bands.describe()]
        return describe_value_range(self.table.stats, value_range)

    def counts(self) -> dict[str, int]:
        """Number of samples of each class, in class order, including zeros; of several classes each counts.

        Of numbers, it is that of all samples.
        """
        if self.task == "regression":
            return {self.classes[0]: len(self)}
        if self.task == "multilabel":
            return dict(zip(self.classes, self.indicators.sum(axis=0).tolist(), strict=True))
        labels = self.table.labels
        counts = np.bincount(labels.codes, minlength=len(labels.names)).tolist()
        counter = dict(zip(labels.names.tolist(), counts, strict=True))
        return {name: counter.get(name, 0) for name in self.classes}

    def with_samples(self, samples: Sequence[Sample]) -> Dataset:
        """The same data set with other samples and the same classes."""
        return replace(self, samples=samples if isinstance(samples, SampleTable) else tuple(samples))


@dataclass(frozen=True)
class Unlabeled:
    """Images without labels, for training, and how many were left out of what was found.

    Attributes:
        images: The images to use; their labels are empty, and there are no classes.
        path: Path or URL where they were found.
        found: Number of readable images.
        held_out_copies: Images left out because they are validation or test images, or those of a fold.
        held_out_near_duplicates: Others left out because they show nearly the same picture as one of those.
        held_out_groups: Others left out because one of those is of the same group.
        training_copies: Images left out because they are labeled training images.
        training_near_duplicates: Others left out because they show nearly the same picture as one of those.
        repeated: Copies of other images without labels, of which one is used.
    """

    images: Dataset
    path: str
    found: int
    held_out_copies: int = 0
    held_out_near_duplicates: int = 0
    held_out_groups: int = 0
    training_copies: int = 0
    training_near_duplicates: int = 0
    repeated: int = 0

    def __len__(self) -> int:
        return len(self.images)

    def left_out(self) -> dict[str, int]:
        """Number of images left out, by reason."""
        return {
            "copies of held-out images": self.held_out_copies,
            "near duplicates of held-out images": self.held_out_near_duplicates,
            "of a group with held-out images": self.held_out_groups,
            "copies of training images": self.training_copies,
            "near duplicates of training images": self.training_near_duplicates,
            "copies of one another": self.repeated,
            "unreadable": len(self.images.bad),
        }

    def to_json(self) -> dict[str, Any]:
        """The numbers as plain JSON values."""
        return {"found": self.found, "usable": len(self), "left_out": self.left_out()}

    def describe(self) -> str:
        """A sentence about what was found and left out."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out().items() if count)
        text = f"{self.found + len(self.images.bad):,} unlabeled images, of which {len(self):,} can be used"
        return f"{text}; left out: {reasons}." if reasons else f"{text}."


@dataclass(frozen=True)
class Split(NotebookRepr):
    """A data set in which every sample is assigned to train, val or test; and images without labels, if any.

    `stored` has the features of its last samples, whose images are gone, if any.
    """

    dataset: Dataset
    unlabeled: Unlabeled | None = field(default=None, repr=False, compare=False)
    stored: StoredFeatures | None = field(default=None, repr=False, compare=False)

    _parts: dict[Part, Dataset] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if (self.dataset.table.parts < 0).any():
            raise DataError("A split needs a part for every sample; call regraft.split(dataset) first.")

    def __reduce__(self) -> tuple[type[Split], tuple[Dataset, Unlabeled | None, StoredFeatures | None]]:
        """Pickle without the parts, which are selected again."""
        return Split, (self.dataset, self.unlabeled, self.stored)

    def __repr__(self) -> str:
        parts = ", ".join(f"{len(self[part])} {part}" for part in self)
        return f"Split({str(self.dataset.root)!r}, {parts}, {len(self.classes)} classes)"

    def __getitem__(self, part: Part) -> Dataset:
        if part not in self._parts:
            table = self.dataset.table
            rows = table.parts == PARTS.index(part) if part in PARTS else np.zeros(len(table), bool)
            self._parts[part] = self.dataset.with_samples(table.take(rows))
        return self._parts[part]

    def __iter__(self) -> Iterator[Part]:
        present = self.dataset.table.parts_present()
        return (part for part in PARTS if part in present)

    def stored_of(self, part: Part) -> StoredFeatures:
        """The features of the last samples of a part, whose images are gone."""
        if self.stored is None:
            return StoredFeatures(np.empty((0, 0), np.float32), np.empty(0, np.float32))
        return self.stored.take(self.dataset.table.parts[-len(self.stored) :] == PARTS.index(part))

    def with_files(self, part: Part) -> Dataset:
        """The samples of a part whose images are there."""
        dataset = self[part]
        if self.stored is None:
            return dataset
        return dataset.with_samples(dataset.table.take(np.arange(len(dataset) - len(self.stored_of(part)))))

    def counts(self) -> dict[Part, dict[str, int]]:
        """Number of samples of each class in each part, in class order, including zeros."""
        return {part: self[part].counts() for part in self}

    @property
    def train(self) -> Dataset:
        """Training set."""
        return self["train"]

    @property
    def val(self) -> Dataset:
        """Validation set: for model selection and calibration."""
        return self["val"]

    @property
    def test(self) -> Dataset:
        """Test set: for the final evaluation alone."""
        return self["test"]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in output order."""
        return self.dataset.classes
