"""Start a run from an earlier one: take over its head, and say what stays and which images both runs know.

Input: a model that was built with the weights of an earlier run, and the split of the new one. Output: the head's rows
of the classes that stay, and sentences for the user.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from regraft.config import Config, load_run_config
from regraft.data.band_values import Bands, check_bands
from regraft.data.dataset import Dataset, Split
from regraft.data.preprocessing import Preprocessing
from regraft.data.samples import Part
from regraft.data.taxonomy import Taxonomy
from regraft.models.classifier import Classifier
from regraft.models.run_description import read_run_description
from regraft.models.serialization import load_classifier
from regraft.runs.class_changes import ClassChanges
from regraft.runs.run import CONFIG, UNLABELED, Run
from regraft.runs.run_images import read_rows, split_rows
from regraft.text import join_truncated, pluralize
from regraft.training.callbacks import Epoch, HeadFit, Training
from regraft.training.phase_plan import plan_phases


def tree_of_earlier(config: Config) -> Taxonomy | None:
    """The tree of the run that a training starts from, with the changes of its classes; None if it has none."""
    if not config.run.from_run:
        return None
    earlier = Run(config.run.from_run)
    tree = Taxonomy.from_json(earlier.description.get("taxonomy"), earlier.classes)
    if tree is not None and config.run.class_changes:
        return ClassChanges.parse(config.run.class_changes, earlier.classes).of_taxonomy(tree)
    return tree and replace(tree, name=f"The tree of {config.run.from_run}")


def take_head(model: Classifier, run: Path) -> None:
    """Copy the rows of the classes that stay from the head of a run, if the heads have the same shape.

    Images of more than 8 bits are scaled as in that run, whose features and weights are of such images.
    """
    earlier = load_classifier(run)
    model.preprocessing = model.preprocessing.for_value_range(earlier.preprocessing.value_range)
    if model.head.has_shape_of(earlier.head):
        model.head.copy_rows(model.classes, earlier.head, earlier.classes)


def bands_of_earlier(run: Path, dataset: Dataset) -> Bands | None:
    """The bands of a run's model, with their values there; `UsageError` if the data has others."""
    bands = Preprocessing.from_json(read_run_description(str(run))["preprocessing"]).bands
    check_bands(bands, dataset.band_numbers)
    return bands


def training_of(run: Run) -> Training:
    """The training of a finished run, as far as one that continues it needs it."""
    time = run.metrics["time"]
    return Training(
        history=[Epoch(**row) for row in run.history],
        head_path=[HeadFit(**row) for row in run.head_path],
        seconds={**time["steps"], "total": time["train_seconds"]},
        prefix_backend=run.metrics["training"]["prefix_backend"],
        unlabeled=run.metrics.get("unlabelled", {}),
        int8=run.metrics["training"].get("int8", {}),
    )


def notes_on_earlier_run(model: Classifier, split: Split, config: Config) -> Iterator[str]:
    """Say which classes stay, and which images were in another part of the run that the weights are from."""
    if config.run.from_run:
        run = Path(config.run.from_run)
        yield _classes(model, run, config)
        earlier = load_run_config(run / CONFIG).data.unlabelled if (run / CONFIG).is_file() else ""
        if earlier and not config.data.unlabelled:
            yield f"{run} had images without labels, {earlier}, and this run has none: only --unlabelled gives some."
    if model.weights.source == "run":
        yield from _moved_images(split, Path(model.weights.name))


def _classes(model: Classifier, run: Path, config: Config) -> str:
    earlier = load_classifier(run)
    stay = [name for name in model.classes if name in earlier.classes]
    if plan_phases(model, config.training).head == "lbfgs":
        verb, rest = ("stays", "stay"), "The head is fitted anew on all images."
    elif model.head.has_shape_of(earlier.head):
        verb, rest = ("keeps its row", "keep their rows"), "The head is trained from these rows."
    else:
        verb, rest = ("stays", "stay"), "The head has another shape and is trained anew."
    changes = [
        f"{join_truncated(names)} {one if len(names) == 1 else many}"
        for names, (one, many) in (
            (stay, verb),
            ([name for name in model.classes if name not in stay], ("is new", "are new")),
            ([name for name in earlier.classes if name not in stay], ("is gone", "are gone")),
        )
        if names
    ]
    return f"Start from {run}: {'; '.join(changes)}. {rest}"


def _moved_images(split: Split, run: Path) -> Iterator[str]:
    part_of = {row["sha256"]: row["part"] for row in split_rows(run) if row.get("sha256")}
    unlabeled = {row["sha256"]: "unlabeled" for row in read_rows(run / UNLABELED) if row.get("sha256")}
    part_of = unlabeled | part_of

    def count(part: Part, *earlier: str) -> int:
        known = split[part].table.sha256s() if part in split else iter(())
        return sum(part_of.get(sha256) in earlier for sha256 in known)

    advice = f"`--keep-split {run}` (in Python: split(..., keep={str(run)!r})) keeps the parts of data that has none."
    later: tuple[Part, ...] = ("val", "test")
    for part in later:
        if seen := count(part, "train"):
            yield (
                f"{pluralize(seen, 'image', 'images')} of the {part} part trained {run}, from which this model starts: "
                f"results on them are too good. {advice}"
            )
        if seen := count(part, "unlabeled"):
            yield (
                f"{pluralize(seen, 'image', 'images')} of the {part} part had no label in {run}, from which this model "
                f"starts, and its head may have learned from them: results on them may be too good."
            )
    if moved := count("train", "val", "test"):
        yield (
            f"{pluralize(moved, 'image', 'images')} of the train part were in the val or test part of {run}: the "
            f"results of the two runs cannot be compared on them. {advice}"
        )
