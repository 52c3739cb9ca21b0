"""Scan and split the data of a training as configured, before anything needs PyTorch.

Input: data and a configuration. Output: a split. Settings that cannot work are refused before the scan. Nothing that
is imported here imports PyTorch, so that a training reads its first image before that is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from regraft import distributed
from regraft.cache import Cache
from regraft.config import Config, DataOptions, load_run_config
from regraft.config.presets import for_task
from regraft.data.dataset import Dataset, Split
from regraft.data.labels import AskedTask, LabelOptions, split_labels
from regraft.data.pooling import groups_of
from regraft.data.scan import scan
from regraft.data.sources.urls import is_url
from regraft.data.split import split as split_dataset
from regraft.data.split_file import split_sha256
from regraft.data.stored_features import StoredFeatures
from regraft.data.subgroups import with_subgroups
from regraft.data.taxonomy import Taxonomy
from regraft.errors import DataError, UsageError
from regraft.models.registry import AUTO, find_backbone
from regraft.models.run_description import read_run_description
from regraft.resources import alone_on_machine
from regraft.runs.run_folder import CONFIG, METRICS
from regraft.text import join_truncated, pluralize
from regraft.tracking.tracker import check_trackers
from regraft.training.callbacks import ProgressReporter
from regraft.training.phase_plan import has_solver
from regraft.training.poolable import check_poolable
from regraft.training.task_options import check_order, given_weights, output_activation


def scan_and_split(data: Path | str, config: Config, reporter: ProgressReporter) -> Split:
    """Scan and split the data; settings of a training that cannot work are refused before."""
    check_trackers(config.tracking.to)
    refuse_settings_of_classes(asked_task(config), config)
    refuse_settings_of_images(config.data.pool_by, config)
    _refuse_missing_hardware(config)
    if config.data.val + config.data.test >= 1:
        raise UsageError(f"data.val + data.test = {config.data.val + config.data.test:g} leaves nothing to train on.")

    def scanned() -> tuple[Dataset, StoredFeatures | None]:
        with alone_on_machine():  # the other processes wait for the first, and find in the cache what it has read
            cache = Cache() if config.training.cache_gb else None
            if not uses_earlier_images(config):
                return scan_with(config, data, cache, reporter), None
            from regraft.runs.earlier_images import scan_with_earlier  # opens that run, which needs PyTorch

            dataset, stored = scan_with_earlier(config, data, cache, reporter)
            return _reported(dataset, reporter), stored

    dataset, stored = distributed.first_on_rank_0(scanned)
    dataset = _with_subgroups(dataset, data, config, reporter)
    # With changed classes each image has the part that it had.
    split = Split(dataset) if config.run.class_changes else split_with(dataset, config)
    split = replace(split, stored=stored)
    distributed.check_equal("images or labels", split_sha256(split))
    task = split.dataset.task
    output_activation(for_task(config.training, config.run.preset, task), task)
    if not isinstance(weights := config.training.class_weights, str):
        given_weights(weights, split.classes)
    for note in (*_missing_parts(split, config), describe(split)):
        reporter.on_message(note)
    return split


def scan_with(config: Config, data: Path | str, cache: Cache | None, reporter: ProgressReporter) -> Dataset:
    """Scan the data as configured, and report its notes."""
    tree: Taxonomy | str | None = config.data.taxonomy or None
    if config.run.from_run and not tree:
        from regraft.runs.earlier_run import tree_of_earlier  # opens that run, which needs PyTorch

        tree = tree_of_earlier(config)
    dataset = scan(
        data,
        on_unreadable=config.data.on_unreadable,
        group_by=config.data.group_by,
        pool_by=config.data.pool_by,
        remote=config.data.remote,
        layout=config.data.layout,
        taxonomy=tree,
        image_column=config.data.image_column,
        label_column=config.data.label_column,
        task=config.data.task,
        order=config.data.order,
        label_separator=config.data.label_separator,
        bands=config.data.bands,
        cache=cache,
        progress=partial(reporter.on_progress, "scan", detail="images"),
        compare_progress=partial(reporter.on_progress, "near duplicates"),
    )
    return _reported(dataset, reporter)


def _reported(dataset: Dataset, reporter: ProgressReporter) -> Dataset:
    """The data set, after its notes."""
    for note in dataset.notes:
        reporter.on_message(note)
    if len(np.unique(dataset.table.pictures)) < len(dataset):
        reporter.on_message("`regraft inspect` shows them.")
    return dataset


def split_with(dataset: Dataset, config: Config) -> Split:
    """Split by the shares and the seed of the configuration.

    Data that is divided already refuses shares, but not those that nobody asked for: defaults, and those of a run that
    this one starts from or learns from.
    """
    data, present = config.data, dataset.table.parts_present()
    earlier = config.run.from_run or config.distillation.teacher
    unasked = load_run_config(Path(earlier) / CONFIG).data if earlier else DataOptions()
    val = None if "val" in present and data.val == unasked.val else data.val
    test = None if "test" in present and data.test == unasked.test else data.test
    return split_dataset(dataset, val=val, test=test, seed=config.training.seed, keep=data.keep_split or None)


def uses_earlier_images(config: Config) -> bool:
    """Whether the images of an earlier run train, by a configuration that is decided."""
    return bool(config.run.class_changes) or (bool(config.run.from_run) and config.run.keep_images == "all")


def _with_subgroups(dataset: Dataset, data: Path | str, config: Config, reporter: ProgressReporter) -> Dataset:
    """The data set with the values of its images, and of those of earlier runs that train again, by each `data.by`."""
    options, earlier = config.data, None
    if not options.by:
        return dataset
    if config.run.class_changes and not is_url(str(data)) and not Path(data).exists():  # features replace the images
        reporter.on_message(f"{data} is gone, so no subgroups by {join_truncated(options.by)} are measured.")
        return dataset
    if uses_earlier_images(config):
        from regraft.runs.earlier_images import origin_of_earlier  # opens that run, which needs PyTorch

        earlier = origin_of_earlier(config)
    return with_subgroups(
        dataset, data, options.by, remote=options.remote, image_column=options.image_column, earlier=earlier
    )


def asked_task(config: Config) -> AskedTask:
    """The configured task; `ordinal` if there is only an order. Raises as `LabelOptions`."""
    asked = LabelOptions(config.data.task, config.data.label_separator, config.data.order)
    return "ordinal" if asked.is_ordinal else asked.task


def _refuse_missing_hardware(config: Config) -> None:
    """Raise `UsageError` for a device or a precision that this machine does not have, or lacks the packages for.

    PyTorch knows that, and is loaded for it only where it may be so.
    """
    device, precision = config.training.device, config.training.precision
    if device not in ("auto", "cpu") or precision in ("fp16", "int8"):
        from regraft.training.device import choose_device, choose_precision

        choose_precision(precision, choose_device(device))


def refuse_groups(pool_by: str, what: str) -> None:
    """Raise `UsageError` where groups get one answer each, and `what` is for an answer for each image."""
    if pool_by:
        raise UsageError(
            f"{what} takes each image by itself, and data.pool_by = {pool_by!r} asks for one answer for each group. "
            "Leave it out: data.group_by keeps groups in one part, too."
        )


def refuse_settings_of_images(pool_by: str, config: Config) -> None:
    """Raise `UsageError` for settings of a training that take each image by itself, where groups get one answer."""
    runs = {
        "A run from a run (--from)": config.run.from_run,
        "A teacher (distillation.teacher)": config.distillation.teacher,
    }
    for what, run in runs.items():
        if run and pool_by and pool_by == read_run_description(run).get("pool_by"):
            raise UsageError(
                f"{what} takes each image by itself, and {run} has one answer for each group: its data.pool_by = "
                f"{pool_by!r} holds here, too. For an answer for each image give --set data.pool_by= (or, where the "
                "command has it, --pool-by '')."
            )
        if run:
            refuse_groups(pool_by, what)
    if config.data.unlabelled:
        refuse_groups(pool_by, "data.unlabelled")
    if pool_by:
        model = config.model
        is_linear = model.head == "linear" and model.dropout in ("auto", 0) and model.pooling != "attention"
        check_poolable(pool_by, is_linear=is_linear, is_fitted=has_solver(config.training))


def refuse_numbers(task: AskedTask, what: str) -> None:
    """Raise `UsageError` where an image has a number, and `what` is for classes."""
    if task == "regression":
        raise UsageError(
            f"{what} is for images with classes, and the task of the data is regression. It works with classes, such "
            "as ranges of the numbers."
        )


def refuse_order(is_ordered: bool, what: str) -> None:
    """Raise `UsageError` where the classes have an order, and `what` is for others."""
    if is_ordered:
        raise UsageError(
            f"{what} is for classes without an order, and the task of the data is ordinal. It works without the order: "
            "train with --task classification."
        )


def refuse_equal_labels(split: Split) -> None:
    """Raise `DataError` if all training images have the same of several labels, from which no model learns one."""
    labels = split.train.table.labels.used()
    if split.dataset.task == "multilabel" and len(labels) == 1:
        raise DataError(
            f"Every training image has the same labels: {join_truncated(split_labels(labels[0]))}. A model learns a "
            "label from images with and without it: add images without."
        )


def refuse_settings_of_classes(task: AskedTask, config: Config) -> None:
    """Raise `UsageError` for settings of a training that have no meaning for a task, or no way yet.

    Of `auto` it is not known what the images have.
    """
    if task in ("classification", "multilabel", "ordinal"):
        check_order(config.training, task == "ordinal")
    if task not in ("regression", "ordinal"):
        return
    training, run, is_auto = config.training, config.run, config.model.backbone == AUTO
    settings = {
        "A model of several backbones": not is_auto and bool(find_backbone(config.model.backbone).members),
        "--from a run": bool(run.from_run),
        "A teacher (distillation.teacher)": bool(config.distillation.teacher),
        "data.unlabelled": bool(config.data.unlabelled),
    }
    if task == "regression":
        settings |= {
            "backbone = auto": is_auto,
            "training.class_weights": training.class_weights != "none",
            f"training.monitor = {training.monitor}": training.monitor in ("val_macro_f1", "val_quadratic_kappa"),
        }
    for what in (name for name, is_chosen in settings.items() if is_chosen):
        refuse_numbers(task, what)
        refuse_order(task == "ordinal", what)


def describe(split: Split) -> str:
    """Return one line about images, classes or numbers, parts and files that were left out."""
    parts = ", ".join(f"{len(split[part])} {part}{_of_groups(split[part])}" for part in split)
    what = f"in {pluralize(len(split.classes), 'class', 'classes')}"
    if split.dataset.task == "regression":
        numbers = split.dataset.numbers
        what = f"with {split.classes[0]} from {numbers.min():.6g} to {numbers.max():.6g} (mean {numbers.mean():.4g})"
    text = f"{len(split.dataset)} images {what}: {parts}."
    if bad := split.dataset.bad:
        is_same = len({b.reason for b in bad}) == 1
        listed = bad[: 1 if is_same else 5]
        text += f" {len(bad)} cannot be read and {'is' if len(bad) == 1 else 'are'} left out: "
        text += "; ".join(f"{b.path} ({b.reason})" for b in listed)
        why = " for the same reason" if is_same else ""
        text += f"; and {rest} more{why} in {METRICS}." if (rest := len(bad) - len(listed)) else "."
    return text


def _of_groups(part: Dataset) -> str:
    """How many groups get one answer each, in brackets; "" where each image does."""
    return "" if (groups := groups_of(part)) is None else f" ({groups.describe()})"


def _missing_parts(split: Split, config: Config) -> Iterator[str]:
    for part, share in (("val", config.data.val), ("test", config.data.test)):
        if share and part not in set(split):
            yield f"There are too few images (or groups) for a {part} part of {share:g}."
