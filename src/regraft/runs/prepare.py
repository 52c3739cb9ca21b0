"""Build the model for scanned and split data, as configured, before anything is trained.

Input: a split, or data, and a configuration. Output: a classifier.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from regraft import distributed
from regraft.config import Config
from regraft.data.band_values import check_bands
from regraft.data.dataset import Dataset, Split
from regraft.licenses import describe_conditions
from regraft.models.classifier import Classifier, build
from regraft.models.registry import find_backbone
from regraft.runs.earlier_images import check_features_fit
from regraft.runs.earlier_run import bands_of_earlier, notes_on_earlier_run, take_head
from regraft.runs.ineffective import describe_ineffective
from regraft.runs.scan_and_split import scan_and_split
from regraft.training.callbacks import ProgressReporter
from regraft.training.setup import check_task


def prepare(data: Path | str, config: Config, reporter: ProgressReporter) -> tuple[Classifier, Split]:
    """Scan and split the data and build the model; settings that cannot work are refused before the scan."""
    find_backbone(config.model.backbone)
    split = scan_and_split(data, config, reporter)
    return build_described(split, config, reporter), split


def build_described(split: Split, config: Config, reporter: ProgressReporter) -> Classifier:
    """Build the configured model for the classes of the data, and report what is to be known about it."""
    model = distributed.first_on_rank_0(lambda: build_for(config, split.dataset))
    describe_model(model, split, config, reporter)
    return model


def describe_model(model: Classifier, split: Split, config: Config, reporter: ProgressReporter) -> None:
    """Report what is to be known about a model before it is trained; refuse one that features do not fit."""
    check_bands(model.preprocessing.bands, split.dataset.band_numbers)
    check_task(model, split)
    if split.stored is not None:
        check_features_fit(model, split, config)
    if model.weights.note:
        reporter.on_message(model.weights.note)
    for note in describe_conditions(asdict(model.weights), model.spec.license):
        reporter.on_message(note)
    for note in (*notes_on_earlier_run(model, split, config), *describe_ineffective(model, split, config)):
        reporter.on_message(note)
    preprocessing = model.preprocessing.for_value_range(split.dataset.value_range)
    notes = split.dataset.describe_values(preprocessing.value_range)
    if (bands := preprocessing.bands) is not None:
        notes = [note for note in (bands.describe(), bands.describe_pictures()) if note]
    for note in notes:
        reporter.on_message(note)
    is_given = config.model.image_size or any(member.size for member in model.spec.members)
    if (size := min(model.preprocessing.shape)) < model.spec.image_size and not is_given:
        reporter.on_message(
            f"The images have {split.dataset.shorter_side} pixels, so the input size is {size} (model.image_size)."
        )


def build_for(config: Config, dataset: Dataset, image_size: int | None = None) -> Classifier:
    """Build the configured model for the classes of the data; `image_size` in pixels replaces the configured one."""
    options = asdict(config.model) | ({} if image_size is None else {"image_size": image_size})
    name, side = options.pop("backbone"), dataset.shorter_side
    earlier = config.run.from_run
    bands = bands_of_earlier(Path(earlier), dataset) if earlier else dataset.bands
    model = build(
        name, classes=dataset.classes, task=dataset.model_task, shorter_side=side, seed=config.training.seed,
        bands=bands, **options,
    )  # fmt: skip
    model.taxonomy = dataset.taxonomy
    if config.run.from_run:
        take_head(model, Path(config.run.from_run))
    return model
