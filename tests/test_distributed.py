"""One process, and two that add up numbers."""

from __future__ import annotations

import subprocess
import sys

import torch

from regraft import distributed

SCRIPT = """
import torch
from regraft import distributed
torch.distributed.init_process_group("gloo")
total = distributed.all_reduce_sum(torch.tensor([1.0 + distributed.rank()], dtype=torch.float64))
distributed.barrier()
print(distributed.is_distributed(), distributed.world_size(), float(total), flush=True)
torch.distributed.destroy_process_group()
"""


def test_without_a_group_there_is_one_process() -> None:
    values = torch.arange(3.0)
    assert (distributed.rank(), distributed.world_size(), distributed.is_distributed()) == (0, 1, False)
    assert distributed.all_reduce_sum(values) is values
    assert values.tolist() == [0.0, 1.0, 2.0]
    distributed.barrier()


def test_two_processes_add_up() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    result = subprocess.run(
        [*command, sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[:2] == ["True 2 3.0"] * 2
