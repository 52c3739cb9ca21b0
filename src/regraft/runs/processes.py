"""One run by several processes: they start together, rank 0 writes the run, and each writes a log of its own.

Input: the group that a launcher or the caller started (`regraft.distributed`). Output: the files `logs/rank-N.log` of a
run: what its processes reported, and the traceback of one that failed.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from regraft import distributed
from regraft.training.callbacks import Epoch, HeadFit, NullReporter, ProgressReporter, Training

P = ParamSpec("P")
R = TypeVar("R")

#: Subfolder of a run for the logs of its processes.
LOGS = "logs"
#: Environment variable with a file into which rank 0 writes the folder of its run, for the process that started it.
RUN_FILE = "REGRAFT_RUN_FILE"


def jointly(verb: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that takes a `reporter`: the processes that were launched together call it as one group.

    Only rank 0 reports. Raises `RegraftError` if their versions differ.
    """

    @wraps(verb)
    def in_group(*args: P.args, **kwargs: P.kwargs) -> R:
        with distributed.process_group():
            if distributed.is_distributed():
                _check_versions()
            if distributed.rank():
                kwargs["reporter"] = NullReporter()
            return verb(*args, **kwargs)

    return in_group


def _check_versions() -> None:
    from regraft.models.serialization import versions  # imports PyTorch, which one process may not need yet

    for name, version in versions().items():
        distributed.check_equal(f"versions of {name}", version)


def tell_run(path: Path) -> None:
    """Tell the process that started this one, if it asks (`RUN_FILE`), which run is in work."""
    if (file := os.environ.get(RUN_FILE)) and not distributed.rank():
        Path(file).write_text(str(path), encoding="utf-8", errors="surrogateescape")


class LogReporter:
    """Append messages and epochs to a file, as the processes beside rank 0 do."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file = file

    def write(self, text: str) -> None:
        """Append a line with the time."""
        with self.file.open("a", encoding="utf-8", errors="backslashreplace") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def on_progress(self, name: str, done: int, total: int, detail: str = "") -> None:
        """Note the end of a step."""
        if done == total:
            self.write(f"{name}: {total} done {detail}".rstrip())

    def on_head_path(self, path: Sequence[HeadFit]) -> None:
        """Note the fits."""
        self.write(f"head: {len(path)} fits")

    def on_epoch_end(self, row: Epoch) -> None:
        """Note the epoch."""
        self.write(f"{row.phase}: epoch {row.epoch}, train loss {row.train_loss:.4f}, val loss {row.val_loss}")

    def on_message(self, text: str) -> None:
        """Note the message."""
        self.write(text)


@contextmanager
def logged(path: Path, reporter: ProgressReporter) -> Iterator[ProgressReporter]:
    """The reporter of this process for a run's folder; one process reports as given and writes no log."""
    if not distributed.is_distributed():
        yield reporter
        return
    log = LogReporter(path / LOGS / f"rank-{distributed.rank()}.log")
    log.write(f"Process {distributed.rank()} of {distributed.world_size()} starts, with the number {os.getpid()} here.")
    try:
        yield log if distributed.rank() else reporter
    except BaseException:
        log.write(traceback.format_exc())
        raise


def describe(training: Training) -> str:
    """A sentence about the communication of the processes; empty for one process."""
    steps, share = training.processes.get("steps", 0.0), communication_share(training)
    if not distributed.is_distributed() or not steps or share is None:
        return ""
    count = distributed.world_size()
    return f"{count} processes: communication took {100 * share:.0f} % of the time of the training steps."


def communication_share(training: Training) -> float | None:
    """Share of the time of the training steps, 0..1, in which rank 0 communicated or waited; None without steps."""
    steps = training.processes.get("steps", 0.0)
    return training.processes["communication"] / steps if steps else None
