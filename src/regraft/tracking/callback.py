"""Forward the epochs and results of a training to trackers.

A tracker that fails never stops the training; it is reported once and tried again at the next epoch. The trackers'
libraries upload in the background and have their own timeouts. `tracking/NAME.json` in the run's folder counts the
rows that a tracker has received, so that a resumed run, which reports all rows again, sends none twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from regraft.atomic_io import write_json
from regraft.text import encodable
from regraft.tracking.scalars import epoch_scalars, final_scalars, flat_settings, head_scalars, tag
from regraft.tracking.tracker import Status, Tracker, make_tracker
from regraft.training.callbacks import Epoch, HeadFit, ProgressReporter

#: Subfolder of a run for the files of trackers.
TRACKING = "tracking"


class TrackingReporter:
    """Forward everything to another reporter, and epochs also to trackers."""

    def __init__(
        self, reporter: ProgressReporter, trackers: Mapping[str, Tracker], settings: Mapping[str, Any], folder: Path
    ) -> None:
        """Start the trackers; `settings` are plain values by section and key."""
        self._reporter, self._finished = reporter, False
        self.on_progress: Callable[..., None] = reporter.on_progress
        self.on_message: Callable[[str], None] = reporter.on_message
        flat = flat_settings(settings)
        self._links = [_Link(name, tracker, flat, folder, reporter) for name, tracker in trackers.items()]
        for link in self._links:
            link.attempt(link.send)

    def on_epoch_end(self, row: Epoch) -> None:
        """Forward to the reporter and the trackers."""
        self._reporter.on_epoch_end(row)
        for link in self._links:
            link.rows.append((row.phase, row.epoch, epoch_scalars(row)))
            link.attempt(link.send)

    def on_head_path(self, path: Sequence[HeadFit]) -> None:
        """Forward to the reporter and the trackers, which get the fits as steps of the phase `head`."""
        self._reporter.on_head_path(path)
        for link in self._links:
            link.rows += [("head", step, head_scalars(fit)) for step, fit in enumerate(path, start=1)]
            link.attempt(link.send)

    def finish(self, status: Status, metrics: Mapping[str, Any] | None = None, plots: Iterable[Path] = ()) -> None:
        """Send the results and close the trackers; a second call does nothing."""
        if self._finished:
            return
        self._finished = True
        scalars = final_scalars(metrics or {})
        pictures = {f"plots/{tag(file.stem)}": file for file in plots}
        for link in self._links:
            link.attempt(link.send)
            if link.started:
                link.attempt(partial(link.tracker.finish, status, scalars, pictures))


class _Link:
    """A tracker, and the rows of the history, of which it has received the first `sent`."""

    def __init__(
        self, name: str, tracker: Tracker, settings: Mapping[str, Any], folder: Path, reporter: ProgressReporter
    ) -> None:
        self.tracker, self.settings, self.folder, self.reporter = tracker, settings, folder, reporter
        self.file = folder / TRACKING / f"{name}.json"
        self.rows: list[tuple[str, int, dict[str, float]]] = []
        self.sent, self.known, self.started, self.has_failed = 0, dict[str, Any](), False, False

    def attempt(self, action: Callable[[], None]) -> None:
        """Act, and report the first failure."""
        try:
            action()
        except Exception as error:
            if not self.has_failed:
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                self.reporter.on_message(encodable(f"{self.tracker.title} failed; training continues: {reason}"))
            self.has_failed = True

    def send(self) -> None:
        """Start the tracker if it has not started yet, and send it the rows that it has not received."""
        if not self.started:
            if self.file.is_file():
                stored = json.loads(self.file.read_text(encoding="utf-8"))
                self.sent, self.known = stored["rows"], stored["known"]
            try:
                location = self.tracker.start(self.settings, self.folder, self.known)
            finally:
                self._save()
            self.started = True
            self.reporter.on_message(encodable(f"{self.tracker.title}: {location}"))
        while self.sent < len(self.rows):
            self.tracker.epoch(*self.rows[self.sent])
            self.sent += 1
            self._save()

    def _save(self) -> None:
        write_json(self.file, {"rows": self.sent, "known": self.known})


@contextmanager
def tracking(
    names: Iterable[str], settings: Mapping[str, Mapping[str, Any]], folder: Path, reporter: ProgressReporter
) -> Iterator[TrackingReporter]:
    """Forward a training to trackers; close them as failed or interrupted if the block raises. See `make_tracker`."""
    tracked = TrackingReporter(reporter, {name: make_tracker(name) for name in names}, settings, folder)
    try:
        yield tracked
    except KeyboardInterrupt:
        tracked.finish("interrupted")
        raise
    except BaseException:
        tracked.finish("failed")
        raise
