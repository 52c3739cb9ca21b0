"""`regraft export RUN --to FORMAT,...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from regraft.cli.output import console, err, print_json
from regraft.pipeline.listening import listening


def command(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    to: Annotated[
        str,
        typer.Option(help="Formats: onnx, openvino, litert, savedmodel, keras, exported-program; several with commas."),
    ] = "",
    precision: Annotated[
        str, typer.Option(help="fp32, fp16 (half the size), or int8 (less than a third, and faster).")
    ] = "fp32",
    data: Annotated[
        str | None, typer.Option(help="The run's images; default: where the run says that they were.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the exports; default: RUN/exports.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print how each compares as JSON.")] = False,
) -> None:
    """Write the model in other formats; each is kept only if it answers as the run does, on image files."""
    screen = console(json)
    with screen.status("Starting"):
        from regraft.exporting.formats import FORMATS
        from regraft.pipeline.export import export

    names = [name.strip() for name in to.split(",") if name.strip()]
    with listening(err) as listener:
        done = export(run, names, precision=precision, data=data, out=out, listener=listener)  # type: ignore[arg-type]  # checked there
    if json:
        print_json({str(exported.path): exported.to_json() for exported in done})
        return
    accuracy = f"accuracy on {done[0].part}"
    columns = ("export", "same class", "largest difference", accuracy, "MB", "ms, 1 image", "ms, of 32")
    table = Table(*columns, box=None, header_style="bold")
    for exported in done:
        parity = exported.parity
        change, (low, high) = 100 * parity.accuracy_difference, parity.accuracy_interval
        table.add_row(
            escape(str(exported.path)),
            f"{100 * parity.agreement:.2f} %",
            f"{parity.largest_difference:.1e}",
            f"{100 * parity.accuracy:.1f} % ({change:+.1f}; {100 * low:+.1f} to {100 * high:+.1f})",
            f"{exported.megabytes:.1f}",
            *(f"{ms:.1f}" for ms in exported.milliseconds),
        )
    own = done[0].model_milliseconds
    table.add_row("[dim]the run itself[/dim]", "", "", f"{100 * done[0].parity.model_accuracy:.1f} %", "",
                  *(f"{ms:.1f}" for ms in own))  # fmt: skip
    screen.print(table)
    screen.print(f"Compared on {done[0].parity.images:,} image files of the run's {done[0].part} part.")
    for exported in done:
        name, encoded = escape(exported.path.name), exported.encoded
        if exported.floating:
            screen.print(f"{name}: left in float, besides the head: {', '.join(exported.floating)}.")
        if encoded:
            screen.print(
                f"{name} also takes the bytes of JPEG and PNG files: {100 * encoded['agreement']:.2f} % of "
                f"{encoded['images']:,} answers agree, the largest difference is {encoded['largest_difference']:.1e}."
            )
    first = escape(str(done[0].path))
    trust = " --trust" if FORMATS[names[0]].runs_code else ""
    screen.print(f"\n[bold]Try next[/bold]\n  regraft predict {first} IMAGE{trust}")
    screen.print(f"  python {escape(str(done[0].path / 'predict.py'))} IMAGE   [dim]without regraft[/dim]")
    screen.print(f"  regraft verify {first}{trust}   [dim]on any machine[/dim]")
