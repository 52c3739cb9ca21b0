"""A training in a process of its own, so that its memory is its own and its end nobody else's.

Enters: data, a configuration and a folder. Leaves: a run, and how long its predictions take. What the training tells
comes back line by line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from regraft.errors import RegraftError, RunError, WeightsError
from regraft.training.progress import Epoch, Listener

#: What a new process runs; what it imports is found where this process found it.
_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from regraft.pipeline.apart import serve; serve()"
#: Seconds in which an interrupted process may write down what it has.
_PATIENCE = 60.0
#: Batches that are timed, with the fewest passes, and seconds after which there are no more.
_PASSES, _LONG = {1: 6, 32: 3}, 1.0


@dataclass(frozen=True)
class Timing:
    """How long the network takes for an image on the CPU, in milliseconds, decoding not counted; a median.

    Attributes:
        one: One image at a time.
        batch: In batches of 32.
    """

    one: float
    batch: float


def train_apart(data: str, config: Path, out: Path, store: Path, listener: Listener) -> Timing:
    """Train, or go on with the run in the folder, or leave it as it is where it is finished.

    Args:
        data: As for `train_from`.
        config: A file of settings.
        out: The run's folder.
        store: Where pixels and activations are kept meanwhile.
        listener: Told what the training tells.

    Raises:
        WeightsError: The pretrained weights cannot be had.
        RegraftError: What else the training raised, with its message.
        RunError: The process ended before the training did.
    """
    return _ask({"data": data, "config": str(config), "out": str(out)}, listener, store)


def time_apart(run: Path, listener: Listener) -> Timing:
    """How long the predictions of a run take.

    Raises:
        RegraftError: The run cannot be loaded.
    """
    return _ask({"out": str(run)}, listener)


def _ask(job: dict[str, Any], listener: Listener, store: Path | None = None) -> Timing:
    arguments = map(json.dumps, ([str(folder) for folder in sys.path], job))
    command = [sys.executable, "-P", "-c", _PROGRAM, *arguments]
    environment = os.environ | ({} if store is None else {"REGRAFT_CACHE": str(store)})
    # In a session of its own Ctrl-C reaches it through this process alone, and once.
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        try:
            answer = _heard(process, listener)
        except BaseException:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
        code = process.wait()
    if isinstance(answer, RegraftError):
        raise answer
    if answer is None:
        raise RunError(f"The training in {job['out']} ended without a word (exit code {code}).")
    return answer


def _heard(process: subprocess.Popen[str], listener: Listener) -> Timing | RegraftError | None:
    """Pass on what the process tells; how it ends."""
    assert process.stdout is not None
    for line in process.stdout:
        kind, value = json.loads(line)
        if kind == "epoch":
            listener.epoch(Epoch(**value))
        elif kind == "note":
            listener.note(value)
        elif kind == "work":
            listener.work(*value)
        elif kind == "done":
            return Timing(**value)
        elif kind == "error":
            return (WeightsError if value["weights"] else RegraftError)(value["message"])
    return None


class _Teller:
    """A listener that writes lines."""

    def __init__(self, tell: Callable[[str, Any], None]) -> None:
        self._tell, self._last = tell, 0.0

    def work(self, name: str, done: int, total: int, detail: str = "") -> None:
        now = time.monotonic()
        if done >= total or now > self._last + 0.1:  # a line a batch would be thousands
            self._last = now
            self._tell("work", [name, done, total, detail])

    def epoch(self, row: Epoch) -> None:
        self._tell("epoch", asdict(row))

    def note(self, text: str) -> None:
        self._tell("note", text)


def serve() -> None:
    """Do the job that the command line names: what a process of `train_apart` does."""
    warnings.simplefilter("ignore")
    job = json.loads(sys.argv[2])
    # What a library prints must not come between the lines.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as lines:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

        def tell(kind: str, value: Any) -> None:
            lines.write(json.dumps([kind, value]) + "\n")
            lines.flush()

        try:
            tell("done", asdict(_work(job, _Teller(tell))))
        except KeyboardInterrupt:
            sys.exit(130)
        except Exception as error:  # a full disk, a GPU without memory: the other process says it
            message = str(error) if isinstance(error, RegraftError) else f"{type(error).__name__}: {error}"
            tell("error", {"message": message, "weights": isinstance(error, WeightsError)})


def _work(job: dict[str, Any], listener: Listener) -> Timing:
    from regraft.config import load_config
    from regraft.pipeline.run import CONFIG, SOURCE, Run
    from regraft.pipeline.train import resume, train_from

    out = Path(job["out"])
    if "data" not in job:
        run = Run(out)
    elif (out / SOURCE).is_file() and (out / CONFIG).is_file():
        run = resume(out, listener=listener)
    else:
        run = train_from(job["data"], load_config(Path(job["config"])), out, listener=listener)
    if run.metrics["training"]["stopped"] == "interrupted":
        raise KeyboardInterrupt
    return measure_timing(run)


def measure_timing(run: Any) -> Timing:
    """Time the network of a run on black images, after a first pass that is not counted."""
    import torch

    from regraft.models.inference import infer

    model, found = run.classifier, {}
    side = model.preprocessing.size
    for size, fewest in _PASSES.items():
        pixels = torch.zeros(size, 3, side, side, dtype=torch.uint8)
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < fewest or time.perf_counter() - began < _LONG:
            started = time.perf_counter()
            infer(model, pixels)
            times.append(1000 * (time.perf_counter() - started) / size)
        found[size] = median(times[1:])
    return Timing(one=found[1], batch=found[32])
