"""A process that has imported regraft once, and forks for each function that it is asked to call.

A fork starts in a hundredth of the time of a command, and can be killed, limited and given faults as one.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_BENCHMARKS = Path(__file__).parent.parent
_START = "import sys; sys.path.append(sys.argv[1]); from faults.forks import serve_forks; serve_forks()"
#: Imported once, before the forks. Runtimes of exports are not: they start threads, which a fork does not have.
_MODULES = ("regraft.cli", "torch", "timm", "regraft.runs.train", "regraft.runs.resume", "regraft.runs.report",
            "regraft.exporting.export", "onnxscript", "torch.onnx._internal.exporter._core", "matplotlib.pyplot",
            "scipy.optimize", "pydicom")  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """Calls that change files in a folder fail: the `first`, and with `later` all after it; 0: they are counted."""

    folder: str
    first: int
    number: int = 0
    later: bool = False
    trace: str = ""


@dataclass(frozen=True)
class Ended:
    """The end of a call: its exit code, negative for a signal, and what it printed.

    `grown_mb` is the largest growth of its memory, `calls` the calls that a fault counts, `failed` the first that
    failed, and `answer` what the function returned.
    """

    code: int
    seconds: float
    text: str
    killed: bool = False
    timed_out: bool = False
    grown_mb: float = 0.0
    calls: int = 0
    failed: str = ""
    answer: Any = None

    @property
    def problem(self) -> str:
        """What is wrong with the end of a command: anything but success, or one error that is explained."""
        if self.timed_out:
            return "it hangs"
        if self.code < 0:
            return f"it was ended by {signal.Signals(-self.code).name}: {self.text[-300:]}"
        if "Traceback" in self.text:
            return f"a traceback: {self.text[-600:]}"
        if self.code and (not re.search("[Ee]rror: ", self.text) or self.code not in (1, 2)):  # OpenBLAS says "error"
            return f"exit code {self.code} without an error: {self.text[-300:]}"
        return ""


def build_preload(folder: Path) -> Path:
    """Compile the library with the faults."""
    library = folder / "preload.so"
    source = Path(__file__).with_name("preload.c")
    if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
        command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
        subprocess.run(command, check=True)
    return library


class Forks:
    """Calls functions of modules in forks of one process."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        """Store the process, and the folder for what the forks print."""
        self._process, self._output = process, folder / f"output-{process.pid}"

    def call(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        kill_after: float | None = None,
        timeout: float = 300.0,
        fault: Fault | None = None,
        clock: tuple[float, int] | None = None,
        room: int | None = None,
    ) -> Ended:
        """Call a function with JSON values in a fork, and wait for its end.

        `kill_after` and `timeout` are seconds until SIGKILL, `clock` the seconds until the clock jumps and by how many,
        and `room` the bytes by which the address space may grow.
        """
        request = {
            "function": [function.__module__, function.__qualname__], "arguments": arguments,
            "cwd": str(cwd or self._output.parent), "environment": dict(environment or {}), "kill_after": kill_after,
            "timeout": timeout, "fault": None if fault is None else asdict(fault), "clock": clock, "room": room,
            "output": str(self._output),
        }  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        reply = json.loads(self._process.stdout.readline())
        return Ended(text=self._output.read_text(errors="replace"), **reply)


@contextmanager
def forking(folder: Path) -> Iterator[Forks]:
    """Start the process that forks; it has one thread, so that sums are always in the same order."""
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = {**os.environ, **threads, "COLUMNS": "1000", "LD_PRELOAD": str(build_preload(folder))}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", _START, str(_BENCHMARKS)], env=environment, **pipes)
    try:
        yield Forks(process, folder)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def run_command(words: Sequence[str]) -> None:
    """Run `regraft` with these words."""
    from regraft.cli import main

    sys.argv = ["regraft", *words]
    main()


def serve_forks() -> None:
    """Fork for each line of standard input: the main function of the process."""
    for module in _MODULES:
        importlib.import_module(module)
    requests, replies = os.fdopen(os.dup(0), "rb"), os.dup(1)
    os.dup2(2, 1)
    for line in iter(requests.readline, b""):
        request = json.loads(line)
        report, writing = os.pipe()
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            os.close(report)
            code = _run(request, writing)
            atexit._run_exitfuncs()
            sys.stdout.flush()
            os._exit(code)  # the modules of the first process need not be taken down
        os.close(writing)
        reply = {**_wait(pid, request), "seconds": time.monotonic() - started}
        with os.fdopen(report, "rb") as file:
            reply |= json.loads(file.read() or b"{}")
        os.write(replies, json.dumps(reply).encode() + b"\n")


def _wait(pid: int, request: dict[str, Any]) -> dict[str, Any]:
    """Wait for a fork, and kill it at the time that the request says, or with all that it started when it hangs."""
    handle, kill_after, timeout = os.pidfd_open(pid), request["kill_after"], request["timeout"]
    ended = dict[str, Any](killed=False, timed_out=False)
    try:
        if kill_after is not None and not select.select([handle], [], [], kill_after)[0]:
            os.kill(pid, signal.SIGKILL)
            ended["killed"] = True
        elif not select.select([handle], [], [], timeout)[0]:
            ended["timed_out"] = True
            os.killpg(pid, signal.SIGKILL)
    finally:
        os.close(handle)
    _, status, usage = os.wait4(pid, 0)
    ended["code"] = os.waitstatus_to_exitcode(status)
    ended["grown_mb"] = max(0.0, usage.ru_maxrss / 1024 - _resident_mb())
    return ended


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _run(request: dict[str, Any], report: int) -> int:
    """In the fork: call the function as the main function of a program; returns the exit code."""
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.update(request["environment"])
    with open(os.devnull) as nothing, open(request["output"], "w") as output:
        os.dup2(nothing.fileno(), 0)
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
    module, name = request["function"]
    function = getattr(importlib.import_module(module), name)
    _set_faults(request)
    code, answer = 0, None
    try:
        answer = function(*request["arguments"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    facts = {"answer": answer}
    if request["fault"]:
        library = ctypes.CDLL(None)
        library.faults_failed.restype = ctypes.c_char_p
        facts |= {"calls": library.faults_calls(), "failed": library.faults_failed().decode(errors="replace")}
        library.faults_fail(b"", 0, 0, 0, -1)
    os.write(report, json.dumps(facts).encode())
    os.close(report)
    return code


def _set_faults(request: dict[str, Any]) -> None:
    if fault := request["fault"]:
        trace = os.open(fault["trace"], os.O_CREAT | os.O_TRUNC | os.O_WRONLY) if fault["trace"] else -1
        below, first = fault["folder"].encode(), ctypes.c_long(fault["first"])
        ctypes.CDLL(None).faults_fail(below, first, int(fault["later"]), fault["number"], trace)
    if clock := request["clock"]:
        ctypes.CDLL(None).faults_clock(ctypes.c_long(round(1000 * clock[0])), ctypes.c_long(clock[1]))
    if request["room"] is not None:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + request["room"], resource.RLIM_INFINITY))
