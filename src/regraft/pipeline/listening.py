"""Who is told how far the work is: a terminal, a notebook, or nobody.

Enters: what the work tells a `Listener`. Leaves: bars, epochs and sentences where somebody looks.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from regraft.training.progress import Epoch, Listener, Silence

if TYPE_CHECKING:
    from rich.console import Console

P = ParamSpec("P")
R = TypeVar("R")

#: Seconds between two pictures of the bars in a notebook, each of which travels to the browser.
_PAUSE = 0.2
#: Whether bars are up already; what is called within then says nothing of its own.
_is_told: ContextVar[bool] = ContextVar("is_told", default=False)


class RichListener:
    """Shows the work as progress bars and the epochs as lines."""

    def __init__(self, console: Console) -> None:
        """Write to `console`; bars only where it is a terminal."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.console = console
        self.progress = Progress(
            TextColumn("[bold]{task.description:<24}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}", style="dim"),
            console=console,
            disable=not console.is_terminal,
        )
        self.tasks: dict[str, Any] = {}
        self.phase = ""

    def work(self, name: str, done: int, total: int, detail: str = "") -> None:
        """Move a bar."""
        key = f"{name}:{total}:{detail if name == 'decode' else ''}"
        if key not in self.tasks or done < self.progress.tasks[self.progress.task_ids.index(self.tasks[key])].completed:
            self.tasks[key] = self.progress.add_task(name, total=total, detail="")
        self.progress.update(self.tasks[key], completed=done, detail=detail)

    def epoch(self, row: Epoch) -> None:
        """Print a line of the history."""
        if row.phase != self.phase:
            self.phase = row.phase
            what = "strength" if row.strength is not None else "lr"
            self.console.print(
                f"[bold]{row.phase:<9} epoch  train loss  accuracy   val loss  accuracy  {what:>9}  images/s[/bold]"
            )
        rate = row.strength if row.strength is not None else row.lr
        val = (
            f"{'-':>9} {'-':>9}"
            if row.val_loss is None or row.val_accuracy is None
            else f"{row.val_loss:9.4f} {row.val_accuracy:9.4f}"
        )
        self.console.print(
            f"{'':<9} {row.epoch:5d}  {row.train_loss:10.4f} {row.train_accuracy:9.4f}  "
            f"{val}  {rate or 0:9.2e}  {row.images_per_second:8.0f}"
        )

    def note(self, text: str) -> None:
        """Print a sentence."""
        from rich.markup import escape

        self.console.print(escape(text))


class NotebookListener:
    """Shows the same below a notebook's cell, in one place that changes; needs no widgets."""

    def __init__(self, display: Callable[..., Any], html: Callable[[str], Any]) -> None:
        """Take IPython's `display` and `HTML`."""
        self._html = html
        self._bars: dict[str, tuple[int, int, str]] = {}
        self._notes: list[str] = []
        self._epochs: list[Epoch] = []
        self._drawn = 0.0
        self._place = display(html(""), display_id=True)

    def work(self, name: str, done: int, total: int, detail: str = "") -> None:
        """Move a bar."""
        self._bars.pop(name, None)
        if done < total:
            self._bars[name] = done, total, detail
        self.draw(at_once=False)

    def epoch(self, row: Epoch) -> None:
        """Add a line to the history."""
        self._epochs.append(row)
        self.draw()

    def note(self, text: str) -> None:
        """Add a sentence."""
        self._notes.append(text)
        self.draw()

    def draw(self, *, at_once: bool = True, is_over: bool = False) -> None:
        """Show how things stand, unless that was done a moment ago; when all is over, no bars are left."""
        from regraft.report.notebook import progress

        now = time.monotonic()
        if at_once or now - self._drawn >= _PAUSE:
            self._drawn = now
            bars = {} if is_over else self._bars
            self._place.update(self._html(progress(bars, self._notes, self._epochs)))


@contextmanager
def listening(console: Console) -> Iterator[RichListener]:
    """A listener whose bars are up for the duration of the block."""
    listener = RichListener(console)
    with _told(), listener.progress:
        yield listener


@contextmanager
def whoever_looks() -> Iterator[Listener]:
    """A listener for the notebook or the terminal that this is called from; elsewhere one that says nothing."""
    if _is_told.get():
        yield Silence()
    elif _in_notebook():
        from IPython.display import HTML, display

        in_notebook = NotebookListener(display, HTML)
        with _told():
            try:
                yield in_notebook
            finally:
                in_notebook.draw(is_over=True)
    elif sys.stderr is not None and sys.stderr.isatty():
        from rich.console import Console

        with listening(Console(stderr=True, highlight=False, soft_wrap=True)) as on_terminal:
            yield on_terminal
    else:
        yield Silence()


def told(verb: Callable[P, R]) -> Callable[P, R]:
    """Give a function that takes a `listener` the one of whoever looks, where its caller names none."""

    @wraps(verb)
    def with_listener(*args: P.args, **kwargs: P.kwargs) -> R:
        if kwargs.get("listener") is not None:
            return verb(*args, **kwargs)
        with whoever_looks() as listener:
            kwargs["listener"] = listener
            return verb(*args, **kwargs)

    return with_listener


@contextmanager
def _told() -> Iterator[None]:
    before = _is_told.set(True)
    try:
        yield
    finally:
        _is_told.reset(before)


def _in_notebook() -> bool:
    """Whether a kernel runs this; IPython on a terminal has none."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None
