"""Lines of the terminal on learning curves that all tasks have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from regraft.text import display_width, one_line, shorten

if TYPE_CHECKING:
    from regraft.studies.learning_curve.extrapolation import Curve

#: Number of classes that the terminal lists.
_CLASSES = 20


def gain_of_doubling(curve: Curve, doubled: str, score: str) -> str:
    """A sentence, in markup, on what twice of what is `doubled` brings to a score."""
    from regraft.studies.learning_curve.extrapolation import describe_gain

    gain = describe_gain(curve.gain, curve.verdict)
    if curve.verdict == "unknown":
        return f"[bold green]Twice the {doubled}: the effect on {score} is {gain}[/bold green]."
    return f"[bold green]Twice the {doubled}: {gain}[/bold green] of {score}."


def lines_of_classes(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Lines with the names of classes in a column, and what is said of each, of the first of many."""
    names = [shorten(one_line(name), 28) for name, _ in rows[:_CLASSES]]
    width = max(map(display_width, names), default=0)
    lines = [
        f"  {escape(name + ' ' * (width - display_width(name)))}  {text}"
        for name, (_, text) in zip(names, rows, strict=False)
    ]
    if len(rows) > _CLASSES:
        lines.append(f"  and {len(rows) - _CLASSES} more classes with smaller gains (--out, --json)")
    return lines
