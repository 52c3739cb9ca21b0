"""`regraft crossval DATA`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.markup import escape
from typer import Option

from regraft.cli.options import (
    AskedTask,
    Backbone,
    ClassWeights,
    ClusterAddress,
    ClusterCpus,
    ConfigFile,
    FolderLayout,
    GroupBy,
    Json,
    LabeledData,
    LabelSeparator,
    Settings,
    Unlabeled,
    Weights,
    cluster_of,
)
from regraft.cli.output import console, print_json
from regraft.cli.tasks.classification import print_report
from regraft.runs.progress import rich_progress
from regraft.text import pluralize

if TYPE_CHECKING:
    from regraft.studies.label_cross_validation import MultilabelCrossValidation

#: Number of suspected label errors that the terminal lists.
_SUSPECTS = 8


def command(
    data: LabeledData,
    k: Annotated[int, Option("-k", "--folds", help="Number of folds.")] = 5,
    repeats: Annotated[int, Option(help="Number of different divisions into folds.")] = 1,
    backbone: Backbone = None,
    weights: Weights = None,
    seed: Annotated[int | None, Option(help="Seed of the folds.")] = None,
    class_weights: ClassWeights = None,
    group_by: GroupBy = None,
    layout: FolderLayout = None,
    task: AskedTask = None,
    label_separator: LabelSeparator = None,
    unlabeled: Unlabeled = None,
    config: ConfigFile = None,
    settings: Settings = None,
    out: Annotated[Path | None, Option(help="A new folder for the predictions and suspected labels.")] = None,
    cluster: ClusterAddress = None,
    cluster_cpus: ClusterCpus = None,
    json: Json = False,
) -> None:
    """Cross-validate the linear head on frozen features, which are computed once."""
    screen = console(json)
    overrides = {
        "model.backbone": backbone, "model.weights": weights, "training.seed": seed, "data.group_by": group_by,
        "data.layout": layout, "data.task": task, "data.label_separator": label_separator,
        "data.unlabelled": unlabeled, "training.class_weights": class_weights,
    }  # fmt: skip
    with screen.status("Starting"):
        from regraft.config import load_config

        resolved = load_config(config, settings or [], overrides)
        from regraft.evaluation.stored_predictions import find_predictions
        from regraft.studies.cross_validation import CrossValidation, cross_validate
    with rich_progress(screen) as reporter:
        result = cross_validate(
            data, k, repeats=repeats, config=resolved, out=out, cluster=cluster_of(cluster, cluster_cpus),
            reporter=reporter,
        )  # fmt: skip
    if json:
        print_json(result.to_json())
        return
    screen.print()
    if not isinstance(result, CrossValidation):
        _print_labels(screen, result, out)
        return
    print_report(screen, result.evaluation, "--json lists all")
    for number, row in enumerate(result.accuracies, start=1):
        screen.print(f"Repeat {number}: " + "  ".join(f"{100 * value:.1f} %" for value in row))
    low, high = result.accuracy_interval
    screen.print(
        f"[bold green]Accuracy {100 * result.accuracy:.1f} %[/bold green] (95 % interval {100 * low:.1f} to "
        f"{100 * high:.1f}) on {pluralize(len(result.predictions), 'image')}; standard deviation between folds "
        f"{100 * result.accuracies.std(ddof=1):.1f} points. Head only, without augmentation or fine-tuning."
    )
    if use := result.unlabeled:
        screen.print(
            f"Unlabeled images: {use['compared']:,} helped in {use['folds_used']} of "
            f"{use['folds']} folds; accuracy {100 * use['accuracy_without']:.1f} % without them."
        )
    if at_chance := result.evaluation.at_chance:
        screen.print(f"[yellow]{escape(at_chance)} Likely label errors are withheld.[/yellow]")
    if result.suspects:
        screen.print(f"\n{pluralize(len(result.suspects), 'label is', 'labels are')} probably wrong, for example")
        for path, label, suggested, probability in result.suspects[:_SUSPECTS]:
            screen.print(escape(f"  {path}: {label}, looks like {suggested} ({100 * probability:.0f} %)"))
    screen.print(_describe_time(result.seconds, result.k * len(result.accuracies)))
    if out:
        predictions = find_predictions(out)
        names = (predictions.name if predictions else "", "label_errors.csv", "confusion_matrix.png", "crossval.json")
        screen.print(escape(f"{out}: {', '.join(names)}"))


def _describe_time(seconds: dict[str, float], heads: int) -> str:
    return (
        f"\n{seconds['total']:.1f} s: scan {seconds['scan']:.1f}, features {seconds['features']:.1f}, "
        f"{heads} heads {seconds['heads']:.1f}."
    )


def _print_labels(screen: Console, result: MultilabelCrossValidation, out: Path | None) -> None:
    """Print the result where an image has any number of classes."""
    screen.print(escape(str(result.evaluation)))
    for number, row in enumerate(result.mean_average_precisions, start=1):
        screen.print(f"mAP by fold, repeat {number}: " + "  ".join(f"{value:.3f}" for value in row))
    count = pluralize(len(result.predictions), "image")
    screen.print(
        f"{count}, each predicted by a head that was fitted without it, and answered by thresholds of the other folds. "
        "Head only, without augmentation or fine-tuning."
    )
    screen.print(_describe_time(result.seconds, result.macro_f1s.size))
    if out:
        screen.print(escape(f"{out}: predictions.csv, crossval.json"))
