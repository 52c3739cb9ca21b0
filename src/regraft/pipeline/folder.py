"""The folder of a run while it is made: a new one for each, and one process at a time in it.

Enters: a path, or none. Leaves: a folder that is held against others.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from regraft.errors import RunError
from regraft.pipeline.run import STANDING
from regraft.tracking.listener import TRACKING

RUNS = Path("runs")
#: Of a run's folder, what is removed at its end.
SCRATCH = ".scratch"


@contextmanager
def claimed(path: Path, *, resumed: bool = False) -> Iterator[Path]:
    """Hold a run's folder against other processes; what a killed one left behind is cleared away.

    Raises:
        RunError: Another process is at work in it, or has finished a run in it meanwhile.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(f"Another process is training in {path}. Wait for it, or choose another --out.") from error
    try:
        if not resumed:
            refuse_a_run(path)
            for left in ((path / STANDING).parent, path / TRACKING):  # of a run that never had a model
                shutil.rmtree(left, ignore_errors=True)
        shutil.rmtree(path / SCRATCH, ignore_errors=True)
        yield path
    finally:
        shutil.rmtree(path / SCRATCH, ignore_errors=True)
        lock.release()
        with suppress(OSError):
            (path / ".lock").unlink(missing_ok=True)
            path.rmdir()  # if nothing came of it


def refuse_a_run(path: Path) -> None:
    """Raise `RunError` where a run, or a file, is in the way."""
    if (path / "model.json").exists():
        raise RunError(f"{path} holds a run already. Choose another --out, or go on with it: --resume {path}.")
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file; expected a folder for the run.")


def new_folder(out: Path | str | None, *names: str) -> Path:
    """The folder for a new run: `out`, or one under `runs/` that was not there and is now.

    Raises:
        RunError: `out` holds a run already, or is a file.
    """
    if out is not None:
        path = Path(out)
        refuse_a_run(path)
        return path
    stem = re.sub(r"[^\w.-]+", "-", "-".join(names))
    RUNS.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = RUNS / (stem if number == 1 else f"{stem}-{number}")
        with suppress(FileExistsError):
            path.mkdir()  # two processes never get the same one
            return path
    raise AssertionError
