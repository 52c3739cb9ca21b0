"""`--processes N`: run this command in several processes of this machine, by the launcher of PyTorch."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import tempfile
import uuid
from pathlib import Path

from regraft import distributed
from regraft.cli.interruption import EXIT_CODE
from regraft.errors import RegraftError, UsageError

#: Seconds that processes have to finish after Ctrl-C: they evaluate and save the best model.
_FINISH_SECONDS = "3600"


def starts_processes(count: int | None) -> bool:
    """Whether this process is to start the others; `UsageError` if a launcher has started another number of them."""
    launched = distributed.launch()
    if launched is None:
        return (count or 1) > 1
    if count not in (None, launched.world_size):
        raise UsageError(f"--processes {count}, but the launcher has started {launched.world_size}. Leave it out.")
    return False


def run_in_processes(count: int) -> int:
    """Run the command of this process in `count` processes; returns the exit code.

    A process that fails says why itself, and ends the others. Raises `RegraftError` if one was killed.
    """
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _FINISH_SECONDS)
    logging.disable()  # the launcher's messages would repeat what a process that fails says itself
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from regraft.runs.processes import RUN_FILE

    with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
        os.environ[RUN_FILE] = str(run_file := Path(folder) / "run")
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        words = [sys.executable, *_interpreter_options(), "-m", "regraft", *sys.argv[1:]]
        try:
            elastic_launch(config, words[0])(*words[1:])
        except SignalException as error:
            if error.sigval == signal.SIGINT and not any(Path(folder).rglob("error.json")):
                return EXIT_CODE  # the processes have kept and evaluated the best model, and said how to continue
            return 128 + int(error.sigval)
        except ChildFailedError as error:
            run = run_file.read_text(encoding="utf-8", errors="surrogateescape") if run_file.is_file() else ""
            return _exit_code(error, count, run)
    return 0


def _interpreter_options() -> list[str]:
    return ["-X", "utf8"] if sys.flags.utf8_mode else []


def _exit_code(error: object, count: int, run: str) -> int:
    """The exit code of the process that failed; raise `RegraftError` for one that was killed, which says nothing.

    `run` is the folder of the run, "" if the training has not begun.
    """
    failures = error.failures  # type: ignore[attr-defined]  # of a ChildFailedError
    codes: dict[int, int] = {rank: failure.exitcode for rank, failure in failures.items()}
    if failed := [code for code in codes.values() if code > 0]:
        killed = {rank: code for rank, code in codes.items() if code < 0 and code != -signal.SIGTERM}
        if not killed:
            return max(failed)
        codes = killed
    rank, code = next(((rank, code) for rank, code in codes.items() if code != -signal.SIGTERM), min(codes.items()))
    reason = "; the system does so when memory runs out" if code == -signal.SIGKILL else ""
    advice = ""
    if run:
        command = shlex.join(["regraft", "train", "--resume", run])
        advice = f" The run can be continued: {command}, also with another number of processes."
    raise RegraftError(f"Process {rank} of {count} was killed by {signal.Signals(-code).name}{reason}.{advice}")
