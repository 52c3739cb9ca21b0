"""The processes that run one training together, started by torchrun, SLURM's srun, `--processes` or Ray.

Without them every function works as in the one process of rank 0. The words are those of torch.distributed.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def is_distributed() -> bool:
    """Whether several processes run this training."""
    return world_size() > 1


def rank() -> int:
    """The number of this process, from 0."""
    dist = _process_group()
    return 0 if dist is None else int(dist.get_rank())


def world_size() -> int:
    """The number of processes."""
    dist = _process_group()
    return 1 if dist is None else int(dist.get_world_size())


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of this tensor over all processes, in place; the tensor itself where there is one process."""
    dist = _process_group()
    if dist is not None:
        dist.all_reduce(tensor)
    return tensor


def barrier() -> None:
    """Wait until every process is here."""
    dist = _process_group()
    if dist is not None:
        dist.barrier()


def _process_group() -> Any:
    """The module `torch.distributed` if this process is in a group, else None."""
    torch = sys.modules.get("torch")  # a process that has not loaded it is in no group
    dist = getattr(torch, "distributed", None)
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None
