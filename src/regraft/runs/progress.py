"""Show progress, epochs and messages in a terminal or a notebook, or nothing if nobody would see them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from regraft.errors import refuse_old_names
from regraft.models.torch_defaults import torch_defaults
from regraft.training.callbacks import Epoch, HeadFit, NullReporter, ProgressReporter

if TYPE_CHECKING:
    from rich.console import Console

P = ParamSpec("P")
R = TypeVar("R")

#: Seconds between two updates in a notebook, each of which is sent to the browser.
_UPDATE_SECONDS = 0.2
#: Columns of a terminal from which on the table of the epochs is complete.
_TABLE_WIDTH = 79
#: Whether a reporter is active, so that the functions that it covers show nothing of their own.
_is_active: ContextVar[bool] = ContextVar("is_active", default=False)


class RichReporter:
    """Show progress bars, and epochs and messages as lines."""

    def __init__(self, console: Console) -> None:
        """Write to `console`; bars only if it is a terminal."""
        from regraft.runs.progress_rows import ProgressRows

        self.console = console
        self.progress = ProgressRows(console)
        self.tasks: dict[str, Any] = {}
        self.phase = ""

    def on_progress(self, name: str, done: int, total: int, detail: str = "") -> None:
        """Move a bar."""
        key = f"{name}:{total}:{detail if name == 'decode' else ''}"
        if key not in self.tasks or done < self.progress.tasks[self.progress.task_ids.index(self.tasks[key])].completed:
            self.tasks[key] = self.progress.add_task(name, total=total, detail="")
        self.progress.update(self.tasks[key], completed=done, detail=detail)

    def on_head_path(self, path: Sequence[HeadFit]) -> None:
        """Print the validation loss of the head at each L2 strength."""
        self.phase = ""
        gap = "" if self._is_narrow() else f" {'':9}"  # below it stands the training accuracy of the epochs
        self.console.print(f"[bold]{'head':<9} {'L2':>9}  train loss{gap}   val loss  accuracy[/bold]")
        for fit in path:
            chosen = "  chosen" if fit.chosen else ""
            val = _validation(fit)
            self.console.print(f"{'':<9} {fit.l2:9.2e}  {fit.train_loss:10.4f}{gap}  {val}{chosen}")

    def on_epoch_end(self, row: Epoch) -> None:
        """Print a row of the history."""
        narrow = self._is_narrow()
        if row.phase != self.phase or row.epoch == 1:  # another phase, or the next model or fold
            self.phase = row.phase
            rest = "" if narrow else f"  {'lr':>9}  images/s"
            self.console.print(f"[bold]{row.phase:<9} epoch  train loss  accuracy   val loss  accuracy{rest}[/bold]")
        rest = "" if narrow else f"  {row.lr:9.2e}  {row.images_per_second:8.0f}"
        losses = f"{row.train_loss:10.4f} {_share(row.train_accuracy)}  {_validation(row)}"
        self.console.print(f"{'':<9} {row.epoch:5d}  {losses}{rest}")

    def _is_narrow(self) -> bool:
        return self.console.is_terminal and self.console.width < _TABLE_WIDTH

    def on_message(self, text: str) -> None:
        """Print a message."""
        from rich.markup import escape

        self.console.print(escape(text))


def _validation(row: Epoch | HeadFit) -> str:
    """Validation loss and accuracy, in two columns."""
    if row.val_loss is None:
        return f"{'-':>9} {'-':>9}"
    return f"{row.val_loss:9.4f} {_share(row.val_accuracy)}"


def _share(value: float | None) -> str:
    """An accuracy; numbers have none."""
    return f"{'-':>9}" if value is None else f"{value:9.4f}"


class NotebookReporter:
    """Show progress below a notebook's cell, in one output that is updated; needs no widgets."""

    def __init__(self, display: Callable[..., Any], html: Callable[[str], Any]) -> None:
        """Use IPython's `display` and `HTML`."""
        self._html = html
        self._bars: dict[str, tuple[int, int, str]] = {}
        self._messages: list[str] = []
        self._epochs: list[Epoch] = []
        self._updated = 0.0
        self._output = display(html(""), display_id=True)

    def on_progress(self, name: str, done: int, total: int, detail: str = "") -> None:
        """Move a bar."""
        self._bars.pop(name, None)
        if done < total:
            self._bars[name] = done, total, detail
        self.update(force=False)

    def on_head_path(self, path: Sequence[HeadFit]) -> None:
        """Start the table of a training, and say which L2 strength its head has."""
        self._epochs.clear()
        for fit in path:
            if fit.chosen:
                loss = "" if fit.val_loss is None else f", validation loss {fit.val_loss:.4f}"
                self.on_message(f"Head: {len(path)} fits, L2 strength {fit.l2:.2g} chosen{loss}.")

    def on_epoch_end(self, row: Epoch) -> None:
        """Add a row of the history."""
        self._epochs.append(row)
        self.update()

    def on_message(self, text: str) -> None:
        """Add a message."""
        self._messages.append(text)
        self.update()

    def update(self, *, force: bool = True, is_over: bool = False) -> None:
        """Update the output, unless that happened a moment ago; remove the bars when the work is over."""
        from regraft.report.notebook_html import progress

        now = time.monotonic()
        if force or now - self._updated >= _UPDATE_SECONDS:
            self._updated = now
            bars = {} if is_over else self._bars
            self._output.update(self._html(progress(bars, self._messages, self._epochs)))


@contextmanager
def rich_progress(console: Console) -> Iterator[RichReporter]:
    """Show progress bars on a console for the duration of the block."""
    reporter = RichReporter(console)
    with _active(), reporter.progress:
        yield reporter


@contextmanager
def default_reporter() -> Iterator[ProgressReporter]:
    """Return a reporter for the notebook or terminal of the caller; elsewhere one that shows nothing."""
    if _is_active.get():
        yield NullReporter()
    elif _in_notebook():
        from IPython.display import HTML, display

        reporter = NotebookReporter(display, HTML)
        with _active():
            try:
                yield reporter
            finally:
                reporter.update(is_over=True)
    elif sys.stderr is not None and sys.stderr.isatty():
        from regraft.terminal import PrintableConsole

        with rich_progress(PrintableConsole(stderr=True, highlight=False, soft_wrap=True)) as on_terminal:
            yield on_terminal
    else:
        yield NullReporter()


def with_progress(verb: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that takes a `reporter`: pass the default one, refuse old names, use PyTorch's defaults."""

    @refuse_old_names(listener="reporter", store="cache")
    @wraps(verb)
    def with_reporter(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch_defaults(), ExitStack() as stack:
            if kwargs.get("reporter") is None:
                kwargs["reporter"] = stack.enter_context(default_reporter())
            return verb(*args, **kwargs)

    return with_reporter


@contextmanager
def _active() -> Iterator[None]:
    token = _is_active.set(True)
    try:
        yield
    finally:
        _is_active.reset(token)


def _in_notebook() -> bool:
    """Check for a kernel, which IPython in a terminal does not have."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None
