"""`regraft verify EXPORT`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from regraft.cli.output import console, print_json


def command(
    export: Annotated[Path, typer.Argument(help="The folder of an export.")],
    trust: Annotated[
        bool, typer.Option("--trust", help="Load an export whose format may run code (exported-program).")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Check that an export is whole and answers as it did, on the images that travel with it (exit code 1 if not)."""
    screen = console(json)
    with screen.status("Starting"):
        from regraft.pipeline.export import verify

        parity = verify(export, trust=trust)
    if json:
        print_json(parity.to_json())
        return
    screen.print(
        f"{escape(str(export))}: model, script and images are those that were exported; on {parity.images} "
        f"images it answers as the run did (largest difference of a probability {parity.largest_difference:.1e})."
    )
