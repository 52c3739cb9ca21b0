"""Progress of the work as HTML for the output of a notebook cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from regraft.report.html import render_fragment

#: Maximum number of rows of the history, of messages, and of messages that are not folded.
_MAX_EPOCHS, _MAX_MESSAGES, _UNFOLDED = 24, 40, 3


def progress(bars: Mapping[str, tuple[int, int, str]], messages: Sequence[str], epochs: Sequence[Any]) -> str:
    """Draw how far the work is.

    `bars` has units done, units in total and a detail by the name of the work; of the finished epochs,
    `regraft.training.callbacks.Epoch`, those of earlier trainings are left out.
    """
    starts = [
        i for i, row in enumerate(epochs)
        if row.epoch == 1 and not (i and (epochs[i - 1].phase, row.phase) == ("head", "finetune"))
    ]  # fmt: skip
    rows = epochs[starts[-1] :] if starts else epochs
    recent = messages[-_MAX_MESSAGES:]
    return render_fragment("progress.html.jinja", bars=bars, earlier=recent[:-_UNFOLDED], last=recent[-_UNFOLDED:],
                           epochs=rows[-_MAX_EPOCHS:])  # fmt: skip
