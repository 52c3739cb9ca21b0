"""Rename, merge or drop classes of a run, into a new run.

Input: a run and `ClassChanges`. Output: a new run. New names change no number: the rows of the head, the predictions
and the metrics are those of the run. Where classes are merged or dropped, the head is fitted anew on the features of
the run's images, and the model is calibrated and evaluated again: the probability of a merged class is a sum of
exponentials of logits, which no row of a linear head gives.
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
from regraft.data.samples import Part
from regraft.errors import UsageError, suggest_names
from regraft.evaluation.hierarchy import hierarchy_of_part
from regraft.evaluation.metrics import evaluate
from regraft.evaluation.stored_predictions import find_predictions, write_predictions
from regraft.evaluation.training_overlap import TrainingOverlap
from regraft.models.classifier import Classifier
from regraft.models.serialization import load_classifier, save_classifier
from regraft.report.plots.confusion import plot_confusion
from regraft.runs.class_changes import ClassChanges
from regraft.runs.earlier_images import location_of, source_record
from regraft.runs.exemplars import rename_exemplars
from regraft.runs.prepare import refuse_numbers
from regraft.runs.progress import with_progress
from regraft.runs.report import write_report
from regraft.runs.run import CONFIG, HEAD_PATH, HISTORY, METRICS, SOURCE, SPLIT, UNLABELED, Run, open_model
from regraft.runs.run_folder import lock_run, new_folder
from regraft.runs.run_images import data_of, split_rows
from regraft.runs.tasks.classification import plot_levels
from regraft.runs.train import train_from
from regraft.training.callbacks import NullReporter, ProgressReporter

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

    New names change no number and need no image. Otherwise the head is fitted again on the features of the run's
    images, which keep their parts; the layers below it stay.

    Args:
        run: A run or its folder.
        rename: New names by the old ones.
        merge: The classes that become one, by its name, which may be that of one of them.
        drop: Classes that the new model does not know; their images are left out.
        data: The run's images, where classes are merged or dropped. Default: their path in the run.
        out: The folder of the new run, which must not contain a run yet. Default: a new one under `runs/`.
        reporter: As in `train`.

    Raises:
        UsageError: The run gives images several labels, it has no such class, fewer than two would be left, nothing
            changes, or the images are needed and are not there.
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
    earlier.refuse_several_labels("`regraft classes`")
    drop = [drop] if isinstance(drop, str) else drop
    changes = ClassChanges.of(earlier.classes, rename or {}, merge or {}, drop)
    config = load_config(
        overrides={
            "run.from_run": str(earlier.path), "run.class_changes": changes.texts(), "training.finetune_epochs": 0,
            "training.budget": 0.0, "data.unlabelled": "",
        }
    )  # fmt: skip
    reporter.on_message(changes.describe())
    if changes.only_renames:
        return _rename(earlier, changes, config, out)
    return train_from(data if data is not None else location_of(earlier), config, out, reporter=reporter)


def _rename(earlier: Run, changes: ClassChanges, config: Config, out: Path | str | None) -> Run:
    """Write the run with new names; `model.json`, which makes a folder a run, comes last."""
    metrics = _renamed_metrics(earlier, changes)
    with lock_run(new_folder(out, earlier.path.resolve().name, "renamed")) as path:
        source = data_of(earlier)
        config = config.model_copy(update={"run": replace(config.run, data=source)})
        write_text(path / CONFIG, config.to_toml())
        if source:
            write_json(path / SOURCE, source_record(config, source))
        columns = ("path", "label", "part", "sha256")
        rows = [row | {"label": changes.new_name(row["label"])} for row in split_rows(earlier.path)]
        write_csv(path / SPLIT, columns, [[row[name] for name in columns] for row in rows])
        for name in _SAME:
            if (earlier.path / name).is_file():
                (path / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(earlier.path / name, path / name)
        model = _renamed_model(load_classifier(earlier.path), changes)
        if find_predictions(earlier.path):
            predictions = changes.of_predictions(earlier.predictions)
            write_predictions(predictions, path)
            part: Part = "test" if "test" in predictions.parts else "val"
            evaluation = evaluate(predictions.part(part))
            title = f"{'Test' if part == 'test' else 'Validation'} images"
            plot_confusion(evaluation.confusion, changes.after, path / "plots" / "confusion_matrix.png", title=title)
            if (hierarchy := hierarchy_of_part(predictions, part, model.taxonomy)) is not None:
                plot_levels(hierarchy, path / "plots", part)
        write_json(path / METRICS, metrics)
        save_classifier(model, path)
        rename_exemplars(earlier.path, path, changes)
        renamed = Run(path, model)
        write_report(renamed)
        return renamed


@torch.no_grad()
def _renamed_model(model: Classifier, changes: ClassChanges) -> Classifier:
    """The model with new names, whose outputs are in the order of these."""
    sources = changes.sources()
    order = torch.tensor([changes.before.index(sources[name][0]) for name in changes.after])
    layer = model.head.classifier
    layer.weight.copy_(layer.weight[order].clone())
    layer.bias.copy_(layer.bias[order].clone())
    model.classes = changes.after
    model.taxonomy = model.taxonomy and changes.of_taxonomy(model.taxonomy)
    return model


def _renamed_metrics(earlier: Run, changes: ClassChanges) -> dict[str, Any]:
    if not (earlier.path / METRICS).is_file():
        raise UsageError(f"{earlier.path} is not finished. Finish it first: regraft train --resume {earlier.path}")
    metrics = dict(earlier.metrics)
    if find_predictions(earlier.path):
        predictions = changes.of_predictions(earlier.predictions)
        tree = earlier.taxonomy and changes.of_taxonomy(earlier.taxonomy)
        for part in ("val", "test"):
            if part in metrics:
                stored = metrics[part].get("overlap")
                evaluation = evaluate(predictions.part(part))
                overlap = TrainingOverlap.from_json(stored) if stored else None
                hierarchy = hierarchy_of_part(predictions, part, tree)
                metrics[part] = replace(evaluation, overlap=overlap, hierarchy=hierarchy).to_json()
    data = dict(metrics.get("data") or {})
    counts = {
        part: {name: sum(of_part.get(old, 0) for old in changes.sources()[name]) for name in changes.after}
        for part, of_part in (data.get("counts") or {}).items()
    }
    metrics["data"] = data | {"classes": list(changes.after), "counts": counts}
    metrics["earlier_run"] = {"run": str(earlier.path.resolve()), "changes": changes.describe(), "comparison": None}
    return metrics


def class_counts(run: Run) -> dict[str, dict[str, int]]:
    """Number of images of each class of a run, by part."""
    counts: dict[str, dict[str, int]] = {name: {} for name in run.classes}
    for row in split_rows(run.path):
        if (of_class := counts.get(row["label"])) is not None:
            of_class[row["part"]] = of_class.get(row["part"], 0) + 1
    return counts
