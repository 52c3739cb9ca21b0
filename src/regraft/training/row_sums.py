"""Sums over the rows of a part, which are the same with one process as with many.

The images of a part are divided into at most 16 shards, by their number alone. Each shard belongs to one process, which
needs only the rows of its own shards. A sum over rows is a float64 sum for each shard; the shards of all processes come
together in one buffer, where each process leaves zeros for the shards of the others, and are added in their order. So
the result has the same bits for any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from regraft.distributed import all_reduce_sum, rank, world_size

#: Images of a shard, where that gives no more than so many shards.
IMAGES_PER_SHARD, MAX_SHARDS = 4096, 16
#: Values of the partial sums that a process has in memory, and sends at once, or those of one shard.
_BUFFER_VALUES = 4_000_000


def shard_bounds(count: int) -> np.ndarray:
    """Bounds of the shards of `count` images: shard v has the images from `bounds[v]` to before `bounds[v + 1]`."""
    shards = min(MAX_SHARDS, max(1, -(-count // IMAGES_PER_SHARD)))
    return np.arange(shards + 1, dtype=np.int64) * count // shards


def own_shards(shards: int) -> range:
    """Numbers of the shards that belong to this process."""
    return range(rank(), shards, world_size())


def most_rows(count: int, processes: int) -> int:
    """The most images, of `count`, whose rows one of so many processes holds."""
    bounds = shard_bounds(count)
    sizes = np.diff(bounds)
    return int(max(sizes[first::processes].sum() for first in range(min(processes, len(sizes)))))


def own_rows(count: int) -> np.ndarray:
    """Numbers of the images, of `count`, whose rows this process holds, int64: those of its own shards, in order."""
    bounds = shard_bounds(count)
    parts = [np.arange(bounds[v], bounds[v + 1]) for v in own_shards(len(bounds) - 1)]
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])


def sum_over_shards(partial: Callable[[int], torch.Tensor], shards: int, size: int) -> torch.Tensor:
    """Add the results of `partial` for every shard: float64 (size,) on the CPU, the same in every process.

    `partial` is called with the numbers of this process's own shards and returns (size,) tensors. Every process must
    call this function in the same order.
    """
    if shards == world_size() == 1:
        return partial(0).to("cpu", torch.float64)
    total = torch.zeros(size, dtype=torch.float64)
    at_once = max(1, _BUFFER_VALUES // size)
    # In a round every process adds up a few of its shards, so that all compute at once.
    for first in range(0, shards, at_once * world_size()):
        end = min(first + at_once * world_size(), shards)
        own = {shard: partial(shard) for shard in own_shards(shards) if first <= shard < end}
        for start in range(first, end, at_once):
            buffer = torch.zeros(min(at_once, end - start), size, dtype=torch.float64)
            for row in range(len(buffer)):
                if (part := own.pop(start + row, None)) is not None:
                    buffer[row] = part
            for part in all_reduce_sum(buffer):
                total += part
    return total


def gather_rows(
    rows_of: Callable[[int], torch.Tensor], bounds: np.ndarray, width: int, device: torch.device | None = None
) -> torch.Tensor:
    """One row for every image, float32 (N, width), the same in every process.

    `rows_of` is called with the numbers of this process's own shards and returns the rows of their images.
    """
    gathered = torch.zeros(int(bounds[-1]), width, device=device)
    for shard in own_shards(len(bounds) - 1):
        gathered[bounds[shard] : bounds[shard + 1]] = rows_of(shard)
    return all_reduce_sum(gathered)
