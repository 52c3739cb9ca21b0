"""`regraft evaluate RUN|EXPORT [DATA]`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from regraft.cli.output import console, print_json
from regraft.pipeline.listening import listening

if TYPE_CHECKING:
    from regraft.data.dataset import Dataset
    from regraft.evaluation.predictions import Predictions
    from regraft.models.classifier import Classifier
    from regraft.models.inference import Predictor, Tta
    from regraft.training.progress import Listener


def command(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or of an export.")],
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
    tta: Annotated[
        str,
        typer.Option(help="Average over views: none, flip or crops; what it brings and costs is measured. Needs DATA."),
    ] = "none",
    on_bad: Annotated[str, typer.Option(help="Unreadable images: skip or error.")] = "skip",
    remote: Annotated[
        bool, typer.Option("--remote", help="Fetch images that a manifest names elsewhere, by URLs.")
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Load an export whose format may run code (exported-program).")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Accuracy with its interval, the classification report and the confusion matrix."""
    from regraft.data.dataset import PARTS
    from regraft.data.scan import OnBad
    from regraft.errors import UsageError
    from regraft.evaluation.comparison import SIGNIFICANT, paired_difference
    from regraft.evaluation.metrics import evaluate
    from regraft.exporting.exported import ExportedModel, is_export
    from regraft.models.inference import check_tta
    from regraft.pipeline.evaluate import labelled
    from regraft.pipeline.run import load

    if part is not None and part not in PARTS:
        raise UsageError(f"--part {part}: expected {', '.join(PARTS)}.")
    ways: tuple[OnBad, ...] = ("skip", "error")
    if on_bad not in ways:
        raise UsageError(f"--on-bad {on_bad}: expected skip or error.")
    views = check_tta(tta)
    if views != "none" and data is None:
        raise UsageError(f"--tta {views} needs DATA: the predictions that the run keeps are of the plain images.")
    exported = is_export(run)
    if exported and data is None:
        raise UsageError(f"{run} is an export and keeps no predictions; name the DATA.")
    loaded = load(run) if not exported else None
    model: Classifier | Predictor = ExportedModel(run, trust=trust) if loaded is None else loaded.classifier
    screen = console(json)
    gain: dict[str, Any] | None = None
    bad: list[dict[str, str]] = []
    if data is None:
        assert loaded is not None
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
                model,
                part,
                on_bad=on_bad,
                remote=remote,
                progress=lambda done, total: listener.work("scan", done, total, "images"),
            )
            predictions, milliseconds = _predicted(model, dataset, "none", listener)
            if views != "none":
                plain, plain_milliseconds = predictions, milliseconds
                predictions, milliseconds = _predicted(model, dataset, views, listener)
                gain = {
                    "tta": views,
                    "plain_accuracy": evaluate(plain).accuracy,
                    **paired_difference(predictions, plain).to_json(),
                    "milliseconds": milliseconds,
                    "plain_milliseconds": plain_milliseconds,
                }
        bad = [{"path": b.path, "reason": b.reason} for b in dataset.bad]
        what = str(data)
    evaluation = evaluate(predictions)
    if csv:
        predictions.write_csv(csv)
    if plot:
        from regraft.report.confusion import plot_confusion

        plot_confusion(evaluation.confusion, predictions.classes, plot, title=what)
    if json:
        tested = {"tta": gain} if gain else {}
        print_json({"run": str(run), "data": what, "bad": bad, **evaluation.to_json(), **tested})
        return
    screen.print(escape(f"{evaluation.count} images of {what}\n"))
    screen.print(escape(evaluation.report()))
    if gain:
        low, high = gain["interval"]
        screen.print(
            f"{views}: {100 * gain['accuracy']:+.1f} points of accuracy (95 % interval {100 * low:+.1f} to "
            f"{100 * high:+.1f}; {gain['only_first']} images better, {gain['only_second']} worse, p = {gain['p']:.2g}) "
            f"for {gain['milliseconds']:.1f} ms an image in place of {gain['plain_milliseconds']:.1f}."
            + ("" if gain["p"] < SIGNIFICANT else " Such a difference may be chance."),
        )
    for file in bad:
        screen.print(f"[yellow]left out[/yellow] {escape(file['path'])}: {escape(file['reason'])}")
    if data is None:
        further = f"regraft explain {run} --mistakes 6   (where it looks in what it gets wrong)"
    else:
        further = f"regraft evaluate {run} {data} --csv answers.csv   (each answer beside its label)"
    screen.print(f"\n[bold]Try next[/bold]\n  {escape(further)}")


def _predicted(
    classifier: Classifier | Predictor, dataset: Dataset, views: Tta, listener: Listener
) -> tuple[Predictions, float]:
    """The predictions, and how many milliseconds an image took from its file."""
    from regraft.pipeline.evaluate import predict_dataset

    started = time.perf_counter()
    predictions = predict_dataset(
        classifier,
        dataset,
        tta=views,
        progress=lambda done, total: listener.work("evaluate", done, total, "images"),
    )
    return predictions, 1000 * (time.perf_counter() - started) / len(dataset)
