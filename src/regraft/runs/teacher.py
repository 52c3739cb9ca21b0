"""Ask a teacher, which is another run, for its probabilities of the training images and of unlabeled ones.

Input: a configuration with a teacher, and the student's split. Output: soft targets for its training, and what the
report says about them. The teacher sees each view of an image once: its features are cached, under the hash of its
weights and that of the image, as those of any frozen network, so an interrupted pass goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from regraft import distributed
from regraft.cache import Cache
from regraft.config import Config
from regraft.data.dataset import Dataset, Split
from regraft.data.pixel_cache import PixelSource, StreamedPixels, load_pixels
from regraft.errors import UsageError
from regraft.licenses import describe_conditions
from regraft.models.classifier import Classifier
from regraft.models.serialization import WEIGHTS
from regraft.report.distillation import describe_lesson
from regraft.runs.run import Run
from regraft.text import join_truncated
from regraft.training.callbacks import ProgressReporter
from regraft.training.device import choose_device, choose_precision
from regraft.training.distillation import mix_with_labels, soften
from regraft.training.feature_cache import run_prefix
from regraft.training.memory_cache import MemoryCache
from regraft.training.phase_plan import plan_phases
from regraft.training.prefix_backend import choose_backend, make_backend
from regraft.training.soft_targets import SoftTargets

#: Rows that pass through the head at once.
_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a teacher says of the images of a training, and `description`, plain JSON values for `metrics.json`."""

    targets: SoftTargets
    description: Mapping[str, Any]


def open_teacher(model: Classifier, config: Config, split: Split) -> Run | None:
    """The configured teacher of `model`, None without one.

    Raises `UsageError` if its folder is no run, it has other classes or another task, or it cannot teach this model
    here.
    """
    if not config.distillation.teacher:
        return None
    teacher = Run(config.distillation.teacher)
    if split.dataset.task != teacher.task:
        raise UsageError(
            f"The teacher {teacher.path} has the task {teacher.task}, and that of the data is {split.dataset.task}."
        )
    if teacher.classes != split.classes:
        raise UsageError(
            f"The teacher {teacher.path} knows the classes {join_truncated(teacher.classes)}, and the data has "
            f"{join_truncated(split.classes)}. Expected the same classes."
        )
    if distributed.is_distributed() and not config.training.cache_gb:
        raise UsageError("In several processes a teacher needs the cache. Set training.cache_gb above 0.")
    if model.members:
        raise UsageError(
            f"The student {model.spec.name} has several backbones, and a teacher teaches one. Train several backbones "
            "without a teacher, and let them teach a small one: regraft distill RUN --into BACKBONE."
        )
    return teacher


def ask_teacher(
    teacher: Run | None, model: Classifier, config: Config, split: Split, reporter: ProgressReporter
) -> Lesson | None:
    """The targets of a training of `model` with these settings; None without a teacher.

    Val and test images are never asked about.
    """
    if teacher is None:
        return None
    for conditions in describe_conditions(teacher.description.get("weights") or {}):
        reporter.on_message(f"Teacher {teacher.path}: {conditions}")
    views, options = _views(teacher.classifier, model, config), config.distillation

    def ask(dataset: Dataset, what: str) -> np.ndarray:
        answers = probabilities_of(teacher.classifier, dataset, config, reporter, views=views, name=f"teacher, {what}")
        return soften(answers, options.temperature, several=split.dataset.task == "multilabel")

    answers, labels = ask(split.train, "training images"), split.train.targets
    of_train = mix_with_labels(answers, labels, options.soft_share, config.training.label_smoothing)
    of_unlabeled = None
    if split.unlabeled is not None:
        of_unlabeled = ask(split.unlabeled.images, "unlabeled images").astype(np.float32)
    description: dict[str, Any] = {
        "teacher": {
            "run": str(teacher.path),
            "backbone": teacher.description["backbone"]["name"],
            "weights_sha256": teacher.description["sha256"][WEIGHTS],
        },
        "soft_share": options.soft_share,
        "temperature": options.temperature,
        "views": views,
        "unlabelled": None if split.unlabeled is None else split.unlabeled.to_json(),
    }
    reporter.on_message(describe_lesson(description))
    return Lesson(SoftTargets(of_train.astype(np.float32), of_unlabeled), description)


def refuse_teacher(config: Config, verb: str) -> None:
    """Raise `UsageError` for a teacher where a verb would not ask it."""
    if config.distillation.teacher:
        raise UsageError(
            f"distillation.teacher = {config.distillation.teacher} has no effect on `{verb}`. It works with "
            "`regraft distill` and `regraft train`; remove it here."
        )


def _views(teacher: Classifier, student: Classifier, config: Config) -> int:
    """Views of each image that the teacher sees: those that the student caches, or the plain one alone.

    Only inputs of the same size are cropped at the same places, and within a budget the teacher must be quick.
    """
    ours, theirs = student.preprocessing, teacher.preprocessing
    if (ours.size, ours.resize) != (theirs.size, theirs.resize) or config.training.budget:
        return 1
    if not config.distillation.teach_views or config.training.feature_cache == "none":  # new views at every step
        return 1
    return plan_phases(student, config.training, changes_views=config.augmentation.changes_views).views


def probabilities_of(
    teacher: Classifier, dataset: Dataset, config: Config, reporter: ProgressReporter, *, views: int, name: str
) -> np.ndarray:
    """Calibrated probabilities of the plain view of the images and of others, float64 (views, N, classes).

    The views are those that a training with this augmentation and seed has. The features below the head are cached.
    `name` is the step in the progress. Raises `ImageError` if an image can no longer be read.
    """
    device = choose_device(config.training.device)
    precision = choose_precision(config.training.precision, device)
    end = len(teacher.stages)
    teacher.to(device).eval()
    disk = Cache(limit=int(config.training.cache_gb * 1e9)) if config.training.cache_gb else None
    rows = views * len(dataset)
    backend, _ = distributed.broadcast(
        choose_backend(config.training.prefix_backend, teacher, end, precision, rows=rows, cache=disk)
    )
    preprocessing = teacher.preprocessing
    several = views > 1 and disk is not None  # each image is then decoded once for all views
    pixels: PixelSource = (
        load_pixels(dataset, preprocessing, disk) if several and disk else StreamedPixels(dataset, preprocessing, disk)
    )
    activations = run_prefix(
        teacher, dataset, pixels, make_backend(backend, teacher, end, precision, disk), disk or MemoryCache(),
        views=views, augmentation=config.augmentation, seed=config.training.seed,
        batch_size=64 if device.type == "cpu" else 256, reporter=reporter, name=name,
    )  # fmt: skip
    probabilities = np.empty((views, len(dataset), len(teacher.classes)))
    with torch.inference_mode():
        for view in range(views):
            for start in range(0, len(dataset), _ROWS):
                part = slice(start, min(start + _ROWS, len(dataset)))
                features = teacher.forward_tail(activations.batch(view, part).to(device), end)
                probabilities[view, part] = teacher.head.answer(teacher.head(features)).cpu().numpy()
    teacher.cpu()
    return probabilities
