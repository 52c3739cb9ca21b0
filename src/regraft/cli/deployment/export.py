"""`regraft export RUN --to FORMAT,...`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer import Option

from regraft.cli.options import Json, RunFolder, RunImages
from regraft.cli.output import console, err, parse_names, print_json
from regraft.runs.progress import rich_progress
from regraft.text import in_shell

if TYPE_CHECKING:
    from regraft.exporting.export import ExportResult


def command(
    run: RunFolder,
    to: Annotated[str, Option(help="Formats: onnx,openvino,litert,savedmodel,keras,h5,exported-program.")] = "",
    precision: Annotated[str, Option(help="fp32, fp16 (half the size) or int8 (fastest).")] = "fp32",
    with_maps: Annotated[
        bool, Option("--with-maps", help="Also return maps, for `regraft explain EXPORT` (onnx, openvino).")
    ] = False,
    data: RunImages = None,
    out: Annotated[Path | None, Option(help="Folder for the exports. Default: RUN/exports.")] = None,
    json: Json = False,
) -> None:
    """Export the model to other formats; an export is kept only if its predictions agree with the run's."""
    screen = console(json)
    with screen.status("Starting"):
        from regraft.exporting.export import export
        from regraft.exporting.formats import FORMATS, canonical_format

    names = parse_names(to)
    with rich_progress(err) as reporter:
        results = export(run, names, precision=precision, with_maps=with_maps, data=data, out=out, reporter=reporter)  # type: ignore[arg-type]  # checked there
    if json:
        print_json({str(result.path): result.to_json() for result in results})
        return
    _print_results(screen, results)
    first = escape(in_shell(results[0].path))
    trust = " --trust" if FORMATS[canonical_format(names[0])].runs_code else ""
    screen.print(f"\n[bold]Try next[/bold]\n  regraft predict {first} IMAGE{trust}")
    script = escape(in_shell(results[0].path / "predict.py"))
    screen.print(f"  python {script} IMAGE   [dim]without regraft[/dim]")
    if with_maps:
        screen.print(f"  regraft explain {first} IMAGE")
    screen.print(f"  regraft verify {first}{trust}   [dim]on any machine[/dim]")


def _print_results(screen: Console, results: Sequence[ExportResult]) -> None:
    from regraft.exporting.parity import METRIC_NAMES

    metric = results[0].parity.metric
    accuracy = f"{METRIC_NAMES[metric]} on {results[0].part}"
    same = {"accuracy": "same class", "micro_f1": "same labels", "r2": "same number"}[metric]
    columns = ("export", same, "largest difference", accuracy, "MB", "ms, 1 image", "ms, of 32")
    table = Table(*columns, box=None, header_style="bold")
    for result in results:
        parity = result.parity
        change, (low, high) = 100 * parity.score_difference, parity.score_interval
        table.add_row(
            escape(str(result.path)),
            f"{100 * parity.agreement:.2f} %",
            f"{parity.largest_difference:.1e}",
            f"{100 * parity.score:.1f} % ({change:+.1f}; {100 * low:+.1f} to {100 * high:+.1f})",
            f"{result.megabytes:.1f}",
            *(f"{ms:.1f}" for ms in result.milliseconds),
        )
    times = (f"{ms:.1f}" for ms in results[0].model_milliseconds)
    model_accuracy = f"{100 * results[0].parity.model_score:.1f} %"
    table.add_row("[dim]the run itself[/dim]", "", "", model_accuracy, "", *times)
    screen.print(table)
    screen.print(f"Compared on {results[0].parity.images:,} image files of the run's {results[0].part} part.")
    for result in results:
        name, encoded = escape(result.path.name), result.encoded
        if result.float_layers:
            screen.print(f"{name}: left in float, besides the head: {', '.join(result.float_layers)}.")
        if encoded:
            screen.print(
                f"{name} also takes the bytes of JPEG and PNG files: {100 * encoded['agreement']:.2f} % of "
                f"{encoded['images']:,} predictions agree, largest difference {encoded['largest_difference']:.1e}."
            )
