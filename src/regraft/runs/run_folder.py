"""The folder of a run during its training: a new one for each run, and one process at a time in it."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from regraft import distributed
from regraft.data.sources.folders import find_images
from regraft.errors import RunError, UsageError
from regraft.text import in_shell
from regraft.tracking.callback import TRACKING

RUNS = Path("runs")
#: Files of a run.
CONFIG, SOURCE, SPLIT, CHECKPOINT = "config.toml", "source.json", "split.csv", "checkpoints/last.safetensors"
UNLABELED = "unlabelled.csv"
HISTORY, HEAD_PATH, METRICS = "history.csv", "head_path.csv", "metrics.json"
#: Subfolder of a run for temporary files, removed when the training ends.
SCRATCH = ".scratch"


@contextmanager
def lock_run(path: Path, *, resumed: bool = False) -> Iterator[Path]:
    """Lock a run's folder, and clean up after a killed run; `RunError` if another training runs or finished in it.

    Of the processes of one training, rank 0 does so, and the others use its folder.
    """
    if distributed.rank():
        yield distributed.on_rank_0(lambda: path)
        return
    with ExitStack() as stack:
        yield distributed.on_rank_0(lambda: stack.enter_context(_locked(path, resumed)))


def release(lock: FileLock) -> None:
    """Release a lock and remove its file."""
    with suppress(OSError):  # Windows removes no open file
        Path(lock.lock_file).unlink(missing_ok=True)  # first: after the release somebody else may have locked it
    lock.release()


@contextmanager
def _locked(path: Path, resumed: bool) -> Iterator[Path]:
    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(f"Another process is training in {path}. Wait for it, or choose another --out.") from error
    try:
        if not resumed:
            refuse_existing_run(path)
            for folder in ((path / CHECKPOINT).parent, path / TRACKING):  # of a run that was killed before its model
                shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(path / SCRATCH, ignore_errors=True)
        yield path
    finally:
        shutil.rmtree(path / SCRATCH, ignore_errors=True)
        release(lock)
        with suppress(OSError):
            path.rmdir()  # only succeeds if it is empty


def refuse_existing_run(path: Path) -> None:
    """Raise `RunError` if `path` is a file or contains a run, `UsageError` if it contains other images."""
    if (path / "model.json").exists():
        raise RunError(
            f"{path} contains a run already. Choose another --out, or continue the run: --resume {in_shell(path)}"
        )
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file; expected a folder for the run.")
    refuse_images(path)


def refuse_images(path: Path) -> None:
    """Raise `UsageError` if a folder for results contains images that are not results."""
    if path.is_dir() and (images := find_images(path)[0]):
        raise UsageError(f"{path} contains images, such as {images[0]}. Choose a new folder for --out.")


def new_folder(out: Path | str | None, *names: str) -> Path:
    """The folder for a new run: `out` (`RunError` if it has a run or is a file), or a new one under `runs/`.

    Of several processes, only rank 0 makes one.
    """
    if distributed.rank():
        return RUNS
    if out is not None:
        path = Path(out)
        refuse_existing_run(path)
        return path
    stem = re.sub(r"[^\w.-]+", "-", "-".join(names))
    RUNS.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = RUNS / (stem if number == 1 else f"{stem}-{number}")
        with suppress(FileExistsError):
            path.mkdir()  # two processes never get the same folder
            return path
    raise AssertionError
