"""One process, and two that add up numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from regraft import distributed
from regraft.distributed import Launch, PeerError, first_node, launch_of
from regraft.errors import UsageError

SCRIPT = """
import sys
import torch
from regraft import distributed
torch.distributed.init_process_group("gloo")
total = distributed.all_reduce_sum(torch.tensor([1.0 + distributed.rank()], dtype=torch.float64))
distributed.barrier()
sys.stdout.write(f"{distributed.is_distributed()} {distributed.world_size()} {float(total)}\\n")  # in one piece
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


TOGETHER = """
import sys
from pathlib import Path
import torch
from regraft import distributed
from regraft.errors import RegraftError
from regraft.training.gradient_sum import GradientSum

def attempt(work):
    try:
        return work()
    except RegraftError as error:
        return type(error).__name__, str(error)

def fail():
    raise RegraftError("the disk is full")

with distributed.process_group():
    rank = distributed.rank()
    print(distributed.broadcast(rank + 7), distributed.all_gather(rank), distributed.on_rank_0(lambda: rank + 5))
    print(attempt(lambda: distributed.on_rank_0(fail)))
    print(attempt(lambda: distributed.check_equal("versions", 2 + rank)))
    used, unused, elsewhere = (torch.zeros(2, requires_grad=True) for _ in range(3))
    used.grad = torch.full((2,), 1.0 + rank)
    elsewhere.grad = torch.ones(2) if rank else None
    print(GradientSum([used, unused, elsewhere])(torch.tensor([1.0])).tolist())
    print(used.grad.tolist(), unused.grad, elsewhere.grad.tolist())
    print(attempt(lambda: distributed.check_shared(Path(sys.argv[1], str(rank)), "Share it.")))
    print(distributed.share(3), distributed.communication_seconds() > 0)
print(distributed.is_distributed())
"""


def test_what_processes_tell_each_other(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    logs = ["--log-dir", str(tmp_path), "--redirects", "3"]
    result = subprocess.run(
        [*command, *logs, sys.executable, "-c", TOGETHER, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    first, second = ((file.read_text().splitlines()) for file in sorted(tmp_path.rglob("stdout.log")))
    different = (
        "('RegraftError', 'The processes of this training have different versions: process 0 has 2, and process 1"
    )
    assert first[:3] == [
        "7 [0, 1] 5",
        "('RegraftError', 'the disk is full')",
        f"{different} has 3. They must be the same on all machines.')",
    ]
    assert second[:3] == [first[0], "('PeerError', 'Process 0 has failed: the disk is full')", first[2]]
    # A parameter that no process used has no gradient, one that a single process used has its gradient everywhere.
    assert first[3:5] == second[3:5] == ["[2.0]", "[3.0, 3.0] None [1.0, 1.0]"]
    unseen = f"('RegraftError', 'Process 1 does not see the folder {tmp_path / '0'} of process 0. Share it.')"
    assert first[5] == second[5] == unseen
    assert first[6:] == ["slice(0, 1, None) True", "False"]
    assert second[6:] == ["slice(1, 3, None) True", "False"]


def test_an_error_of_memory_is_that_of_this_process_and_any_other_of_a_peer() -> None:
    with pytest.raises(torch.cuda.OutOfMemoryError), distributed._communication():
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    class FullError(torch.cuda.OutOfMemoryError):
        pass

    with pytest.raises(FullError), distributed._communication():
        raise FullError
    for error in (RuntimeError("connection closed"), type("OutOfMemoryError", (RuntimeError,), {})()):
        with pytest.raises(PeerError), distributed._communication():
            raise error


def test_a_launch_is_read_from_the_variables_of_torchrun_or_slurm() -> None:
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}
    assert launch_of(torchrun) == Launch(3, 4, 1, "a", 29500)
    slurm = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "SLURM_NODELIST": "gpu[07-08],login"}
    assert launch_of(slurm) == Launch(3, 4, 1, "gpu07", 15000)
    assert launch_of(slurm | {"SLURM_JOB_ID": "41"}).port == 15041  # type: ignore[union-attr]
    assert launch_of(slurm | torchrun | {"RANK": "0"}) == Launch(0, 4, 1, "a", 29500)
    # One process of torchrun in a job of many tasks, a job step of one task, one task, and nothing at all.
    for alone in (
        slurm | {"RANK": "0", "WORLD_SIZE": "1"},
        slurm | {"SLURM_STEP_NUM_TASKS": "1"},
        {**slurm, "SLURM_NTASKS": "1"},
        {"SLURM_NTASKS": "4"},
        {},
    ):
        assert launch_of(alone) is None
    with pytest.raises(UsageError, match="LOCAL_RANK and MASTER_ADDR and MASTER_PORT not"):
        launch_of({"RANK": "0", "WORLD_SIZE": "2"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[03-05,9],login", "gpu03"), ("node7", "node7"), ("a,b", "a"), ("n[1,3]-ib", "n1-ib")],
)
def test_the_first_node_of_a_list(nodes: str, first: str) -> None:
    assert first_node(nodes) == first
