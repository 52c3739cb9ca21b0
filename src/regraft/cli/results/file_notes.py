"""What `regraft predict` says of files after its answers: those not used, with several frames, or not readable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from regraft.cli.output import err, print_json
from regraft.text import pluralize

if TYPE_CHECKING:
    from regraft.models.inference import Prediction


def print_file_notes(
    files: Sequence[Any], ignored: Sequence[str], failed: Sequence[Prediction], *, json: bool, has_table: bool
) -> None:
    """Print the notes, and with `json` a line for each ignored file; a table has named unreadable files already.

    Raises `RegraftError` if files could not be read.
    """
    from regraft.data.decode import has_frames
    from regraft.data.ignored import describe_ignored
    from regraft.errors import RegraftError

    for name in ignored if json else ():
        print_json({"path": name, "ignored": "hidden, or no image by its extension"}, indent=None)
    for line in describe_ignored(ignored, Path):
        err.print(f"[yellow]not used:[/yellow] {escape(line)}")
    if several := [str(file) for file in files if isinstance(file, str | Path) and has_frames(file)]:
        what = pluralize(len(several), "image has", "images have")
        err.print(escape(f"{what} several frames or pages, such as {several[0]}; only the first is used."))
    for prediction in () if has_table else failed:
        err.print(f"[yellow]cannot be read:[/yellow] {escape(prediction.source)}: {escape(prediction.error or '')}")
    if failed:
        raise RegraftError(f"{len(failed)} of {len(files)} images could not be read.")
