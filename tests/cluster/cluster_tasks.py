"""Functions for tasks, in a module that the cluster's nodes can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from regraft.errors import ImageError


def square(number: int, *, reporter: Any) -> tuple[int, int]:
    """The square and the threads of its process; reports the number as an epoch."""
    import torch  # here, since the processes of other tests need not wait for it

    reporter.on_progress("squares", number, 10)
    reporter.on_epoch_end(number)
    return number**2, torch.get_num_threads()


def meet(folder: Path, number: int, *, reporter: Any) -> int:
    """The process, once two tasks are here at the same time."""
    (folder / str(number)).touch()
    end = time.monotonic() + 120
    while len(list(folder.iterdir())) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    return os.getpid()


def fail(*, reporter: Any) -> None:
    """Raise an exception whose class cannot be made from its arguments."""
    raise ImageError("too dark", "night.png")


def unreadable() -> None:
    """Stand for the reading of a pickle that fails."""
    raise ValueError("it cannot be read")


def die(file: Path, *, reporter: Any) -> None:
    """Write a line, and end the process."""
    with file.open("a") as stream:
        stream.write("died\n")
    os.kill(os.getpid(), signal.SIGKILL)


def wait(file: Path, *, reporter: Any) -> None:
    """Write the process into a file, and report progress for a minute."""
    file.write_text(str(os.getpid()))
    for number in range(600):
        reporter.on_progress("waiting", number, 600)
        time.sleep(0.1)
