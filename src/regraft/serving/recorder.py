"""Write down answers in a thread of its own, so that no request waits for a disk: the log of answers, and samples.

Input: answers with the content of their pictures. Output: lines of the log and pictures in the sample folder. What does
not fit into the queue, or cannot be written, is lost and counted; the answers themselves are given in any case.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regraft.serving.answer_log import AnswerLog, LoggedModel
from regraft.serving.answer_numbers import AnswerNumbers
from regraft.serving.limits import Limits
from regraft.serving.sample_folder import SampleFolder

#: Answers that wait to be written at most, and those that are written at once.
_WAITING, _AT_ONCE = 1000, 64
#: Seconds between two lines of the server's log about answers that are lost.
_QUIET_SECONDS = 60.0
_log = logging.getLogger("regraft.serving")


@dataclass(frozen=True)
class Recording:
    """Folders of the log of answers and of the sample pictures; None: there is none."""

    log: Path | None = None
    samples: Path | None = None

    def start(self, models: Sequence[LoggedModel], limits: Limits, on_lost: Callable[[int], None]) -> Recorder:
        """Open the folders and start the thread; raises `OSError` if a folder cannot be written."""
        samples = log = None
        if self.samples is not None:
            samples = SampleFolder(self.samples, count=limits.samples, limit_bytes=limits.sample_bytes)
        if self.log is not None:
            kept = "" if self.samples is None else str(self.samples.resolve())
            log = AnswerLog(self.log, models, limit_bytes=limits.log_bytes, samples=kept)
        return Recorder(log, samples, on_lost)


@dataclass(frozen=True, eq=False)
class _Answer:
    model: str
    numbers: AnswerNumbers
    content: bytes
    time: float


class Recorder:
    """A thread that writes answers into a log, a sample folder, or both; `on_lost` gets numbers of answers."""

    def __init__(self, log: AnswerLog | None, samples: SampleFolder | None, on_lost: Callable[[int], None]) -> None:
        self._log, self._samples, self._on_lost = log, samples, on_lost
        self._answers: queue.Queue[_Answer | None] = queue.Queue(_WAITING)
        self._told = float("-inf")
        self._thread = threading.Thread(target=self._run, name="regraft-recorder", daemon=True)
        self._thread.start()

    def submit(self, model: str, numbers: AnswerNumbers, content: bytes) -> None:
        """Write down an answer for a picture with this content soon; never waits."""
        answer = _Answer(model, numbers, content if self._samples else b"", time.time())
        try:
            self._answers.put_nowait(answer)
        except queue.Full:
            self._lose(1, "too many are waiting to be written")

    def stop(self) -> None:
        """Write down what is waiting, and end the thread."""
        self._answers.put(None)
        self._thread.join()
        if self._log is not None:
            self._log.close()

    def _run(self) -> None:
        is_running = True
        while is_running:
            batch = [self._answers.get()]
            while len(batch) < _AT_ONCE and not self._answers.empty():
                batch.append(self._answers.get())
            is_running = None not in batch
            self._write([answer for answer in batch if answer is not None])

    def _write(self, batch: list[_Answer]) -> None:
        try:
            rows = [self._row(answer) for answer in batch]
            if self._log is not None and rows:
                self._log.write(rows)
        except Exception as error:  # whatever happens here must not end the thread
            self._lose(len(batch), str(error))

    def _row(self, answer: _Answer) -> dict[str, Any]:
        row = {"time": round(answer.time, 3), "model": answer.model, **answer.numbers.to_json()}
        if self._samples is None:
            return row
        names = self._samples.consider(answer.model, answer.content, answer.numbers.strange_key)
        return {**row, "samples": names} if names else row

    def _lose(self, count: int, reason: str) -> None:
        self._on_lost(count)
        if time.monotonic() - self._told >= _QUIET_SECONDS:
            self._told = time.monotonic()
            _log.error("answers are not recorded: %s", reason, extra={"event": "not-recorded", "answers": count})
