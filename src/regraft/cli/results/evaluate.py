"""`regraft evaluate RUN|EXPORT [DATA]`."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.markup import escape
from typer import Argument, Option

from regraft.cli.options import (
    By,
    ClusterAddress,
    ClusterCpus,
    ImageColumn,
    Json,
    LabelColumn,
    LabelSeparator,
    Remote,
    RunOrExport,
    Trust,
    cluster_of,
    probability,
)
from regraft.cli.output import console, print_json, print_subgroups
from regraft.cli.tasks import OUTPUTS
from regraft.runs.progress import rich_progress

if TYPE_CHECKING:
    from regraft.cluster.executor import Cluster
    from regraft.data.dataset import Dataset
    from regraft.evaluation.tasks import AnyPredictions
    from regraft.models.classifier import Classifier
    from regraft.models.inference import Predictor, Tta
    from regraft.training.callbacks import ProgressReporter

#: What an evaluation in a folder is, as in `--json`.
_EVALUATION = "evaluation.json"


def command(
    run: RunOrExport,
    data: Annotated[
        str | None, Argument(help="Labeled images. Default: the run's stored predictions of its test images.")
    ] = None,
    part: Annotated[str | None, Option(help="train, val or test. Default: test if DATA has it, else all.")] = None,
    min_confidence: Annotated[
        float | None, probability("With a tree: measure answers this sure. Default: 95 % right.")
    ] = None,
    csv: Annotated[Path | None, Option(help="Write the prediction of every image to this file.")] = None,
    plot: Annotated[Path | None, Option(help="Draw confusion matrix or precision over recall.")] = None,
    tta: Annotated[str, Option(help="Test-time augmentation of DATA, measured: none, flip or crops.")] = "none",
    on_unreadable: Annotated[str, Option(help="Unreadable images: skip or error.")] = "skip",
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    label_separator: LabelSeparator = None,
    pool_by: Annotated[
        str | None, Option(metavar="NAME", help="As in `train`; '': an answer for each image. Default: the model's.")
    ] = None,
    by: By = None,
    remote: Remote = False,
    trust: Trust = False,
    out: Annotated[
        Path | None,
        Option(help="Folder for metrics, predictions and their picture; it can be continued."),
    ] = None,
    cluster: ClusterAddress = None,
    cluster_cpus: ClusterCpus = None,
    json: Json = False,
) -> None:
    """Print accuracy or mean average precision with intervals, and the metrics of each class."""
    from regraft.atomic_io import write_json
    from regraft.cli.results.answers import describe_others
    from regraft.data.dataset import PARTS
    from regraft.data.pooling import groups_of
    from regraft.data.scan import OnUnreadable
    from regraft.errors import UsageError
    from regraft.evaluation.stored_predictions import find_predictions
    from regraft.exporting.exported_model import ExportedModel, is_export
    from regraft.models.inference import check_tta
    from regraft.runs.evaluate import evaluate_images, select_labeled
    from regraft.runs.run import classifier_of, load
    from regraft.runs.subgroups import evaluate_stored

    if part is not None and part not in PARTS:
        raise UsageError(f"--part {part}: expected {', '.join(PARTS)}.")
    choices: tuple[OnUnreadable, ...] = ("skip", "error")
    if on_unreadable not in choices:
        raise UsageError(f"--on-unreadable {on_unreadable}: expected skip or error.")
    views = check_tta(tta)
    if pool_by is not None and data is None:
        raise UsageError("--pool-by needs DATA: the run's stored predictions are as the model was trained.")
    if views != "none" and data is None:
        raise UsageError(f"--tta {views} needs DATA: the run's stored predictions are without augmentation.")
    on_cluster = cluster_of(cluster, cluster_cpus)
    if on_cluster and (out is None or data is None):
        raise UsageError("--cluster needs DATA and --out FOLDER, which every node can write.")
    exported = is_export(run)
    # With DATA the folder of parts checks it.
    is_foreign = out is not None and data is None and out.exists() and not (out / _EVALUATION).is_file()
    if out is not None and is_foreign and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not an empty folder, and nothing is overwritten. Choose another --out.")
    if exported and data is None:
        raise UsageError(f"{run} is an export and has no stored predictions. Give DATA.")
    screen = console(json)
    gain: dict[str, Any] | None = None
    bad: list[dict[str, str]] = []
    ignored: list[str] = []
    if data is None:
        own = load(run)
        predictions = own.stored(part)
        evaluation = evaluate_stored(own, part, by=by or (), min_confidence=min_confidence)
        task = OUTPUTS[own.task]
        title = f"the run's {predictions.parts[0]} images"
        counted = own.metrics.get("groups", {}).get(predictions.parts[0], {}).get("text")
    else:
        loaded = ExportedModel(run, trust=trust) if exported else load(run)
        model = classifier_of(loaded)
        if model.task == "regression" and (out is not None or views != "none"):
            flag = "--out" if out is not None else "--tta"
            raise UsageError(
                f"{flag} is for models that give classes, and {run} gives numbers. Expected --csv or --plot."
            )
        with rich_progress(screen) as reporter:
            progress = partial(reporter.on_progress, "scan", detail="images")
            dataset = select_labeled(
                data, model, part, on_unreadable=on_unreadable, remote=remote, image_column=image_column or "",
                label_column=label_column or "", label_separator=label_separator or "", pool_by=pool_by,
                by=by or (), progress=progress,
            )  # fmt: skip
            if dataset.pool_by and out is not None:
                raise UsageError("--out keeps answers for single images, and here groups get one each: use --csv.")
            place = None if out is None else _Parts(run, out, on_cluster, trust if exported else None)
            predictions, gain = _predict(model, dataset, views, reporter, place)
            progress = partial(reporter.on_progress, "near duplicates", detail="pairs")
            evaluation = evaluate_images(loaded, dataset, predictions, min_confidence=min_confidence, progress=progress)
        task = OUTPUTS[dataset.task]
        bad = [{"path": b.path, "reason": b.reason} for b in dataset.bad]
        ignored = list(dataset.ignored)
        for note in dataset.notes:
            screen.print(f"[dim]{escape(note)}[/dim]")
        title = data
        groups = groups_of(dataset)
        if note := describe_others(model, grouped=groups is not None):
            screen.print(f"[yellow]{escape(note)}[/yellow]")
        counted = None if groups is None else groups.describe()
    counted = counted or f"{evaluation.count} images"
    calibration = task.measure_calibration(predictions)
    extra: dict[str, Any] = {"tta": gain} if gain else {}
    extra |= {"calibration": calibration.to_json() | {"is_miscalibrated": calibration.is_miscalibrated}}
    value = {"run": str(run), "data": title, "bad": bad, "ignored": ignored, **evaluation.to_json(), **extra}
    if out is not None:
        write_json(out / _EVALUATION, value)
        if note := task.write(predictions, out):
            screen.print(f"[yellow]{escape(note)}[/yellow]")
    if csv is not None:
        predictions.write_csv(csv)
    for picture in filter(None, (plot, out and out / task.PLOT)):
        task.plot(evaluation, predictions, picture, title)
    if json:
        print_json(value)
        return
    screen.print(escape(f"{counted} of {title}\n"))
    task.print_report(screen, evaluation, "--json lists all")
    print_subgroups(screen, evaluation)
    screen.print(f"{task.CALIBRATION_ERROR}: {calibration.describe(evaluation.counted)}.")
    for caution in task.cautions(evaluation):
        if caution:
            screen.print(f"[yellow]{escape(caution)}[/yellow]")
    if gain:
        _print_gain(screen, gain, task.ACCURACY)
    for file in bad:
        screen.print(f"[yellow]left out[/yellow] {escape(file['path'])}: {escape(file['reason'])}")
    if data is None:
        advice = task.advice(run)
    else:
        options = "--tta flip   (is the mean over an image and its mirror image better?)"
        if dataset.task == "regression" or dataset.pool_by:  # for which there is no --out
            options = f"--csv answers.csv --plot {task.PLOT}"
        elif out is None:
            options = "--out evaluated   (predictions, metrics and their picture as files)"
        advice = f"{shlex.join(['regraft', 'evaluate', str(run), data])} {options}"
    if out is not None:
        table = find_predictions(out)
        screen.print(escape(f"\n{out}: evaluation.json, {table.name if table else ''}, {task.PLOT}"))
    screen.print(f"\n[bold]Try next[/bold]\n  {escape(advice)}")


@dataclass(frozen=True)
class _Parts:
    """Where predictions are kept and computed; `trust` is None for a run."""

    model: Path
    out: Path
    cluster: Cluster | None
    trust: bool | None


def _predict(
    model: Classifier | Predictor, dataset: Dataset, views: Tta, reporter: ProgressReporter, place: _Parts | None
) -> tuple[AnyPredictions, dict[str, Any] | None]:
    """Predict; with test-time augmentation, also compare its accuracy and time with plain prediction."""
    from regraft.evaluation.comparison import paired_difference
    from regraft.evaluation.regression.predictions import RegressionPredictions
    from regraft.evaluation.tasks import evaluate_any
    from regraft.runs.evaluate import predict_dataset

    def predict(tta: Tta) -> AnyPredictions:
        if place is None:
            progress = partial(reporter.on_progress, "evaluate", detail="images")
            return predict_dataset(model, dataset, tta=tta, progress=progress)
        from regraft.exporting.exported_model import ExportedModel
        from regraft.runs.prediction_parts.dataset import predict_dataset_parts
        from regraft.runs.run import classifier_of

        opener = classifier_of if place.trust is None else partial(ExportedModel, trust=place.trust)
        out = place.out if views == "none" else place.out / tta
        return predict_dataset_parts(
            place.model,
            dataset,
            out,
            opener=opener,
            thresholds=model.thresholds,
            tta=tta,
            cluster=place.cluster,
            reporter=reporter,
        )

    def timed(tta: Tta) -> tuple[AnyPredictions, float]:
        started = time.perf_counter()
        predictions = predict(tta)
        return predictions, 1000 * (time.perf_counter() - started) / len(dataset)

    plain, plain_milliseconds = timed("none")
    if views == "none":
        return plain, None
    predictions, milliseconds = timed(views)
    assert not isinstance(plain, RegressionPredictions)
    assert not isinstance(predictions, RegressionPredictions)  # which `command` has refused
    gain = {
        "tta": views,
        "plain_accuracy": evaluate_any(plain).accuracy,
        **paired_difference(predictions, plain).to_json(),
    }
    if place is None:  # else parts of an earlier call may have been found
        gain |= {"milliseconds": milliseconds, "plain_milliseconds": plain_milliseconds}
    return predictions, gain


def _print_gain(screen: Console, gain: dict[str, Any], accuracy: str) -> None:
    from regraft.evaluation.comparison import SIGNIFICANT

    low, high = gain["interval"]
    screen.print(
        f"{gain['tta']}: {100 * gain['accuracy']:+.1f} points of {accuracy} (95 % interval {100 * low:+.1f} to "
        f"{100 * high:+.1f}; {gain['only_first']} images better, {gain['only_second']} worse, p = {gain['p']:.2g})"
        + _describe_time(gain)
        + ("" if gain["p"] < SIGNIFICANT else " The difference is not significant.")
    )


def _describe_time(gain: dict[str, Any]) -> str:
    if "milliseconds" not in gain:
        return "."
    return f" for {gain['milliseconds']:.1f} ms per image instead of {gain['plain_milliseconds']:.1f}."
