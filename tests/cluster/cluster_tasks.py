"""Functions for tasks, in a module that the cluster's nodes can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from regraft.errors import ImageError


def square(number: int, *, reporter: Any) -> tuple[int, int, int]:
    """The square, the process and its threads; reports the number as an epoch."""
    import torch  # here, since the processes of other tests need not wait for it

    reporter.on_progress("squares", number, 10)
    reporter.on_epoch_end(number)
    return number**2, os.getpid(), torch.get_num_threads()


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
