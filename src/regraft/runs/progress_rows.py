"""Progress bars that fit into the terminal: a narrow one shows less, and nothing that is cut."""

from __future__ import annotations

from collections.abc import Iterable

from rich import progress
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

#: Columns of a terminal from which on there is a short bar, and a long one with the time that has passed.
_SHORT, _LONG = 70, 110


class ProgressRows(progress.Progress):
    """Rows of name, bar, numbers, times and detail, as many of them as the width of the terminal allows."""

    def __init__(self, console: Console) -> None:
        """Show rows only if the console is a terminal."""
        self._shown_on = console  # the table is made before the base class has it
        super().__init__(console=console, disable=not console.is_terminal, expand=True)

    def make_tasks_table(self, tasks: Iterable[progress.Task]) -> Table:
        """Choose the columns for the present width, since a terminal can be resized."""
        width = self._shown_on.width
        columns: list[progress.ProgressColumn] = [progress.TextColumn("[bold]{task.description}")]
        if width >= _SHORT:
            columns.append(progress.BarColumn(bar_width=24 if width >= _LONG else 10))
        columns.append(progress.MofNCompleteColumn())
        if width >= _LONG:
            columns.append(progress.TimeElapsedColumn())
        self.columns = (*columns, progress.TextColumn("left"), progress.TimeRemainingColumn(), _DetailColumn())
        return super().make_tasks_table(tasks)


class _DetailColumn(progress.ProgressColumn):
    """What a step says of itself, in the width that the other columns leave."""

    def __init__(self) -> None:
        super().__init__(Column(ratio=1, no_wrap=True))

    def render(self, task: progress.Task) -> _Detail:
        return _Detail(str(task.fields["detail"]))


class _Detail:
    """The first parts of a text, which two spaces separate, that fit into a line."""

    def __init__(self, text: str) -> None:
        self.parts = text.split("  ")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(0, Text("  ".join(self.parts)).cell_len)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        count = len(self.parts)
        while count > 1 and Text("  ".join(self.parts[:count])).cell_len > options.max_width:
            count -= 1
        yield Text("  ".join(self.parts[:count]), style="dim", no_wrap=True, overflow="ellipsis")
