"""Images in memory with their labels as samples, which have made-up names instead of paths."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from regraft.data.band_values import choose_bands_of_arrays
from regraft.data.decode import all_bands, decode_image, floats_to_uint8, pixels_sha256
from regraft.data.labels import LabelOptions, Task, join_labels, number_text
from regraft.data.samples import Sample
from regraft.errors import DataError, ImageError


@dataclass(frozen=True)
class ArraySamples:
    """Samples of arrays, their pixels by name, what they were taken for, and the bands that are used; (): colors."""

    samples: tuple[Sample, ...]
    arrays: dict[str, np.ndarray]
    task: Task
    band_numbers: tuple[int, ...]


def read_arrays(
    images: Sequence[np.ndarray] | np.ndarray,
    labels: Sequence[str] | Sequence[Collection[str]] | Sequence[float],
    groups: Sequence[str | None] | None,
    task: Task | Literal["auto"],
    bands: str,
) -> ArraySamples:
    """Check and convert images and labels as `Dataset.from_arrays` takes them, and raise as it does."""
    LabelOptions(task)  # which refuses another task
    groups = [None] * len(labels) if groups is None else groups
    if not len(images) == len(labels) == len(groups):
        lengths = f"{len(images)} images, {len(labels)} labels and {len(groups)} groups"
        raise DataError(f"{lengths}; expected one label, and one group if any, for each image.")
    names = [f"images[{i}]" for i in range(len(images))]
    chosen = choose_bands_of_arrays(bands, names, [np.asarray(image) for image in images])
    if not chosen and isinstance(images, np.ndarray) and np.issubdtype(images.dtype, np.floating):
        images = floats_to_uint8(images)
    arrays: dict[str, np.ndarray] = {}
    for i, (name, image) in enumerate(zip(names, images, strict=True)):
        try:
            values = np.asarray(image)
            arrays[f"array-{i:07d}"] = all_bands(values).values if chosen else decode_image(values)
        except ImageError as error:
            raise ImageError(error.reason, name, error.code) from error
    are_several = any(isinstance(label, (list, tuple, set, frozenset)) for label in labels)
    found: Task = "multilabel" if are_several else "classification"
    found = found if task == "auto" else task
    samples = []
    for (path, array), label, group in zip(arrays.items(), labels, groups, strict=True):
        group, size = None if group is None else str(group), (array.shape[1], array.shape[0])
        samples.append(Sample(path, _label_text(label, found), pixels_sha256(array), group=group, size=size))
    return ArraySamples(tuple(samples), arrays, found, chosen)


def _label_text(label: Any, task: Task) -> str:
    """The label of an image in memory as a sample has it."""
    if task == "multilabel":
        return join_labels([label] if isinstance(label, str) else map(str, label))
    try:
        return str(label) if task == "classification" else number_text(str(label))
    except ValueError as error:
        raise DataError(f"The label {error}.") from error
