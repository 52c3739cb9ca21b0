"""What a run knows of its model and its data, in sentences for documents: a model card, a datasheet, Annex IV.

Input: the record of a run. Output: sentences and tables, which a document has to escape: names in them are from the
data. None of them names a folder of this machine. What the run does not know is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from regraft.data.samples import PARTS
from regraft.report.distillation import describe_lesson
from regraft.report.record import RunRecord
from regraft.report.sentences import PARTS as PART_NAMES
from regraft.report.task_report import Sentence, Table
from regraft.text import join_truncated, pluralize

#: Most classes that are named and rows of a table, and most notes and files.
_MAX_NAMED, _MAX_NOTES = 100, 20
_WEIGHTS, _SPLIT, _DIGITS = "model.safetensors", "split.csv", 12
_RESIZED = {
    "stretch": "stretched",
    "crop": "cropped at the center",
    "pad": "padded with the mean color",
}


@dataclass(frozen=True)
class ModelFacts:
    """What a run knows of its model, in sentences.

    Attributes:
        version: What identifies it, and when it was trained by which version of regraft.
        earlier: Which run it started from, and how the two compare.
        weights: Its pretrained weights and their license.
        training: How it was trained.
        inputs: What an image file becomes before the network sees it.
        cost: Its size, and what training and prediction took on which device.
        steps: Name and seconds of each step of the training.
        ood_rate: The share of in-distribution images to reject, 0.01 or the least that the validation images can
            resolve; None: such images cannot be rejected.
    """

    version: str
    earlier: str
    weights: list[str]
    training: list[str]
    inputs: str
    cost: list[str]
    steps: Table
    ood_rate: float | None


@dataclass(frozen=True)
class DataFacts:
    """What a run knows of its data, in sentences.

    Attributes:
        classes: Images of each class and part, the largest class first.
        more_classes: Number of the classes that are left out.
        total: Number of images of each part; "" if unknown.
        files: Formats, sizes and colors of the files; empty if the run is of an earlier version, which recorded none.
        missing: Files that are left out.
        related: Groups, and pictures that are the same.
        parts: How the images were divided.
        doubts: Copies, near duplicates, and labels that may be wrong.
        notes: What the scan said about the data.
        identity: The hash by which this state of the data can be recognized; "" if unknown.
    """

    classes: Table
    more_classes: int
    total: str
    files: list[str]
    missing: list[str]
    related: list[str]
    parts: list[str]
    doubts: list[str]
    notes: list[Sentence]
    identity: str


def model_facts(record: RunRecord) -> ModelFacts:
    """What a run knows of its model."""
    description, metrics = record.description, record.metrics
    steps = (metrics.get("time") or {}).get("steps") or {}
    ood = description.get("ood")
    return ModelFacts(
        version=_version(record),
        earlier=_earlier(record),
        weights=list(_weights(record)),
        training=list(_training(record)),
        inputs=_inputs(description.get("preprocessing") or {}),
        cost=list(_cost(record)),
        steps=(("Step", "Seconds"), [(name, f"{seconds:.1f}") for name, seconds in steps.items()]),
        ood_rate=max(0.01, math.ceil(100 / (ood["calibration_images"] + 1)) / 100) if ood else None,
    )


def data_facts(record: RunRecord) -> DataFacts:
    """What a run knows of its data."""
    data = record.metrics.get("data") or {}
    files = data.get("files") or {}
    parts = [part for part in PARTS if part in record.counts]
    totals = {name: sum(record.counts[part].get(name, 0) for part in parts) for name in record.classes}
    largest = sorted(record.classes, key=lambda name: -totals[name])
    rows: list[tuple[str, ...]] = [
        (name, *(f"{record.counts[part].get(name, 0):,}" for part in parts)) for name in largest[:_MAX_NAMED] if parts
    ]
    numbers = ", ".join(f"{count:,} {part}" for part, count in record.image_counts.items())
    notes: list[Sentence] = [(_without_folder(str(note), record),) for note in data.get("notes", ())]
    if len(notes) > _MAX_NOTES:
        notes[_MAX_NOTES:] = [(f"And {len(notes) - _MAX_NOTES:,} more notes.",)]
    split = record.hashes.get(_SPLIT)
    return DataFacts(
        classes=(("Class", *parts), rows),
        more_classes=max(0, len(largest) - _MAX_NAMED),
        total=f"In total: {numbers} images." if numbers else "",
        files=list(_files(files)),
        missing=list(_missing(data)),
        related=list(_related(record, files)),
        parts=list(_parts(record)),
        doubts=list(_doubts(record, files)),
        notes=notes,
        identity=f"{split} is the SHA-256 of {_SPLIT}, which lists each image with its label, part and SHA-256."
        if split else "",
    )  # fmt: skip


def _version(record: RunRecord) -> str:
    sha256, versions = record.hashes.get(_WEIGHTS, ""), record.description.get("versions") or {}
    finished = (record.metrics.get("time") or {}).get("finished")
    number = f"{sha256[:_DIGITS]}, the first digits of the SHA-256 of {_WEIGHTS}; " if sha256 else ""
    by = f"trained by regraft {versions['regraft']}" if "regraft" in versions else "trained by regraft"
    return f"{number}{by}{f', finished {finished}' if finished else ''}."


def _earlier(record: RunRecord) -> str:
    if earlier := record.metrics.get("earlier_run"):
        return f"The training started from the run {PurePath(earlier['run']).name}."
    weights = record.description.get("weights") or {}
    if weights.get("source") == "run":
        return f"The weights of the network are those of the run {PurePath(str(weights.get('name'))).name}."
    return "The run names no earlier version of the model."


def _weights(record: RunRecord) -> Iterator[str]:
    architecture = record.description["backbone"].get("timm_name", record.backbone)
    if record.has_random_weights:
        yield f"Backbone: {architecture}, from random initial weights."
        return
    weights = record.description.get("weights") or {}
    named = [
        ", ".join(_last(str(one[key])) for key in ("source", "name") if one.get(key)) or "unknown"
        for one in weights.get("members") or [weights]
    ]
    yield f"Backbone: {architecture}; pretrained weights: {'; '.join(named)}."
    if weights.get("license"):
        yield f"License of these weights: {weights['license']}."


def _training(record: RunRecord) -> Iterator[str]:
    metrics = record.metrics
    if text := record.training_sentence:
        yield text
    if search := record.backbone_search:
        yield (f"The backbone was chosen among {pluralize(len(search['candidates']), 'candidate')} by cross-validation "
               "of a linear head on training images.")  # fmt: skip
    training = metrics.get("training") or {}
    if training.get("refitted"):
        yield "In the end the head was fitted again on training and validation images."
    if distillation := metrics.get("distillation"):
        yield describe_lesson(distillation)


def _inputs(preprocessing: Mapping[str, Any]) -> str:
    size = preprocessing.get("size")
    if not size:
        return ""
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    how = _RESIZED.get(str(preprocessing.get("resize", "stretch")), "resized")
    return (
        f"An image file is decoded, {how} to {height} x {width} pixels (height x width; "
        f"{preprocessing.get('interpolation', 'bicubic')} interpolation), and normalized inside of the network. "
        "Training, evaluation, prediction and exports share this code."
    )


def _cost(record: RunRecord) -> Iterator[str]:
    metrics = record.metrics
    model, time = metrics.get("model") or {}, metrics.get("time") or {}
    training, peak = metrics.get("training") or {}, (metrics.get("memory") or {}).get("peak_megabytes")
    if model:
        yield f"{model['parameters']:,} parameters, {model['megabytes']:.1f} MB of weights."
    if seconds := time.get("train_seconds"):
        where = ", ".join(str(training[key]) for key in ("device", "precision") if training.get(key))
        memory = f", with at most {peak:,.0f} MB of memory" if peak else ""
        yield f"Trained in {seconds:,.0f} s{f' on {where}' if where else ''}{memory}."
    if (milliseconds := time.get("predict_ms_per_image")) is not None:
        yield f"There, a prediction took {milliseconds:.1f} ms for an image file."
    if processes := metrics.get("processes"):
        yield f"{processes['count']} processes trained together."


def _files(files: Mapping[str, Any]) -> Iterator[str]:
    if formats := files.get("formats"):
        yield f"Formats: {_counted(formats)}; {files['bytes'] / 1e6:,.1f} MB together."
    if modes := files.get("modes"):
        yield f"Color modes: {_counted(modes)}."
    if files.get("width") and files.get("height"):
        (low, middle, high), (least, median, most) = files["width"], files["height"]
        yield (f"Width: {low:,} to {high:,} pixels, median {middle:,}. Height: {least:,} to {most:,} pixels, median "
               f"{median:,}.")  # fmt: skip


def _counted(counts: Mapping[str, int]) -> str:
    return join_truncated(f"{name or 'unknown'} ({count:,})" for name, count in counts.items())


def _missing(data: Mapping[str, Any]) -> Iterator[str]:
    bad, ignored = data.get("bad", ()), data.get("ignored", ())
    if bad:
        names = join_truncated((f"{_last(file['path'])} ({file['reason']})" for file in bad), shown=5)
        verb = "was" if len(bad) == 1 else "were"
        yield f"{pluralize(len(bad), 'unreadable file')} {verb} left out: {names}."
    if ignored:
        yield f"{pluralize(len(ignored), 'other file is', 'other files are')} not used."


def _related(record: RunRecord, files: Mapping[str, Any]) -> Iterator[str]:
    options = record.settings.get("data") or {}
    if by := options.get("pool_by") or options.get("group_by"):
        count = f": {pluralize(files['groups'], 'group')} of {files['in_groups']:,} images" if files else ""
        yield f"Images belong to groups by “{by}”{count}."
    if files:
        pictures = pluralize(files["pictures"], "picture")
        yield f"Copies and near duplicates count as one picture: there are {pictures}."
    if evaluation := record.evaluations.get(record.part) if record.part else None:
        for one in evaluation.subgroups:
            what = f"{evaluation.counted}s"
            groups = join_truncated(f"{group.value} ({group.count:,})" for group in one.groups)
            yield f"Subgroups by “{one.by}” of the {PART_NAMES[record.part or 'test']} {what}: {groups}."


def _parts(record: RunRecord) -> Iterator[str]:
    options = record.settings.get("data") or {}
    if numbers := ", ".join(f"{PART_NAMES[part]} {count:,}" for part, count in record.image_counts.items()):
        yield f"Images by part: {numbers}."
    yield (
        "Validation images choose the epoch, the settings and the calibration; test images played no part in the model."
    )
    if "val" in options and "test" in options:
        yield (
            f"Where the data does not come in parts, {100 * options['val']:g} % are drawn for validation and "
            f"{100 * options['test']:g} % for the test, in proportion to the classes. Copies, near duplicates and "
            "images of a group stay in one part."
        )


def _doubts(record: RunRecord, files: Mapping[str, Any]) -> Iterator[str]:
    if files:
        copies, near = files["images"] - files["contents"], files["contents"] - files["pictures"]
        yield f"{pluralize(copies, 'image is an exact copy', 'images are exact copies')} of others."
        yield f"{pluralize(near, 'image is a near duplicate', 'images are near duplicates')} of others."
    if record.predictions is not None and record.task != "regression":
        if record.at_chance:
            yield f"No label is doubted: {record.at_chance}"
        else:
            count = len({suspect.path for suspect in record.suspects})
            what = pluralize(count, f"{record.counted} has", f"{record.counted}s have")
            yield (
                f"Of the {len(record.predictions):,} validation and test {record.counted}s, {what} a label that is "
                "more probably wrong than right (label_errors.csv)."
            )


def _without_folder(text: str, record: RunRecord) -> str:
    """A text with paths in the data's folder as relative ones."""
    folder = record.source.removesuffix("/").removesuffix(record.data_name)
    return text.replace(folder, "") if len(folder) > 1 else text


def _last(path: str) -> str:
    return path.replace("\\", "/").rsplit("/", 1)[-1]
