"""Trackers beside a training: each works in a thread of its own, and the training neither waits nor fails.

Enters: what a training tells. Leaves: the same to whoever listened before, and rows to each tracker. How many rows a
tracker has is kept in `tracking/NAME.json`, so that a resumed run, whose rows are told again, doubles none.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regraft.files import write_json
from regraft.tracking.scalars import epoch_scalars, final_scalars, flat_settings, printable, tag
from regraft.tracking.tracker import Status, Tracker, make_tracker
from regraft.training.progress import Epoch, Listener

#: Of a run's folder, where trackers keep what is theirs.
TRACKING = "tracking"
#: Seconds that the end of a training waits for a tracker.
_PATIENCE = 60.0
#: After so many seconds it says what it waits for.
_SILENT = 2.0


class Tracking:
    """A listener that passes everything on and tells trackers the epochs."""

    def __init__(self, listener: Listener, trackers: Mapping[str, Tracker], settings: Any, folder: Path) -> None:
        """Start the trackers; `settings` by section and key."""
        self._listener, self._ended, self._rows = listener, False, 0
        self._notes: deque[str] = deque()
        flat = flat_settings(settings)
        self._desks = [_Desk(name, tracker, flat, folder, self._notes) for name, tracker in trackers.items()]

    def work(self, name: str, done: int, total: int, detail: str = "") -> None:
        """Pass it on."""
        self._pass_notes()
        self._listener.work(name, done, total, detail)

    def epoch(self, row: Epoch) -> None:
        """Pass it on, and to the trackers."""
        self._listener.epoch(row)
        self._rows += 1
        for desk in self._desks:
            desk.rows.put((self._rows, row))
        self._pass_notes()

    def note(self, text: str) -> None:
        """Pass it on."""
        self._pass_notes()
        self._listener.note(text)

    def finish(self, status: Status, metrics: Mapping[str, Any] | None = None, pictures: Iterable[Path] = ()) -> None:
        """Tell the trackers how it ended and wait for them, at most a minute; a second call does nothing."""
        if self._ended:
            return
        self._ended = True
        finals = final_scalars(metrics or {})
        named = {f"plots/{tag(file.stem)}": file for file in pictures}
        begun = time.monotonic()
        for desk in self._desks:
            desk.rows.put((status, finals, named))
        for desk in self._desks:
            desk.thread.join(max(0.0, begun + min(_SILENT, _PATIENCE) - time.monotonic()))
            if desk.thread.is_alive():
                self.note(f"Waiting for {desk.tracker.title}, at most {_PATIENCE:.0f} s.")
            desk.thread.join(max(0.0, begun + _PATIENCE - time.monotonic()))
            if desk.thread.is_alive():
                self._notes.append(f"{desk.tracker.title} does not answer; the run is complete without it.")
        self._pass_notes()

    def _pass_notes(self) -> None:
        while self._notes:
            self._listener.note(self._notes.popleft())


class _Desk:
    """A tracker, its thread, and what has not reached it yet."""

    def __init__(
        self, name: str, tracker: Tracker, settings: Mapping[str, Any], folder: Path, notes: deque[str]
    ) -> None:
        self.tracker, self.settings, self.folder, self.notes = tracker, settings, folder, notes
        self.file = folder / TRACKING / f"{name}.json"
        self.rows: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.waiting: deque[tuple[int, Epoch]] = deque()
        self.done, self.known, self.begun, self.complained = 0, dict[str, Any](), False, False
        # A daemon, so that a tracker that hangs keeps nobody from leaving.
        self.thread = threading.Thread(target=self._serve, name=f"regraft-{name}", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        self._try(self._catch_up)
        while len(job := self.rows.get()) == 2:
            self.waiting.append(job)
            self._try(self._catch_up)
        self._try(lambda: self._close(*job))

    def _close(self, status: Status, finals: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        try:
            self._catch_up()
        finally:
            if self.begun:
                self.tracker.finish(status, finals, pictures)

    def _catch_up(self) -> None:
        """Start if that has not succeeded yet, and tell all rows that wait."""
        if not self.begun:
            if self.file.is_file():
                kept = json.loads(self.file.read_text(encoding="utf-8"))
                self.done, self.known = kept["rows"], kept["known"]
            try:
                where = self.tracker.start(self.settings, self.folder, self.known)
            finally:
                self._keep()
            self.begun = True
            self.notes.append(printable(f"{self.tracker.title}: {where}"))
        while self.waiting:
            number, row = self.waiting[0]
            if number > self.done:
                self.tracker.epoch(row.phase, row.epoch, epoch_scalars(row))
                self.done = number
                self._keep()
            self.waiting.popleft()

    def _keep(self) -> None:
        write_json(self.file, {"rows": self.done, "known": self.known})

    def _try(self, work: Any) -> None:
        """Do it; what goes wrong is said once and tried again with the next epoch."""
        try:
            work()
        except Exception as error:
            if not self.complained:
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                self.notes.append(printable(f"{self.tracker.title} fails, the training goes on: {reason}"))
            self.complained = True


@contextmanager
def tracking(
    names: Iterable[str], settings: Mapping[str, Mapping[str, Any]], folder: Path, listener: Listener
) -> Iterator[Tracking]:
    """A listener that tells the trackers of these names; closed as failed or interrupted if the block is.

    Args:
        names: `tensorboard`, `wandb`, `mlflow`.
        settings: All settings of the training, by section and key, as plain values.
        folder: Of the run.
        listener: To whom everything is passed on, and notes of the trackers, in the training's own thread.

    Raises:
        MissingExtraError: A tracker's package is not installed.
        UsageError: A tracker cannot start as things are set.
    """
    told = Tracking(listener, {name: make_tracker(name) for name in names}, settings, folder)
    try:
        yield told
    except KeyboardInterrupt:
        told.finish("interrupted")
        raise
    except BaseException:
        told.finish("failed")
        raise
