"""The rows that a head is fitted on, in chunks: a tensor in memory, or rows that are read again for every pass.

Both give the same values in the same chunks, so that the fitted head does not depend on where the features are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch

from regraft.training.row_sums import own_shards, shard_bounds

#: Rows of a chunk at most.
CHUNK_ROWS = 8192
#: Rows that are read and converted at once, which stay in the processor's cache.
_READ_ROWS = 1024


class FeatureRows(Protocol):
    """Features of K views of N images, of which a process holds those in its own shards."""

    @property
    def bounds(self) -> np.ndarray:
        """Bounds of the shards, int64, as by `shard_bounds`."""

    @property
    def views(self) -> int:
        """K."""

    @property
    def features(self) -> int:
        """F."""

    @property
    def device(self) -> torch.device:
        """Where the chunks are."""

    def chunks(self, shard: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The rows of a shard: numbers of their images, int64 (n,), and features, float32 (n, F)."""

    def plain(self) -> FeatureRows:
        """The first view alone."""

    def subset(self, images: np.ndarray) -> FeatureRows:
        """The rows of these images, int64 and rising, which are then numbered from 0; each stays in its shard."""

    def columns(self, block: slice) -> FeatureRows:
        """Some of the features of all rows, in a copy if they are in memory; before the rows are standardized."""

    def standardized(self, mean: torch.Tensor, deviation: torch.Tensor, *, consume: bool) -> FeatureRows:
        """Rows minus the mean (F,), divided by the deviation (F,); `consume` overwrites a tensor."""


def _offsets(bounds: np.ndarray) -> dict[int, int]:
    """Number of the first image of each own shard among the images that this process holds."""
    offsets, count = {}, 0
    for shard in own_shards(len(bounds) - 1):
        offsets[shard] = count
        count += int(bounds[shard + 1] - bounds[shard])
    return offsets


def _held(images: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of these images among those that this process holds, and the bounds of their shards."""
    parts = [
        images[(images >= bounds[shard]) & (images < bounds[shard + 1])] - bounds[shard] + offset
        for shard, offset in _offsets(bounds).items()
    ]
    return np.concatenate([np.empty(0, dtype=np.int64), *parts]), np.searchsorted(images, bounds)


def _pieces(bounds: np.ndarray, shard: int, views: int) -> Iterator[tuple[int, int, int]]:
    """View, first image and end of each chunk of a shard, counted in it; an empty shard has a chunk without rows."""
    count = int(bounds[shard + 1] - bounds[shard])
    for view in range(views):
        for start in range(0, max(count, 1), CHUNK_ROWS):
            yield view, start, min(start + CHUNK_ROWS, count)


class TensorRows:
    """Features in memory, float32 (K, n, F), of the n images that this process holds."""

    def __init__(self, values: torch.Tensor, bounds: np.ndarray | None = None) -> None:
        self.values = values
        self.bounds = shard_bounds(values.shape[1]) if bounds is None else bounds
        self._offset = _offsets(self.bounds)

    @property
    def views(self) -> int:
        """K."""
        return len(self.values)

    @property
    def features(self) -> int:
        """F."""
        return self.values.shape[2]

    @property
    def device(self) -> torch.device:
        """Where the tensor is."""
        return self.values.device

    def chunks(self, shard: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The rows of a shard."""
        first, end, offset = int(self.bounds[shard]), int(self.bounds[shard + 1]), self._offset[shard]
        if self.views * (end - first) <= CHUNK_ROWS:  # all views at once
            images = torch.arange(first, end, device=self.device).repeat(self.views)
            yield images, self.values[:, offset : offset + end - first].reshape(-1, self.features)
            return
        for view, start, stop in _pieces(self.bounds, shard, self.views):
            images = torch.arange(first + start, first + stop, device=self.device)
            yield images, self.values[view, offset + start : offset + stop]

    def plain(self) -> TensorRows:
        """The first view alone."""
        return TensorRows(self.values[:1], self.bounds)

    def subset(self, images: np.ndarray) -> TensorRows:
        """A copy of the rows of some images."""
        held, bounds = _held(images, self.bounds)
        return TensorRows(self.values[:, torch.from_numpy(held).to(self.device)], bounds)

    def columns(self, block: slice) -> TensorRows:
        """A copy of some of the features."""
        return TensorRows(self.values[:, :, block].clone(memory_format=torch.contiguous_format), self.bounds)

    def standardized(self, mean: torch.Tensor, deviation: torch.Tensor, *, consume: bool) -> TensorRows:
        """Rows minus the mean, divided by the deviation, in a copy unless `consume`."""
        centered = self.values.sub_(mean) if consume else self.values - mean
        return TensorRows(centered.div_(deviation), self.bounds)


@dataclass(frozen=True)
class StoredRows:
    """Features that are read chunk by chunk, in every pass.

    `read` gives the rows of one view of some of the images that this process holds, (n, F), of any floating type.
    `images` are the numbers for `read`; None: all, in order.
    """

    read: Callable[[int, slice | np.ndarray], torch.Tensor]
    views: int
    features: int
    bounds: np.ndarray
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    images: np.ndarray | None = None
    mean: torch.Tensor | None = None
    deviation: torch.Tensor | None = None

    def chunks(self, shard: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The rows of a shard, read and standardized."""
        first, end, offset = int(self.bounds[shard]), int(self.bounds[shard + 1]), _offsets(self.bounds)[shard]
        if self.views > 1 and self.views * (end - first) <= CHUNK_ROWS:
            images = torch.arange(first, end, device=self.device).repeat(self.views)
            yield images, torch.cat([self._rows(view, offset, offset + end - first) for view in range(self.views)])
            return
        for view, start, stop in _pieces(self.bounds, shard, self.views):
            images = torch.arange(first + start, first + stop, device=self.device)
            yield images, self._rows(view, offset + start, offset + stop)

    def _rows(self, view: int, start: int, stop: int) -> torch.Tensor:
        rows = torch.empty(stop - start, self.features, device=self.device)
        for begin in range(start, stop, _READ_ROWS):
            chosen = slice(begin, min(begin + _READ_ROWS, stop))
            part = rows[chosen.start - start : chosen.stop - start]
            part.copy_(self.read(view, chosen if self.images is None else self.images[chosen]))
            if self.mean is not None and self.deviation is not None:
                part.sub_(self.mean).div_(self.deviation)
        return rows

    def plain(self) -> StoredRows:
        """The first view alone."""
        return replace(self, views=1)

    def subset(self, images: np.ndarray) -> StoredRows:
        """The rows of some images."""
        held, bounds = _held(images, self.bounds)
        return replace(self, bounds=bounds, images=held if self.images is None else self.images[held])

    def columns(self, block: slice) -> StoredRows:
        """Some of the features, read from the same rows."""
        first, end, _ = block.indices(self.features)
        return replace(self, read=_Columns(self.read, slice(first, end)), features=end - first)

    def standardized(self, mean: torch.Tensor, deviation: torch.Tensor, *, consume: bool) -> StoredRows:
        """Rows that are standardized when they are read."""
        return replace(self, mean=mean, deviation=deviation)


@dataclass(frozen=True)
class _Columns:
    read: Callable[[int, slice | np.ndarray], torch.Tensor]
    block: slice

    def __call__(self, view: int, images: slice | np.ndarray) -> torch.Tensor:
        return self.read(view, images)[:, self.block]


def as_rows(features: torch.Tensor | FeatureRows) -> FeatureRows:
    """Features (N, F) or (K, N, F) as rows."""
    if isinstance(features, torch.Tensor):
        return TensorRows(features if features.ndim == 3 else features[None])
    return features
