"""Probabilities as the targets of a training, and unlabeled images that train beside the labeled ones.

Input: the training images and those without labels, and probabilities for both. Output: one data set, whose first
images are the labeled ones, and one table of targets. Whoever makes the probabilities (a teacher, a graph) is no
matter here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from regraft.data.dataset import Dataset, Split
from regraft.data.image_stats import STATS_DTYPE
from regraft.data.samples import PARTS, Columns, SampleTable
from regraft.data.storage import CombinedStorage, Folder
from regraft.data.strings import Names, concatenate, in_blocks, string_array
from regraft.errors import UsageError
from regraft.text import pluralize


@dataclass(frozen=True, eq=False)
class SoftTargets:
    """Target probabilities of a training, which replace the labels of its images in the loss.

    Attributes:
        train: Targets of K views of the N training images, the plain one first, float32 (K, N, classes); each row has
            the sum 1, unless an image has any number of classes. Where K is 1, all views have the same. With more, K is
            at least the number of cached views.
        unlabeled: Those of the M images without labels of the split, float32 (K, M, classes), which train beside them,
            of the same views; None: the split has none.
    """

    train: np.ndarray
    unlabeled: np.ndarray | None = None

    def check(self, split: Split, views: int) -> None:
        """Raise `UsageError` unless there is one row of probabilities for each image, or each of its `views`."""
        count = 0 if split.unlabeled is None else len(split.unlabeled)
        unlabeled = self.train[:, :0] if self.unlabeled is None else self.unlabeled
        if len(unlabeled) != len(self.train):
            raise UsageError(
                f"There are targets of {pluralize(len(self.train), 'view')} of each training image, and of "
                f"{len(unlabeled)} of each unlabeled one; expected the same views."
            )
        for what, rows, images in (("training", self.train, len(split.train)), ("unlabeled", unlabeled, count)):
            if rows.shape[1:] != (images, len(split.classes)) or not (len(rows) == 1 or len(rows) >= views):
                raise UsageError(
                    f"The targets of {images} {what} images have the shape {rows.shape}; expected "
                    f"(1 or {views}, {images}, {len(split.classes)})."
                )
            several = split.dataset.task == "multilabel"
            are_shares = several or np.allclose(rows.sum(axis=2), 1, atol=1e-3)
            if not ((rows >= 0).all() and (rows <= 1 + 1e-3).all() and are_shares):
                expected = "numbers from 0 to 1" if several else "rows with sum 1"
                raise UsageError(f"The targets of the {what} images are no probabilities: expected {expected}.")

    def plain(self) -> torch.Tensor:
        """Targets of the plain views, first of the labeled images, then of the others, float32 (N + M, classes)."""
        return self._beside(0)

    @cached_property
    def of_views(self) -> torch.Tensor | None:
        """Targets of the K views of the same images, (K, N + M, classes); None if they do not differ."""
        return self._beside(slice(None)) if len(self.train) > 1 else None

    def digest(self) -> str:
        """A hash of the targets of the plain views, and of whether those of others differ."""
        hashed = hashlib.blake2b(self.plain().numpy().tobytes(), digest_size=16)
        hashed.update(bytes([len(self.train) > 1]))
        return hashed.hexdigest()

    def _beside(self, views: int | slice) -> torch.Tensor:
        parts = [part[views] for part in (self.train, self.unlabeled) if part is not None]
        return torch.from_numpy(np.concatenate(parts, axis=-2, dtype=np.float32))


def beside(labeled: Dataset, unlabeled: Dataset) -> Dataset:
    """One data set of both, the labeled images first; the others have no label, no group and no near duplicates."""
    first, second = labeled.table, unlabeled.table
    none = Names.none(len(second))
    labels, groups, near, pooled = (
        Names(np.concatenate([names.codes, none.codes]), names.names)
        for names in (first.labels, first.groups, first.near_duplicates, first.pooled_groups)
    )
    columns = Columns(
        paths=concatenate([_in_folder("labeled", first.paths), _in_folder("unlabeled", second.paths)]),
        labels=labels,
        hashes=_joined_hashes(first, second),
        parts=np.full(len(first) + len(second), PARTS.index("train"), np.int8),
        groups=groups,
        sizes=np.concatenate([first.sizes, second.sizes]),
        stats=np.zeros(len(first) + len(second), STATS_DTYPE),  # no step of a training reads them
        near_duplicates=near,
        pooled_groups=pooled,
    )
    parts = {"labeled": labeled, "unlabeled": unlabeled}
    return Dataset(
        root=labeled.root,
        samples=SampleTable(columns),
        classes=labeled.classes,
        max_pixels=max(labeled.max_pixels, unlabeled.max_pixels),
        storage=CombinedStorage({name: part.storage or Folder(Path(part.root)) for name, part in parts.items()}),
        _arrays={f"{name}/{path}": array for name, part in parts.items() for path, array in part._arrays.items()},
    )


def _in_folder(folder: str, paths: np.ndarray) -> np.ndarray:
    return string_array([f"{folder}/{path}" for path in in_blocks(paths)])


def _joined_hashes(first: SampleTable, second: SampleTable) -> np.ndarray:
    if first.hashes.ndim == second.hashes.ndim == 2:
        return np.concatenate([first.hashes, second.hashes])
    return string_array([*first.sha256s(), *second.sha256s()])
