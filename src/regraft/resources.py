"""CPUs and memory that this process may use, and how its threads wait; every pool of threads or processes asks here.

The system's own numbers are those of the whole machine. A process may be bound to a few CPUs (`taskset`, SLURM) or
limited by a control group (`docker --cpus=2`, Kubernetes), where more threads than CPUs take turns.
"""

from __future__ import annotations

import math
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

#: The number of threads that the user wants; worker processes inherit it.
THREADS_VARIABLE = "REGRAFT_THREADS"
#: Threads wait for each other by spinning, which takes the CPU from the thread that is waited for as soon as another
#: program runs, too. A short spin leaves it (docs/decisions/threads.md).
_WAITING = {
    "GOMP_SPINCOUNT": "10000",  # GNU: rounds
    "KMP_BLOCKTIME": "1",  # LLVM and Intel: milliseconds
}
#: Bytes of the buffer that OpenBLAS takes at its first product, and as many for what comes with it.
_BLAS_BYTES = 2**26
#: Variables by which libraries choose their number of threads when they are loaded.
_THREAD_COUNTS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
#: Set by torchrun: the number of processes on this machine, which share its CPUs.
_LOCAL_PROCESSES = "LOCAL_WORLD_SIZE"


def usable_cpus() -> int:
    """Number of CPUs that this process may use, at least 1.

    It is the smallest of the CPUs that the process is bound to, the quota of its control groups (versions 1 and 2,
    rounded up), SLURM_CPUS_PER_TASK and REGRAFT_THREADS. The processes that torchrun starts on a machine share them
    equally, as do SLURM's tasks the CPUs of their node.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    counts = [len(affinity(0)) if affinity else os.cpu_count() or 1, *_quotas()]
    counts += [int(value) for name in ("SLURM_CPUS_PER_TASK", THREADS_VARIABLE) if (value := _digits(name))]
    counts += [on_node // tasks for on_node, tasks in _slurm_shares() if not _is_alone]
    return max(1, min(counts) // (1 if _is_alone else int(_digits(_LOCAL_PROCESSES) or 1)))


@contextmanager
def alone_on_machine() -> Iterator[None]:
    """Use all CPUs within the block, because the other processes of a distributed training wait for this one."""
    global _is_alone
    before, _is_alone = _is_alone, True
    try:
        yield
    finally:
        _is_alone = before


_is_alone = False


def usable_memory() -> int | None:
    """Bytes of memory that this process may use: the machine's, or less in a control group; None if unknown."""
    try:
        sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, OSError, ValueError):
        sizes = []
    for name in ("memory.max", "memory.limit_in_bytes"):
        sizes += [int(text) for text in _cgroup_values(name, "memory") if text.isdigit()]
    return min(sizes, default=None)


def configure_threads() -> None:
    """Tell libraries that are loaded later how many threads to use and to spin briefly; variables that are set stay.

    If PyTorch is loaded already, only its number of threads can be lowered.
    """
    for name, value in _WAITING.items():
        os.environ.setdefault(name, value)
    count = usable_cpus()
    if _digits(_LOCAL_PROCESSES) and os.environ.get("OMP_NUM_THREADS") == "1":
        del os.environ["OMP_NUM_THREADS"]  # torchrun's default, whatever the number of CPUs; --threads limits them
    if count < (os.cpu_count() or 1):
        for name in _THREAD_COUNTS:
            os.environ.setdefault(name, str(count))
    torch = sys.modules.get("torch")
    if torch and hasattr(torch, "set_num_threads") and torch.get_num_threads() > count:
        torch.set_num_threads(count)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Run NumPy's and SciPy's products in the calling thread within the block: small ones, or those of own threads.

    Raises `MemoryError` where there is no room for OpenBLAS, which would try again without an end.
    """
    try:
        mmap.mmap(-1, _BLAS_BYTES).close()
    except OSError as error:
        raise MemoryError(f"no room for {_BLAS_BYTES} bytes of OpenBLAS") from error
    with _blas(hasattr(sys.modules.get("scipy.linalg"), "solve")).limit(limits=1, user_api="blas"):
        yield


@cache
def _blas(with_scipy: bool) -> ThreadpoolController:
    """The libraries that are loaded now; finding them took a third of the time of a small fit. SciPy has its own."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def limit_threads(count: int) -> None:
    """Use at most `count` threads in this process and in those that it starts; called before libraries are loaded."""
    os.environ[THREADS_VARIABLE] = str(count)
    os.environ.update(dict.fromkeys(_THREAD_COUNTS, str(usable_cpus())))
    configure_threads()


def _digits(name: str) -> str | None:
    value = os.environ.get(name, "").strip()
    return value if value.isdigit() and int(value) else None


def _slurm_shares() -> list[tuple[int, int]]:
    """CPUs of this node that SLURM gives a job step, and the number of its tasks here; empty without srun."""
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")  # such as 2(x3),1: here taken to be the first
    count, cpus = tasks.partition("(")[0].partition(",")[0], _digits("SLURM_CPUS_ON_NODE")
    return [(int(cpus), int(count))] if cpus and count.isdigit() and int(count) > 1 else []


def _quotas() -> list[int]:
    """CPUs by the quota of each control group of this process."""
    pairs = [text.split() for text in _cgroup_values("cpu.max", "cpu")]  # version 2: "200000 100000" or "max 100000"
    quotas = _cgroup_values("cpu.cfs_quota_us", "cpu")  # version 1: -1 is no limit
    pairs += [list(pair) for pair in zip(quotas, _cgroup_values("cpu.cfs_period_us", "cpu"), strict=False)]
    return [math.ceil(int(quota) / int(period)) for quota, period in pairs if quota.isdigit() and int(period)]


def _cgroup_values(file: str, controller: str) -> list[str]:
    """The content of a file in the control groups of this process, the innermost first, and those around them."""
    try:
        lines = _OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:  # another system
        return []
    values = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and controller not in controllers.split(","):
            continue
        for name in {controllers, controller} if controllers else ("", "unified"):
            root = _CGROUPS / name
            group = root / path.lstrip("/")
            for folder in (group, *group.parents):
                if folder == root.parent:
                    break
                try:
                    values.append((folder / file).read_text(encoding="utf-8").strip())
                except OSError:
                    continue
    return values
