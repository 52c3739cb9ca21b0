"""Add the images without labels of `data.unlabelled` to the data of a training.

Input: a configuration and the labeled images. Output: the images without labels that the training may use, none of
which shows an image that it is evaluated on.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from regraft.cache import Cache
from regraft.config import Config
from regraft.data.dataset import Dataset, Split, Unlabeled
from regraft.data.unlabelled import find_unlabeled
from regraft.errors import UsageError
from regraft.models.classifier import Classifier
from regraft.training.callbacks import ProgressReporter
from regraft.training.setup import check_unlabeled


def with_unlabeled(config: Config, split: Split, model: Classifier, reporter: ProgressReporter) -> tuple[Config, Split]:
    """Add the images of `data.unlabelled`, if any, to the split; the configuration then has their whole path.

    Raises `UsageError` where they would have no effect, and as `find_unlabeled`.
    """
    if not config.data.unlabelled:
        return config, split
    if not config.distillation.teacher:  # from which all that trains learns
        check_unlabeled(model, config.training, len(split.train))
    unlabeled = find_unlabeled_for(split.dataset, config, reporter)
    data = replace(config.data, unlabelled=unlabeled.path)
    return config.model_copy(update={"data": data}), replace(split, unlabeled=unlabeled)


def find_unlabeled_for(labeled: Dataset, config: Config, reporter: ProgressReporter) -> Unlabeled:
    """Find the images of `data.unlabelled`, without those that labeled images show, and say how many there are."""
    unlabeled = find_unlabeled(
        config.data.unlabelled,
        labeled,
        on_unreadable=config.data.on_unreadable,
        group_by=config.data.group_by,
        remote=config.data.remote,
        image_column=config.data.image_column,
        cache=Cache() if config.training.cache_gb else None,
        progress=partial(reporter.on_progress, "scan", detail="unlabeled images"),
        compare_progress=partial(reporter.on_progress, "near duplicates"),
    )
    reporter.on_message(unlabeled.describe())
    return unlabeled


def refuse_unlabeled(config: Config, verb: str) -> None:
    """Raise `UsageError` for images without labels where a verb would not use them."""
    if config.data.unlabelled:
        raise UsageError(
            f"data.unlabelled = {config.data.unlabelled} has no effect on `{verb}`. It works with `regraft train`, "
            "`distill` and `crossval`; remove it here."
        )
