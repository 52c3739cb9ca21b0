"""CPUs and memory of this process: affinity, control groups, SLURM, and what the user asks for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from regraft import resources


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 64 CPUs; its folder of control groups, without any limit."""
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(resources, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(resources, "_OWN_CGROUPS", tmp_path / "own")
    for name in ("SLURM_CPUS_PER_TASK", "REGRAFT_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def write(machine: Path, own: str, files: dict[str, str]) -> None:
    (machine / "own").write_text(own)
    for name, content in files.items():
        file = machine / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content + "\n")


@pytest.mark.parametrize(
    ("own", "files", "cpus"),
    [
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),  # docker --cpus=2
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "max 100000"}, 64),
        ("0::/a.slice/b.scope\n", {"a.slice/cpu.max": "300000 100000", "a.slice/b.scope/cpu.max": "max 100000"}, 3),
        ("0::/docker/1f\n", {"cpu.max": "200000 100000"}, 2),  # the container sees its own group as the root
        ("4:cpu,cpuacct:/k8s\n", {"cpu,cpuacct/k8s/cpu.cfs_quota_us": "400000",
                                  "cpu,cpuacct/k8s/cpu.cfs_period_us": "100000"}, 4),
        ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "100"}, 64),
    ],
)  # fmt: skip
def test_quotas_of_control_groups_limit_the_cpus(machine: Path, own: str, files: dict[str, str], cpus: int) -> None:
    write(machine, own, files)
    assert resources.usable_cpus() == cpus


def test_affinity_slurm_and_the_users_number_limit_the_cpus(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resources.usable_cpus() == 64
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    assert resources.usable_cpus() == 8
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5, 7})
    assert resources.usable_cpus() == 3
    monkeypatch.setenv("REGRAFT_THREADS", "2")
    assert resources.usable_cpus() == 2
    monkeypatch.setenv("REGRAFT_THREADS", "many")
    assert resources.usable_cpus() == 3


def test_memory_is_that_of_the_smallest_control_group(machine: Path) -> None:
    whole = resources.usable_memory()
    assert whole is None or whole > 1e8
    write(machine, "0::/a/b\n", {"a/memory.max": "2000000", "a/b/memory.max": "max"})
    assert resources.usable_memory() == 2_000_000
    write(machine, "3:memory:/\n", {"memory/memory.limit_in_bytes": "1000000"})
    assert resources.usable_memory() == 1_000_000


def _import_with(environment: dict[str, str]) -> list[str]:
    code = (
        "import os, regraft; names = ('GOMP_SPINCOUNT', 'KMP_BLOCKTIME', 'OMP_NUM_THREADS');"
        "print([os.environ.get(name) for name in names]); import torch; print(torch.get_num_threads())"
    )
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "KMP_", "GOMP_", "REGRAFT_T"))
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_libraries_that_are_loaded_later_spin_briefly_with_the_threads_asked_for() -> None:
    assert _import_with({"REGRAFT_THREADS": "1"}) == ["['10000', '1', '1']", "1"]
    # What the user has set stays.
    assert _import_with({"GOMP_SPINCOUNT": "7", "OMP_NUM_THREADS": "1"}) == ["['7', '1', '1']", "1"]


def test_the_processes_of_a_machine_share_its_cpus(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert resources.usable_cpus() == 8
    with resources.alone_on_machine():
        assert resources.usable_cpus() == 64
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "100")
    assert resources.usable_cpus() == 1
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "32")
    assert resources.usable_cpus() == 64  # without srun there is one process
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "4(x2),1")
    assert resources.usable_cpus() == 8


def test_torchruns_one_thread_is_not_the_users(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.setenv(name, "1")
    resources.configure_threads()
    assert os.environ["OMP_NUM_THREADS"] == "1"  # the user's, without torchrun
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    resources.configure_threads()
    assert os.environ["OMP_NUM_THREADS"] == "8"


def test_one_thread_also_for_libraries_that_are_loaded_later() -> None:
    """NumPy and SciPy bring their own products: those of the one that is imported later are limited too."""
    code = """
import numpy as np
from regraft.resources import one_blas_thread
with one_blas_thread():
    pass
import scipy.linalg
from threadpoolctl import ThreadpoolController
with one_blas_thread():
    threads = [item["num_threads"] for item in ThreadpoolController().info() if item["user_api"] == "blas"]
assert len(threads) > 1 and set(threads) == {1}, threads
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit the addresses of a process")
def test_products_without_memory_fail_and_do_not_wait() -> None:
    """OpenBLAS tries again without an end if the limit of addresses leaves no room for its first buffer."""
    code = """
import re, resource
from pathlib import Path
import numpy as np, scipy.linalg
from regraft.resources import one_blas_thread
used = 1024 * int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
resource.setrlimit(resource.RLIMIT_AS, (used + 2**24, resource.RLIM_INFINITY))
try:
    with one_blas_thread():
        scipy.linalg.cholesky(np.eye(300))
except MemoryError:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "refused\n"
