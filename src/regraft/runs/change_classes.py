"""Rename, merge or drop classes of a run, into a new run.

Input: a run and `ClassChanges`. Output: a new run. New names change no number: the rows of the head, the predictions
and the metrics are those of the run, and so it is where one of several labels is dropped. Where classes are merged, or
dropped from those that exclude each other, the head is fitted anew on the features of the run's images, and the model
is calibrated and evaluated again: the probability of a merged class is a sum of exponentials of logits, which no row of
a linear head gives, and that of one of several labels depends on how often they come together.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from regraft.atomic_io import write_csv, write_json, write_text
from regraft.config import Config, load_config
from regraft.data.labels import names_in
from regraft.data.samples import Part
from regraft.data.taxonomy import Taxonomy
from regraft.errors import RegraftError, UsageError, suggest_names
from regraft.evaluation.hierarchy import hierarchy_of_part
from regraft.evaluation.metrics import evaluate
from regraft.evaluation.stored_predictions import CSV, find_predictions, write_predictions
from regraft.evaluation.subgroups import Subgroups, json_of_subgroups, subgroups_from_json
from regraft.evaluation.training_overlap import TrainingOverlap
from regraft.models.classifier import Classifier
from regraft.models.serialization import load_classifier, save_classifier
from regraft.report import plots
from regraft.runs.class_changes import ClassChanges
from regraft.runs.earlier_images import location_of, source_record
from regraft.runs.exemplars import rename_exemplars
from regraft.runs.progress import with_progress
from regraft.runs.report import write_report
from regraft.runs.run import CONFIG, HEAD_PATH, HISTORY, METRICS, SOURCE, SPLIT, UNLABELED, Run, open_model
from regraft.runs.run_folder import lock_run, new_folder
from regraft.runs.run_images import data_of, split_rows
from regraft.runs.scan_and_split import refuse_groups, refuse_numbers, refuse_order
from regraft.runs.subgroups import subgroups_of_run
from regraft.runs.tasks.base import PART_TITLES
from regraft.runs.tasks.classification import plot_levels
from regraft.runs.tasks.multilabel import MultilabelResults
from regraft.runs.train_from import train_from
from regraft.text import in_shell, join_truncated
from regraft.training.callbacks import NullReporter, ProgressReporter
from regraft.training.task_options import given_weights

#: Files that new names of classes leave as they are.
_SAME = (HISTORY, HEAD_PATH, UNLABELED, "plots/training_history.png", "plots/reliability.png")


@suggest_names
@with_progress
def change_classes(
    run: Run | Path | str,
    *,
    rename: Mapping[str, str] | None = None,
    merge: Mapping[str, Sequence[str]] | None = None,
    drop: Sequence[str] = (),
    data: Path | str | None = None,
    out: Path | str | None = None,
    reporter: ProgressReporter | None = None,
) -> Run:
    """Make a new run of a run, with classes renamed, merged or dropped; the run itself stays as it is.

    New names change no number and need no image, nor does it to drop one of several labels of an image. Otherwise the
    head is fitted again on the features of the run's images, which keep their parts; the layers below it stay.

    Args:
        run: A run or its folder.
        rename: New names by the old ones.
        merge: The classes that become one, by its name, which may be that of one of them.
        drop: Classes that the new model does not know. Their images are left out, unless an image has several labels.
        data: The run's images, where classes are merged or dropped. Default: their path in the run.
        out: The folder of the new run, which must not contain a run yet. Default: a new one under `runs/`.
        reporter: As in `train`.

    Raises:
        UsageError: The run gives images a number, it has no such class, fewer than two would be left or not one of
            several labels, nothing changes, or the images are needed and are not there.
        RunError: `out` contains a run already.
        RegraftError: Reading the images or the training failed.

    Examples:
        >>> renamed = regraft.change_classes("runs/photos", rename={"rose": "roses"}, out="runs/renamed")
        >>> renamed.classes
        ('daisy', 'roses', 'tulip')
    """
    earlier, reporter = open_model(run), reporter or NullReporter()
    if not isinstance(earlier, Run):
        raise UsageError(f"The run is a {type(run).__name__}; expected a run or its folder.")
    refuse_numbers(earlier.task, "`regraft classes`")
    refuse_order(earlier.ordered, "`regraft classes`")
    refuse_groups(str(earlier.description.get("pool_by", "")), "`regraft classes`")
    drop = [drop] if isinstance(drop, str) else drop
    changes = ClassChanges.of(earlier.classes, rename or {}, merge or {}, drop, earlier.task)
    config = load_config(
        overrides={
            "run.from_run": str(earlier.path), "run.class_changes": changes.texts(), "training.finetune_epochs": 0,
            "training.budget": 0.0, "data.unlabelled": "",
        }
    )  # fmt: skip
    if isinstance(weights := config.training.class_weights, dict):
        named = changes.of_class_weights(given_weights(weights, earlier.classes))
        config = config.model_copy(update={"training": replace(config.training, class_weights=named or "none")})
    reporter.on_message(changes.describe())
    if not changes.needs_images:
        return _rename(earlier, changes, config, data, out, reporter)
    return train_from(data if data is not None else location_of(earlier), config, out, reporter=reporter)


def _rename(
    earlier: Run,
    changes: ClassChanges,
    config: Config,
    data: Path | str | None,
    out: Path | str | None,
    reporter: ProgressReporter,
) -> Run:
    """Write the run with new names, or without some labels; `model.json`, which makes a folder a run, comes last."""
    metrics = _renamed_metrics(earlier, changes, data, reporter)
    with lock_run(new_folder(out, earlier.path.resolve().name, "renamed")) as path:
        source = data_of(earlier)
        config = config.model_copy(update={"run": replace(config.run, data=source)})
        write_text(path / CONFIG, config.to_toml())
        if source:
            write_json(path / SOURCE, source_record(config, source))
        columns = ("path", "label", "part", "sha256")
        rows = [row | {"label": changes.of_label(row["label"]) or ""} for row in split_rows(earlier.path)]
        write_csv(path / SPLIT, columns, [[row[name] for name in columns] for row in rows])
        for name in _SAME:
            if (earlier.path / name).is_file():
                (path / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(earlier.path / name, path / name)
        model = _renamed_model(load_classifier(earlier.path), changes)
        if find_predictions(earlier.path):
            _write_predictions(earlier, changes, model.taxonomy, path)
        if gone := metrics["model"]["parameters"] - model.parameter_count():  # rows of dropped labels
            trainable = metrics["model"]["trainable_parameters"] - gone
            metrics["model"] = metrics["model"] | {
                "parameters": model.parameter_count(), "trainable_parameters": trainable, "megabytes": model.megabytes()
            }  # fmt: skip
        write_json(path / METRICS, metrics)
        save_classifier(model, path)
        rename_exemplars(earlier.path, path, changes)
        renamed = Run(path, model)
        write_report(renamed)
        return renamed


def _write_predictions(earlier: Run, changes: ClassChanges, tree: Taxonomy | None, path: Path) -> None:
    """Write the predictions of the run with changed classes, and draw them."""
    if earlier.task == "multilabel":
        of_labels = changes.of_label_predictions(earlier.label_predictions)
        of_labels.write_csv(path / CSV)
        part = _last_part(of_labels.parts)
        file = path / "plots" / "precision_recall.png"
        plots.precision_recall.plot_precision_recall(of_labels.part(part), file, title=f"{PART_TITLES[part]} images")
        return
    predictions = changes.of_predictions(earlier.predictions)
    write_predictions(predictions, path)
    part = _last_part(predictions.parts)
    evaluation, title = evaluate(predictions.part(part)), f"{PART_TITLES[part]} images"
    file = path / "plots" / "confusion_matrix.png"
    plots.confusion.plot_confusion(evaluation.confusion, changes.after, file, title=title)
    if (hierarchy := hierarchy_of_part(predictions, part, tree)) is not None:
        plot_levels(hierarchy, path / "plots", part)


def _last_part(parts: Sequence[str]) -> Part:
    return "test" if "test" in parts else "val"


def _sources(changes: ClassChanges) -> list[int]:
    """The number of the class of the run that each new class is."""
    sources = changes.sources()
    return [changes.before.index(sources[name][0]) for name in changes.after]


@torch.no_grad()
def _renamed_model(model: Classifier, changes: ClassChanges) -> Classifier:
    """The model with new names, whose outputs are in the order of these."""
    order, head = _sources(changes), model.head
    layer = head.classifier
    head.classifier = torch.nn.Linear(layer.in_features, len(order), device=layer.weight.device)
    head.classifier.weight.copy_(layer.weight[order])
    head.classifier.bias.copy_(layer.bias[order])
    head.thresholds = tuple(head.thresholds[i] for i in order) if head.thresholds else ()
    model.classes = changes.after
    model.taxonomy = model.taxonomy and changes.of_taxonomy(model.taxonomy)
    return model


def _renamed_metrics(
    earlier: Run, changes: ClassChanges, data: Path | str | None, reporter: ProgressReporter
) -> dict[str, Any]:
    if not (earlier.path / METRICS).is_file():
        raise UsageError(
            f"{earlier.path} is not finished. Finish it first: regraft train --resume {in_shell(earlier.path)}"
        )
    metrics = dict(earlier.metrics)
    if find_predictions(earlier.path):
        parts: list[Part] = [part for part in ("val", "test") if part in metrics]
        stored = {part: metrics[part].get("overlap") for part in parts}
        overlaps = {part: value and TrainingOverlap.from_json(value) for part, value in stored.items()}
        metrics |= (_label_metrics if earlier.task == "multilabel" else _class_metrics)(earlier, changes, overlaps)
        of_parts = {part: found for part in parts if (found := subgroups_from_json(earlier.metrics[part]))}
        if len(changes.after) < len(changes.before):  # else their numbers stay, too
            of_parts = _subgroups_of_labels(earlier, changes, of_parts, data, reporter)
        for part, subgroups in of_parts.items():
            metrics[part] |= json_of_subgroups(subgroups)
    images = dict(metrics.get("data") or {})
    counts = {
        part: {name: sum(of_part.get(old, 0) for old in changes.sources()[name]) for name in changes.after}
        for part, of_part in (images.get("counts") or {}).items()
    }
    metrics["data"] = images | {"classes": list(changes.after), "counts": counts}
    metrics["earlier_run"] = {"run": str(earlier.path.resolve()), "changes": changes.describe(), "comparison": None}
    return metrics


def _subgroups_of_labels(
    earlier: Run,
    changes: ClassChanges,
    before: Mapping[Part, Sequence[Subgroups]],
    data: Path | str | None,
    reporter: ProgressReporter,
) -> dict[Part, tuple[Subgroups, ...]]:
    """The subgroups of each part, measured anew on the labels that stay; none and a message without their values."""
    predictions = changes.of_label_predictions(earlier.label_predictions)
    try:
        return {
            part: subgroups_of_run(earlier, predictions.part(part), [one.by for one in of_part], data)
            for part, of_part in before.items()
        }
    except RegraftError as error:
        names = join_truncated(dict.fromkeys(one.by for of_part in before.values() for one in of_part))
        reporter.on_message(f"No subgroups by {names} are measured without the dropped labels. {error}")
        return {}


def _class_metrics(
    earlier: Run, changes: ClassChanges, overlaps: Mapping[Part, TrainingOverlap | None]
) -> dict[str, Any]:
    predictions = changes.of_predictions(earlier.predictions)
    tree = earlier.taxonomy and changes.of_taxonomy(earlier.taxonomy)
    return {
        part: replace(
            evaluate(predictions.part(part)), overlap=overlap, hierarchy=hierarchy_of_part(predictions, part, tree)
        ).to_json()
        for part, overlap in overlaps.items()
    }


def _label_metrics(
    earlier: Run, changes: ClassChanges, overlaps: Mapping[Part, TrainingOverlap | None]
) -> dict[str, Any]:
    """Metrics of the labels that stay; without a dropped one, how many images are right as a whole is another number.

    That of the training images, and of those without overlap, is then not known.
    """
    fitted, order = earlier.metrics["calibration"], _sources(changes)
    fitted = fitted | {name: [fitted[name][i] for i in order] for name in ("slopes", "offsets")}
    results = MultilabelResults.stored(changes.of_label_predictions(earlier.label_predictions), fitted)
    if len(order) == len(changes.before):
        return results.measure_with(overlaps)
    unknown = {
        part: overlap and replace(overlap, accuracy=None, accuracy_interval=None) for part, overlap in overlaps.items()
    }
    return {"train": {**earlier.metrics["train"], "accuracy": None}, **results.measure_with(unknown)}


def class_counts(run: Run) -> dict[str, dict[str, int]]:
    """Number of images of each class of a run, by part."""
    counts: dict[str, dict[str, int]] = {name: {} for name in run.classes}
    for row in split_rows(run.path):
        for name in names_in(row["label"], run.task):
            if (of_class := counts.get(name)) is not None:
                of_class[row["part"]] = of_class.get(row["part"], 0) + 1
    return counts
