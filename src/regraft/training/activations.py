"""Activations of N images in K views at a boundary, as the tail of the network reads them.

Input: tensors, or rows of tables on disk or in memory. Output: batches of activations, in order or drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from regraft.cache import Table
from regraft.models.staged import StageOutput
from regraft.training.device import has_room
from regraft.training.memory_cache import MemoryTable


@dataclass(frozen=True)
class CachedTensor:
    """A row for each of K views of N images: a tensor (K, N, ...), or rows of a table on disk or in memory.

    `numbers` are the row numbers in the table, int64 (K, N), or None for a tensor; `dtype` is the type in the table.
    """

    values: torch.Tensor | Table | MemoryTable
    numbers: np.ndarray | None = None
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> tuple[int, int]:
        """(K, N)."""
        shape = self.values.shape if isinstance(self.values, torch.Tensor) else self.numbers.shape  # type: ignore[union-attr]  # a table has numbers
        return int(shape[0]), int(shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        if isinstance(self.values, torch.Tensor):
            return self.values.nbytes
        return int(np.prod(self.shape)) * self.values.row_bytes

    def loaded(self, device: torch.device) -> CachedTensor:
        """Copy all rows into the memory of a device."""
        views, count = self.shape
        first = self.take(0, slice(1))
        values = torch.empty(views, count, *first.shape[1:], dtype=first.dtype, device=device)
        for view in range(views):
            for start in range(0, count, 256):
                rows = slice(start, start + 256)
                values[view, rows] = self.take(view, rows).to(device)
        return CachedTensor(values)

    def take(self, view: int | np.ndarray, images: slice | np.ndarray) -> torch.Tensor:
        """The rows of some images, (n, ...): all in one view, or each in its own."""
        if isinstance(self.values, torch.Tensor):
            index = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
            rows = self.values[torch.from_numpy(view) if isinstance(view, np.ndarray) else view, index]
        else:
            assert self.numbers is not None
            rows = torch.from_numpy(self.values.read(self.numbers[view, images])).view(self.dtype)
        return rows.contiguous(memory_format=torch.channels_last) if rows.ndim == 4 else rows


class ActivationSource(Protocol):
    """Activations of N images at a boundary, stored or computed when they are read; see `Activations`."""

    @property
    def boundary(self) -> int:
        """Index of the first stage that the images have not passed."""

    @property
    def views(self) -> int:
        """K, views of each image that can be read."""

    def __len__(self) -> int:
        """N."""

    def batches(self, view: int, parts: Sequence[slice]) -> Iterator[StageOutput]:
        """One group of images after the other, in one view."""

    def batch(self, view: int, images: slice) -> StageOutput:
        """Some images in one view."""

    def sample(self, indices: np.ndarray, key: int, chosen: np.ndarray | slice = slice(None)) -> StageOutput:
        """One random view of each of some images, drawn by the key; only those at the places `chosen` are read."""

    def loaded(self, device: torch.device) -> ActivationSource:
        """The same, in the memory of a GPU if it fits there."""


@dataclass(frozen=True)
class Activations:
    """Activations of K views of N images at a boundary.

    `boundary` is the index of the first stage that the images have not passed, and `rows` the output of the stage
    before it. `taps` are pooled outputs of the lower stages that the head reads; None where it reads only the last.
    """

    boundary: int
    rows: CachedTensor
    taps: CachedTensor | None = None

    @property
    def views(self) -> int:
        """K, views of each image."""
        return self.rows.shape[0]

    def __len__(self) -> int:
        return self.rows.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.rows.nbytes + (0 if self.taps is None else self.taps.nbytes)

    def batch(self, view: int | np.ndarray, images: slice | np.ndarray) -> StageOutput:
        """Some images: all in one view, or each in its own."""
        values = self.rows.take(view, images)
        return StageOutput(
            values, values.new_empty(len(values), 0) if self.taps is None else self.taps.take(view, images)
        )

    def batches(self, view: int, parts: Sequence[slice]) -> Iterator[StageOutput]:
        """One group of images after the other, in one view."""
        return (self.batch(view, part) for part in parts)

    def loaded(self, device: torch.device) -> Activations:
        """Copy all rows to a GPU if they fit into half of its free memory; else return self."""
        if not has_room(device, self.nbytes):
            return self
        parts = [rows for rows in (self.rows, self.taps) if rows is not None]
        return Activations(self.boundary, *(rows.loaded(device) for rows in parts))

    def sample(self, indices: np.ndarray, key: int, chosen: np.ndarray | slice = slice(None)) -> StageOutput:
        """One random view of each of some images, drawn by the key; only those at the places `chosen` are read."""
        return self.batch(self.draw_views(len(indices), key)[chosen], indices[chosen])

    def draw_views(self, count: int, key: int) -> np.ndarray:
        """The view of each of `count` images that `sample` reads by this key, int64 (count,)."""
        return np.random.default_rng(key).integers(self.views, size=count)
