"""The images of the run that a training starts from: whether they train again, with new ones or other classes.

Input: a configuration with `run.from_run`, and new data. Output: the configuration with that decided, and one data set
of all images. The labels and parts of earlier images are those of the run's `split.csv`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from regraft import distributed
from regraft.cache import Cache
from regraft.config import Config
from regraft.config.config import KeepImages
from regraft.data.dataset import Dataset, Split
from regraft.data.entries import EntryTable
from regraft.data.labels import classes_in
from regraft.data.preprocessing import Preprocessing
from regraft.data.samples import Part, Sample
from regraft.data.scan import scan, scan_source
from regraft.data.sources.earlier import EARLIER, ImagesOrigin, join, open_origin, select
from regraft.data.sources.folders import Layout
from regraft.data.sources.grouping import with_groups
from regraft.data.sources.open import DataSource, open_data
from regraft.data.sources.taxonomy_file import read_taxonomy
from regraft.data.sources.urls import absolute
from regraft.data.storage import Folder
from regraft.data.stored_features import StoredFeatures
from regraft.data.strings import in_blocks
from regraft.data.taxonomy import Taxonomy
from regraft.errors import DataError, RegraftError, UsageError
from regraft.models.classifier import Classifier
from regraft.runs.class_changes import ClassChanges
from regraft.runs.earlier_run import tree_of_earlier
from regraft.runs.exemplars import Exemplars, read_exemplars
from regraft.runs.run import Run
from regraft.runs.run_images import origin_of, split_rows
from regraft.runs.scan_and_split import uses_earlier_images
from regraft.text import join_truncated, pluralize
from regraft.training.callbacks import ProgressReporter
from regraft.training.setup import check_stored


def with_decision(config: Config, data: Path | str, reporter: ProgressReporter) -> Config:
    """Decide `run.keep_images = auto`: all images of the earlier run train again if the data has none of them.

    Data that has some of them is taken for all that there is now: what it lacks was removed. Where the features of
    images have to replace them, the layers below the head stay as they are. Raises `UsageError` if the images are asked
    for and neither they nor their features can be read.
    """
    chosen = config.run.keep_images
    if not config.run.from_run:
        if chosen == "all" or config.run.class_changes:
            setting = "keep_images" if chosen == "all" else "class_changes"
            raise UsageError(f"run.{setting} needs a run to start from. Give it: --from RUN.")
        return config
    if chosen == "none" or config.run.class_changes:
        return config
    decided, notes, uses_features = distributed.on_rank_0(lambda: _decide(config, data, chosen, reporter))
    for note in notes:
        reporter.on_message(note)
    training = config.training
    if uses_features:
        training = replace(training, finetune_epochs=0, views=1, budget=0.0)
    return config.model_copy(update={"run": replace(config.run, keep_images=decided), "training": training})


def _decide(
    config: Config, data: Path | str, chosen: KeepImages, reporter: ProgressReporter
) -> tuple[KeepImages, list[str], bool]:
    """`all` or `none`, sentences for the user, and whether features replace images."""
    earlier, where = Run(config.run.from_run), _shown(config.run.from_run)
    known = [row["sha256"] for row in split_rows(earlier.path) if row.get("sha256")]
    new = _scan_new(config, data, _cache(config), reporter)
    own = set(new.table.sha256s())
    here, missing = sum(sha256 in own for sha256 in known), sum(sha256 not in own for sha256 in known)
    if not missing:
        return "none", [], False
    if chosen == "auto" and here:
        text = (
            f"{data} has {here:,} of the {len(known):,} images of {where}, so the others are taken for removed. "
            "To train on them, too: --keep-images all."
        )
        return "none", [text], False
    found = _find(earlier, own)
    if not found.count and found.exemplars is None:
        reason = found.reason or "none of the files is there"
        if earlier.task == "multilabel":
            reason += ", and no run keeps the features of images with several labels"
        if chosen == "all":
            raise UsageError(
                f"The images of {where} cannot be read: {reason}. Restore them, or train without them: "
                "--keep-images none."
            )
        text = f"The images of {where} cannot be read, so the model learns from the new ones alone: {reason}."
        return "none", [text], False
    notes = _check_labels(earlier, new, data, where)
    if found.count:
        notes.append(
            f"{pluralize(found.count, 'image')} of {where} {'is' if found.count == 1 else 'are'} used beside "
            f"those of {data}, each in its part. To do without: --keep-images none."
        )
    if found.exemplars is not None:
        notes.append(
            f"Images of {where} are gone. Features that it has kept replace them: the head is fitted anew, and the "
            "layers below it stay as they are."
        )
    return "all", notes, found.exemplars is not None


def _check_labels(earlier: Run, new: Dataset, data: Path | str, where: str) -> list[str]:
    """Check that new images can train beside earlier ones, and say what to know of their labels.

    Raises `UsageError` if an image has one class in one of them and any number in the other, or for a new label of any
    number: whether the earlier images have it is unknown, and they are not to train as images without.
    """
    if new.task != earlier.task:
        raise UsageError(
            f"The task of {data} is {new.task}, and that of {where} is {earlier.task}, so their images cannot train "
            f"together. Expected --task {earlier.task}; or, for a new head on the backbone, --backbone {where}."
        )
    if earlier.task != "multilabel":
        return []
    if unknown := sorted(set(new.classes) - set(earlier.classes)):
        this, it = ("this label", "it") if len(unknown) == 1 else ("these labels", "them")
        raise UsageError(
            f"{join_truncated(unknown)}: {data} has {this}, and nobody has said which images of {where} have {it}. "
            f"Give these images again, with all their labels, in {data}; or train without them: --keep-images none."
        )
    if unused := sorted(set(earlier.classes) - set(new.classes)):
        this = "this label" if len(unused) == 1 else "these labels"
        return [
            f"No image of {data} has {join_truncated(unused)}, so all train as images without. If nobody has looked "
            f"for {this}, add what the images have to {data}."
        ]
    return []


def scan_with_earlier(
    config: Config, data: Path | str, cache: Cache | None, reporter: ProgressReporter
) -> tuple[Dataset, StoredFeatures | None]:
    """Scan new data and the images of the earlier run, or these alone with changed classes.

    The last images are those that are gone, whose features the run has kept, if any. Earlier images that the new data
    has, too, have the labels of the new data. Those that are missing or have changed are left out, and a note says so.
    """
    earlier, tree = Run(config.run.from_run), tree_of_earlier(config)
    taxonomy = read_taxonomy(config.data.taxonomy) if config.data.taxonomy else tree
    if config.run.class_changes:
        changes = ClassChanges.parse(config.run.class_changes, earlier.classes, earlier.task)
        found, prefix = _find(earlier, changes=changes, data=str(data)), ""
        source = found.source
    else:
        options, own = config.data, set(_scan_new(config, data, cache, reporter).table.sha256s())
        source = with_groups(
            open_data(
                data, remote=options.remote, layout=options.layout, tree=None if options.taxonomy else tree,
                image_column=options.image_column, label_column=options.label_column, task=options.task,
                label_separator=options.label_separator, group_by=options.grouping,
            ),
            options.grouping,
        )  # fmt: skip
        has_parts = any(part for part, _ in source.layout.classes)
        found, prefix = _find(earlier, own, with_parts=has_parts), f"{EARLIER}/"
        source = source if found.source is None else join(source, found.source)
    stored = () if found.exemplars is None else _samples(found, prefix)
    labels = {sample.label for sample in stored} | {name for _, name in (source.layout.classes if source else ())}
    if source is None:  # all images are gone
        bands = Preprocessing.from_json(earlier.description["preprocessing"]).bands
        classes, tree = tuple(sorted(labels)), taxonomy and taxonomy.with_classes(sorted(labels))
        numbers = () if bands is None else bands.numbers
        dataset = Dataset(str(data), (), classes, band_numbers=numbers, taxonomy=tree)
    else:
        dataset = scan_source(
            source,
            data,
            taxonomy=taxonomy,
            on_unreadable=config.data.on_unreadable,
            classes=sorted(labels) if stored else None,  # those of images without files are known
            cache=cache,
            bands=config.data.bands,
            progress=partial(reporter.on_progress, "scan", detail="images"),
            compare_progress=partial(reporter.on_progress, "near duplicates"),
        )
    dataset = _without_changed(dataset, found, prefix)
    if not stored:
        return dataset, None
    assert found.exemplars is not None
    return dataset.with_samples((*dataset.samples, *stored)), found.exemplars.stored


def check_features_fit(model: Classifier, split: Split, config: Config) -> None:
    """Raise `UsageError` if the features of the split were not made by this model, or it needs more than features."""
    check_stored(model, split, config.training)
    own, earlier = model.get_config(), Run(config.run.from_run).description

    def what_makes_features(description: Mapping[str, Any]) -> str:
        ranges = ("value_range", "white")  # of the data; take_head has those of the earlier run
        image = {name: value for name, value in description["preprocessing"].items() if name not in ranges}
        return json.dumps([description["backbone"], description["pooling"], description["head"]["stages"], image])

    is_same = model.weights.source == "run" and Path(model.weights.name) == Path(config.run.from_run)
    if not is_same or what_makes_features(own) != what_makes_features(earlier):
        raise UsageError(
            f"Images of {config.run.from_run} are gone, and their features replace them. These need its backbone, "
            "weights, image size and pooling. Leave out options that change them, or train without: --keep-images none."
        )


def source_record(config: Config, data: str) -> dict[str, Any]:
    """What `source.json` says about the images of a run: their path, and the origin of those of earlier runs."""
    origin = origin_of_earlier(config)
    return {"data": data} if origin is None else {"data": data, "earlier": origin.to_json()}


def origin_of_earlier(config: Config) -> ImagesOrigin | None:
    """Where the images are that have names in the folder `earlier`; None if none train, or they were in memory."""
    if not uses_earlier_images(config):
        return None
    origin = origin_of(Run(config.run.from_run))
    return origin and origin.earlier if config.run.class_changes else origin


def _cache(config: Config) -> Cache | None:
    return Cache() if config.training.cache_gb else None


def _scan_new(config: Config, data: Path | str, cache: Cache | None, reporter: ProgressReporter) -> Dataset:
    """The new images, whatever their classes."""
    options = config.data
    return scan(
        data, remote=options.remote, layout=options.layout, taxonomy=tree_of_earlier(config),
        image_column=options.image_column, label_column=options.label_column, task=options.task,
        label_separator=options.label_separator, bands=options.bands, cache=cache, near_duplicates=False, lenient=True,
        progress=partial(reporter.on_progress, "scan", detail="images"),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Found:
    """What is left of the images of a run: their files, and the features of those that are gone.

    `rows` are path, label, part and SHA-256 of all that are wanted; `source` is None, with a `reason`, where their
    place cannot be opened.
    """

    earlier: Run
    rows: list[tuple[str, str, Part, str]]
    source: DataSource | None
    exemplars: Exemplars | None
    reason: str = ""
    with_parts: bool = False

    @property
    def expected(self) -> int:
        """Number of images that are wanted."""
        return len(self.rows)

    @property
    def count(self) -> int:
        """Number of files that are there."""
        return 0 if self.source is None else len(self.source.layout.found)


def _find(
    earlier: Run,
    own: set[str] | frozenset[str] = frozenset(),
    *,
    changes: ClassChanges | None = None,
    with_parts: bool = False,
    data: str = "",
) -> _Found:
    """Find the images of a run, except those with the hashes `own`, as its split describes them.

    `data` is where they are, if not where the run says.
    """
    with_parts = with_parts or changes is not None
    rows: list[tuple[str, str, Part, str]] = []
    for row in split_rows(earlier.path):
        label = changes.of_label(row["label"]) if changes else row["label"]
        if label is not None and row["sha256"] not in own:
            rows.append((row["path"], label, row["part"], row["sha256"]))  # type: ignore[arg-type]
    source, reason, there = None, "", set[str]()
    try:
        origin = origin_of(earlier) or (ImagesOrigin(data) if data else None)
        if origin is None:
            raise DataError("it was trained on images in memory")
        opened = _open(replace(origin, data=data or origin.data), earlier.taxonomy)
        source = select(opened, {path: (label, part if with_parts else None) for path, label, part, _ in rows})
        there = set(in_blocks(source.layout.found.paths))
    except RegraftError as error:
        reason = str(error).rstrip(".")
    gone = {sha256 for path, *_, sha256 in rows if path not in there}
    gone -= {sha256 for path, *_, sha256 in rows if path in there}
    exemplars = read_exemplars(earlier.path) if gone else None
    if exemplars is not None:
        exemplars = exemplars.changed(changes) if changes else exemplars
        exemplars = exemplars.take(np.array([sha256 in gone for sha256 in exemplars.sha256s], bool))
    return _Found(
        earlier, rows, source if there else None, exemplars if exemplars and exemplars.sha256s else None, reason,
        with_parts,
    )  # fmt: skip


def _open(origin: ImagesOrigin, tree: Taxonomy | None) -> DataSource:
    """Open the images of a run; those of the runs before, or its own, may be gone."""
    if origin.earlier is None:
        return open_origin(origin, tree)
    try:
        own = open_origin(replace(origin, earlier=None), tree)
    except RegraftError:
        return join(DataSource(Folder(Path()), origin.data, Layout(EntryTable(), set())), _open(origin.earlier, tree))
    try:
        return join(own, _open(origin.earlier, tree))
    except RegraftError:
        return own


def _samples(found: _Found, prefix: str) -> tuple[Sample, ...]:
    """The images that are gone as samples, in the order of their features."""
    exemplars = found.exemplars
    assert exemplars is not None
    path_of = {sha256: prefix + path for path, *_, sha256 in reversed(found.rows)}
    columns = zip(exemplars.sha256s, exemplars.labels, exemplars.parts, strict=True)
    return tuple(
        Sample(path_of[sha256], label, sha256, part if found.with_parts else None) for sha256, label, part in columns
    )


def _without_changed(dataset: Dataset, found: _Found, prefix: str) -> Dataset:
    """The data set without earlier images whose content is not what the split says; a note has their number."""
    hashes = {prefix + path: sha256 for path, *_, sha256 in found.rows}
    table = dataset.table
    is_earlier, is_same = np.zeros(len(table), bool), np.ones(len(table), bool)
    for i, (path, sha256) in enumerate(zip(in_blocks(table.paths), table.sha256s(), strict=True)):
        if path in hashes:
            is_earlier[i], is_same[i] = True, hashes[path] == sha256
    left = int((is_earlier & is_same).sum())
    gone, where = found.expected - left, _shown(found.earlier.path)
    if not gone:
        return dataset
    kept = table.take(is_same)
    labels = set(found.exemplars.labels) if found.exemplars else set()
    if lost := sorted(set(dataset.classes) - classes_in(kept.labels, dataset.task) - labels):
        raise DataError(
            f"All images of {join_truncated(lost)} in {where} are missing or have changed. Restore them, or train "
            "without the images of that run: --keep-images none."
        )
    what = "left out" if found.exemplars is None else f"the features of {len(found.exemplars.sha256s):,} replace them"
    note = f"{gone:,} of {pluralize(found.expected, 'image')} of {where} are missing, unreadable or changed: {what}."
    return replace(dataset.with_samples(kept), notes=(*dataset.notes, note))


def _shown(path: Path | str) -> str:
    """The path of a run as the user would type it: from the working directory, if it is inside."""
    with suppress(ValueError):
        return str(Path(path).relative_to(Path.cwd()))
    return str(path)


def location_of(earlier: Run) -> str:
    """The path of a run's images. Raises `UsageError` if they were in memory, or are gone and no features are left."""
    origin = origin_of(earlier)
    where = "" if origin is None else origin.data
    if not where or not (Path(where).exists() or read_exemplars(earlier.path)):
        reason = f"{where} does not exist" if where else "it was trained on images in memory"
        raise UsageError(
            f"The images of {earlier.path} are needed, and {reason}. Restore them, or give their place: --data DATA."
        )
    return absolute(where)
