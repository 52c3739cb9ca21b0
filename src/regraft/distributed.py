"""The processes that run one training together, started by torchrun, SLURM's srun, `--processes` or Ray.

Input: the variables that a launcher sets, or a process group that the caller started. Output: rank and number of
processes, and what they tell each other. Without a group every function works as in the one process of rank 0. The
words are those of torch.distributed.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from regraft.errors import RegraftError, UsageError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

#: How long a process waits for the others. Rank 0 alone scans the data and writes the report, which may take hours; a
#: process that ended is noticed at once, because its connections close and its launcher ends the others.
TIMEOUT = timedelta(hours=6)
#: How long the processes have to find each other: a cluster does not start all of them at once.
_START_TIMEOUT = timedelta(minutes=10)
#: Names in the store that the processes share: the process that reports an error, and the versions of rank 0.
_REPORTER = "regraft/reporter"


class PeerError(RegraftError):
    """Another process of this training ended or failed, and says why itself."""


@dataclass(frozen=True)
class Launch:
    """What a launcher says about this process: of all processes, of those on this machine, and where rank 0 is."""

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int


@dataclass
class _State:
    """What this process knows about its group."""

    store: Any = None  # of a group that this module started
    communication_seconds: float = 0.0
    gpu_events: list[tuple[Any, Any]] = field(default_factory=list)  # before and after each communication of the GPU
    defers_interrupts: bool = False
    is_interrupted: bool = False


_state = _State()


def launch_of(environment: Mapping[str, str]) -> Launch | None:
    """The launch that the variables of torchrun, or else of SLURM's srun, describe; None for one process.

    Raises `UsageError` if torchrun's variables are incomplete.
    """
    if "RANK" in environment and int(environment.get("WORLD_SIZE", "1")) > 1:
        missing = [name for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
        if missing:
            raise UsageError(
                f"RANK and WORLD_SIZE are set, and {' and '.join(missing)} not. Start the processes with torchrun, "
                "srun or --processes, or unset RANK and WORLD_SIZE."
            )
        rank, world_size, local_rank = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        return Launch(rank, world_size, local_rank, environment["MASTER_ADDR"], int(environment["MASTER_PORT"]))
    # A job step has its own number of tasks; a batch script without srun is one process.
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or "1")
    if "RANK" in environment or "SLURM_PROCID" not in environment or tasks < 2:
        return None
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST") or "127.0.0.1"
    job = int(environment.get("SLURM_JOB_ID", "0")) + int(environment.get("SLURM_STEP_ID", "0"))
    return Launch(
        int(environment["SLURM_PROCID"]),
        tasks,
        int(environment.get("SLURM_LOCALID", "0")),
        environment.get("MASTER_ADDR") or first_node(nodes),
        int(environment.get("MASTER_PORT") or 15000 + job % 20000),
    )


def first_node(nodes: str) -> str:
    """The first host name of a SLURM list such as `gpu[03-05,9],login`."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\]([^,]*))?", nodes)
    return "".join(part or "" for part in match.groups()) if match else nodes


def launch() -> Launch | None:
    """The launch of this process; None if it is alone."""
    return launch_of(os.environ)


@contextmanager
def process_group() -> Iterator[None]:
    """Start the group of the processes that were launched together, and end it after the block.

    It does nothing in one process and in a group that the caller started. An error that another process reports, too,
    becomes a `PeerError`, so that it is reported once. Raises `UsageError` if a process has no GPU of its own, and
    `RegraftError` if the processes do not find each other.
    """
    launched = None if _process_group() else launch()
    if launched is None:
        yield
        return
    _start(launched)
    import torch.distributed as dist

    has_failed = True
    try:
        yield
        has_failed = False
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, PeerError):
            raise
        if not _is_first_error():
            raise PeerError(f"Another process of this training has failed, too: {error}") from error
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)  # for torchrun's summary
        raise
    finally:
        _state.store = None
        # After a failure NCCL would wait for what the others will never send.
        if not has_failed or "nccl" not in dist.get_backend_config():
            with suppress(RuntimeError):
                dist.destroy_process_group()


def _start(launched: Launch) -> None:
    import torch
    import torch.distributed as dist

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus:
        # SLURM may show each task its own GPU alone.
        number = 0 if gpus == 1 and "RANK" not in os.environ else launched.local_rank
        if number >= gpus:
            raise UsageError(
                f"Process {launched.local_rank + 1} of this machine has no GPU of its own: there are {gpus}. Start "
                f"{gpus} processes for each machine, or hide the GPUs (CUDA_VISIBLE_DEVICES='')."
            )
        torch.cuda.set_device(number)
    try:
        # The launcher keeps the store, so that it outlives rank 0; else it belongs to rank 0.
        is_kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        store: Any = dist.TCPStore(  # type: ignore[attr-defined]  # of the C library
            launched.address, launched.port, launched.world_size, launched.rank == 0 and not is_kept, _START_TIMEOUT,
            multi_tenant=True,
        )  # fmt: skip
        # After a restart by the launcher, names in its store are those of the processes before.
        store = dist.PrefixStore(f"regraft-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)  # type: ignore[attr-defined]
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpus else "gloo", store=store, rank=launched.rank, world_size=launched.world_size,
            timeout=TIMEOUT,
        )  # fmt: skip
        dist.barrier()
    except RuntimeError as error:
        raise RegraftError(
            f"The {launched.world_size} processes did not find each other at {launched.address}:{launched.port} within "
            f"{_START_TIMEOUT.total_seconds() / 60:g} minutes ({str(error).splitlines()[0]}). Check that all of them "
            "were started and that this address is that of rank 0."
        ) from error
    _state.store = store


def _is_first_error() -> bool:
    """Whether no other process has reported an error; False if that cannot be found out, because rank 0 is gone."""
    try:
        return bool(_state.store.compare_set(_REPORTER, "", str(rank())) == str(rank()).encode())
    except RuntimeError:
        return False


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


def share(count: int) -> slice:
    """The part of `count` things that this process takes; the parts differ by at most one, and may be empty."""
    number, processes = rank(), world_size()
    return slice(count * number // processes, count * (number + 1) // processes)


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of this tensor over all processes, in place; the tensor itself where there is one process."""
    dist = _process_group()
    if dist is None:
        return tensor
    is_for_gpus = tensor.device.type == "cpu" and "cpu:" not in dist.get_backend_config()  # this group
    sent = tensor.cuda() if is_for_gpus else tensor
    with _communication(sent):
        dist.all_reduce(sent)
    return tensor.copy_(sent) if is_for_gpus else tensor


def broadcast(value: T) -> T:
    """The value of rank 0, on every process: something small that can be pickled."""
    dist = _process_group()
    if dist is None:
        return value
    values: list[Any] = [value if rank() == 0 else None]
    with _communication():
        dist.broadcast_object_list(values, src=0)
    return values[0]  # type: ignore[no-any-return]


def broadcast_tensors(tensors: list[torch.Tensor]) -> None:
    """Replace the tensors by those of rank 0, in place."""
    for tensor in tensors if is_distributed() else []:
        if rank():
            tensor.zero_()
        all_reduce_sum(tensor)


def all_gather(value: T) -> list[T]:
    """The values of all processes, by rank: something small that can be pickled."""
    dist = _process_group()
    if dist is None:
        return [value]
    values: list[Any] = [None] * world_size()
    with _communication():
        dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait until every process is here."""
    dist = _process_group()
    if dist is not None:
        with _communication():
            dist.barrier()


def on_rank_0(work: Callable[[], T]) -> T:
    """What the work gives on rank 0, on every process.

    An error of rank 0 ends all of them: `PeerError` on the others.
    """
    if not is_distributed():
        return work()
    if rank():
        value, error = broadcast((None, ""))
        if error:
            raise PeerError(f"Process 0 has failed: {error}")
        return value  # type: ignore[return-value]
    try:
        value = work()
    except BaseException as error:
        broadcast((None, str(error) or type(error).__name__))
        raise
    return broadcast((value, ""))[0]


def first_on_rank_0(work: Callable[[], T]) -> T:
    """Do some work on rank 0 and then on the others, which find in the cache what rank 0 has put there."""
    done: list[T] = []
    on_rank_0(lambda: done.append(work()))
    return done[0] if done else work()


def check_equal(what: str, value: object) -> None:
    """Raise `RegraftError` unless all processes have an equal value; its text is part of the message."""
    values = all_gather(value)
    for number, other in enumerate(values):
        if other != values[0]:
            raise RegraftError(
                f"The processes of this training have different {what}: process 0 has {values[0]}, and process "
                f"{number} has {other}. They must be the same on all machines."
            )


def check_shared(folder: Path, advice: str) -> None:
    """Raise `RegraftError` unless all processes see the same folder; the advice says how to change that."""
    if not is_distributed():
        return
    token = folder / f".shared-{broadcast(uuid.uuid4().hex)}"

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        token.touch()

    on_rank_0(write)
    unseen, first = [number for number, sees in enumerate(all_gather(token.exists())) if not sees], broadcast(folder)
    if rank() == 0:
        token.unlink(missing_ok=True)
    if unseen:
        raise RegraftError(f"Process {unseen[0]} does not see the folder {first} of process 0. {advice}")


def communication_seconds() -> float:
    """Seconds that this process has spent in communication, waiting for the others included."""
    for before, after in _state.gpu_events:
        after.synchronize()
        _state.communication_seconds += before.elapsed_time(after) / 1000
    _state.gpu_events.clear()
    return _state.communication_seconds


@contextmanager
def _communication(tensor: torch.Tensor | None = None) -> Iterator[None]:
    """Measure a collective operation; `PeerError` if another process is gone."""
    on_gpu = tensor is not None and tensor.is_cuda  # which works on while this process goes on
    started, events = time.perf_counter(), _gpu_events() if on_gpu else None
    try:
        if events:
            events[0].record()
        yield
        if events:
            events[1].record()
            _state.gpu_events.append(events)
    except RuntimeError as error:
        import torch

        if isinstance(error, torch.cuda.OutOfMemoryError):  # of this process; the class of every device
            raise
        raise PeerError("Another process of this training has ended or does not answer.") from error
    finally:
        _state.communication_seconds += 0.0 if on_gpu else time.perf_counter() - started


def _gpu_events() -> tuple[Any, Any]:
    import torch

    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    return before, after


@contextmanager
def deferred_interrupt() -> Iterator[None]:
    """Let Ctrl-C end all processes at the same step: within the block it only sets what `is_interrupted` says.

    After the block, `KeyboardInterrupt` is raised on all processes if one of them was interrupted. A second Ctrl-C ends
    this process at once. One process is interrupted as ever.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_distributed() or not is_main or _state.defers_interrupts:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if _state.is_interrupted:
            raise KeyboardInterrupt
        _state.is_interrupted = True

    before = signal.signal(signal.SIGINT, interrupt)
    _state.defers_interrupts, _state.is_interrupted = True, False
    try:
        yield
        _state.is_interrupted = any(all_gather(_state.is_interrupted))
        if _state.is_interrupted:
            raise KeyboardInterrupt
    finally:
        _state.defers_interrupts = False
        signal.signal(signal.SIGINT, before)


def is_interrupted() -> bool:
    """Whether Ctrl-C was pressed in a block of `deferred_interrupt`; after it, on any process."""
    return _state.is_interrupted


def _process_group() -> Any:
    """The module `torch.distributed` if this process is in a group, else None."""
    dist = sys.modules.get("torch.distributed")  # a process that has not loaded it, or is just loading it, is in none
    is_initialized = getattr(dist, "is_initialized", None)
    return dist if is_initialized is not None and is_initialized() else None
