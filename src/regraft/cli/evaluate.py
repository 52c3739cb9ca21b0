"""`regraft evaluate RUN [DATA]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from regraft.cli.output import console, listening, print_json


def command(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    data: Annotated[
        str | None,
        typer.Argument(help="Labelled images; default: the run's own test images, as predicted at its end."),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(help="train, val or test; default: test where the data has it, else everything."),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the predictions of every image to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the confusion matrix into this PNG.")] = None,
    on_bad: Annotated[str, typer.Option(help="Unreadable images: skip or error.")] = "skip",
    remote: Annotated[
        bool, typer.Option("--remote", help="Fetch images that a manifest names elsewhere, by URLs.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Accuracy with its interval, the classification report and the confusion matrix."""
    from regraft.data.dataset import PARTS
    from regraft.data.scan import OnBad
    from regraft.errors import UsageError
    from regraft.evaluation.metrics import evaluate
    from regraft.pipeline.evaluate import labelled, predict_dataset
    from regraft.pipeline.run import load

    if part is not None and part not in PARTS:
        raise UsageError(f"--part {part}: expected {', '.join(PARTS)}.")
    ways: tuple[OnBad, ...] = ("skip", "error")
    if on_bad not in ways:
        raise UsageError(f"--on-bad {on_bad}: expected skip or error.")
    loaded = load(run)
    screen = console(json)
    bad: list[dict[str, str]] = []
    if data is None:
        present = set(loaded.predictions.parts)
        chosen = part or ("test" if "test" in present else "val")
        if chosen not in present:
            raise UsageError(f"{run} keeps predictions of {', '.join(sorted(present))}; for {chosen} name the DATA.")
        predictions = loaded.predictions.part(chosen)
        what = f"the run's {chosen} images"
    else:
        with listening(screen) as listener:
            dataset = labelled(
                data,
                loaded.classifier,
                part,
                on_bad=on_bad,
                remote=remote,
                progress=lambda done, total: listener.work("scan", done, total, "images"),
            )
            predictions = predict_dataset(
                loaded.classifier,
                dataset,
                progress=lambda done, total: listener.work("evaluate", done, total, "images"),
            )
        bad = [{"path": b.path, "reason": b.reason} for b in dataset.bad]
        what = str(data)
    evaluation = evaluate(predictions)
    if csv:
        predictions.write_csv(csv)
    if plot:
        from regraft.report.confusion import plot_confusion

        plot_confusion(evaluation.confusion, predictions.classes, plot, title=what)
    if json:
        print_json({"run": str(run), "data": what, "bad": bad, **evaluation.to_json()})
        return
    screen.print(escape(f"{evaluation.count} images of {what}\n"))
    screen.print(escape(evaluation.report()))
    for file in bad:
        screen.print(f"[yellow]left out[/yellow] {escape(file['path'])}: {escape(file['reason'])}")
