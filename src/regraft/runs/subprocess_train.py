"""Train in a subprocess, so that its peak memory is its own and a crash ends nothing else; progress comes as events."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from regraft.config import load_config
from regraft.errors import BudgetError, RegraftError, RunError, WeightsError
from regraft.models.inference import predict_batch
from regraft.runs.resume import resume
from regraft.runs.run import CONFIG, SOURCE, Run
from regraft.runs.train_from import train_from
from regraft.timing import time_passes
from regraft.training.callbacks import Epoch, HeadFit, ProgressReporter
from regraft.worker_process import Exited, Handler, Message, WorkerProcess

#: Errors of the subprocess that are raised as such here, by name; any other becomes a `RegraftError`.
_ERRORS = {error.__name__: error for error in (WeightsError, BudgetError)}
#: Seconds in which an interrupted training may save its state.
_SAVE_SECONDS = 60.0
#: Seconds between two events of progress; a training has thousands of batches.
_PROGRESS_SECONDS = 0.1
#: Seconds for which predictions are timed at least.
_MIN_SECONDS = 1.0


@dataclass(frozen=True)
class Timing:
    """Median CPU milliseconds of the network per image, without decoding: one image at a time, and in batches of 32.

    `training` are the seconds of the training with all that its budget covers, 0 for a run that was finished before.
    """

    one: float
    batch: float
    training: float = 0.0


def train_in_subprocess(data: str, config: Path, out: Path, cache: Path, reporter: ProgressReporter) -> Timing:
    """Train, continue an unfinished run, or leave a finished run as it is; `cache` is the folder of the cache.

    Raises `WeightsError` if the pretrained weights are not available, `BudgetError` if the budget is too short,
    `RegraftError` with the training's message, and `RunError` if the process ended before the training did.
    """
    return _run({"data": data, "config": str(config), "out": str(out)}, reporter, {"REGRAFT_CACHE": str(cache)})


def time_in_subprocess(run: Path, reporter: ProgressReporter) -> Timing:
    """Time the predictions of a run. Raises `RegraftError` if the run cannot be loaded."""
    return _run({"out": str(run)}, reporter, {})


def _run(job: dict[str, str], reporter: ProgressReporter, environment: dict[str, str]) -> Timing:
    # In its own session, Ctrl-C reaches the training through this process only, and once.
    worker = WorkerProcess(make_handler, environment=environment, own_session=True)
    try:
        reply = worker.request(job, on_event=lambda event: _report(event, reporter))
    except BaseException:
        worker.interrupt(_SAVE_SECONDS)
        raise
    if isinstance(reply, Exited):
        raise RunError(f"The training subprocess {reply} before it returned a result. Its run folder is {job['out']}.")
    worker.close()
    if "error" in reply.value:
        raise _ERRORS.get(reply.value["type"], RegraftError)(reply.value["error"])
    return Timing(**reply.value)


def _report(event: tuple[str, Any], reporter: ProgressReporter) -> None:
    match event:
        case "progress", arguments:
            reporter.on_progress(*arguments)
        case "epoch", fields:
            reporter.on_epoch_end(Epoch(**fields))
        case "head path", rows:
            reporter.on_head_path([HeadFit(**row) for row in rows])
        case "message", text:
            reporter.on_message(text)


class _EventWriter:
    """A reporter that sends events to the process that started the training."""

    def __init__(self, emit: Callable[[Any], None]) -> None:
        self._emit, self._last = emit, 0.0

    def on_progress(self, name: str, done: int, total: int, detail: str = "") -> None:
        now = time.monotonic()
        if done >= total or now > self._last + _PROGRESS_SECONDS:
            self._last = now
            self._emit(["progress", [name, done, total, detail]])

    def on_epoch_end(self, row: Epoch) -> None:
        self._emit(["epoch", asdict(row)])

    def on_head_path(self, path: Sequence[HeadFit]) -> None:
        self._emit(["head path", [fit.to_row() for fit in path]])

    def on_message(self, text: str) -> None:
        self._emit(["message", text])


def make_handler(settings: None) -> Handler:
    """The handler of the training subprocess: a job becomes the fields of a `Timing`, or an error."""

    def handle(request: Message, emit: Callable[[Any], None]) -> Message:
        try:
            return Message(asdict(_train(request.value, _EventWriter(emit))))
        except Exception as error:  # such as a full disk or a GPU without memory; the other process reports it
            text = str(error) if isinstance(error, RegraftError) else f"{type(error).__name__}: {error}"
            return Message({"error": text, "type": type(error).__name__})

    return handle


def _train(job: dict[str, str], reporter: ProgressReporter) -> Timing:
    out, started = Path(job["out"]), time.monotonic()
    if "data" not in job:
        run = Run(out)
    elif (out / SOURCE).is_file() and (out / CONFIG).is_file():
        run = resume(out, reporter=reporter)
    else:
        run = train_from(job["data"], load_config(Path(job["config"])), out, reporter=reporter)
    if run.metrics["training"]["stopped"] == "interrupted":
        raise KeyboardInterrupt
    seconds = time.monotonic() - started if "data" in job else 0.0
    return replace(measure_timing(run), training=seconds)


def measure_timing(run: Run) -> Timing:
    """Time the network of a run on black images."""
    model = run.classifier

    def milliseconds(batch_size: int, passes: int) -> float:
        pixels = torch.zeros(batch_size, *model.preprocessing.input_shape, dtype=torch.uint8)
        seconds = time_passes(lambda: predict_batch(model, pixels), passes=passes, min_seconds=_MIN_SECONDS)
        return 1000 * median(seconds) / batch_size

    return Timing(one=milliseconds(1, passes=5), batch=milliseconds(32, passes=2))
