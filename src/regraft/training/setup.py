"""Set up a training: check its arguments, decide its phases, device and precision, and prepare the model.

Input: a model, a split and options. Output: a `TrainingSetup`, which stays the same during the training.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from regraft import distributed
from regraft.cache import Cache
from regraft.data.augmentation import describe_color_changes
from regraft.data.augmentation_options import Augmentation
from regraft.data.band_values import check_bands
from regraft.data.dataset import Split
from regraft.errors import DataError, UsageError
from regraft.models.classifier import Classifier
from regraft.models.cpu.fuse_training import FusedTraining
from regraft.models.head import Head
from regraft.models.serialization import versions
from regraft.training import lora
from regraft.training.callbacks import Callback, ProgressReporter
from regraft.training.data import TrainingData
from regraft.training.device import choose_device, choose_precision, has_int8
from regraft.training.int8_decision import check_int8
from regraft.training.losses import (
    LossFunction,
    Objective,
    check_loss,
    units_of,
    weights_of_classes,
)
from regraft.training.options import TrainingOptions
from regraft.training.phase_plan import PhasePlan, is_linear, plan_phases
from regraft.training.poolable import check_pooled
from regraft.training.pooling import PooledGroups
from regraft.training.prefix_backend import openvino_version
from regraft.training.refit import LinearWeights
from regraft.training.soft_labels import check_labels
from regraft.training.soft_targets import SoftTargets, beside
from regraft.training.task_options import check_order, loss_of, monitor_of, output_activation


def check_batch_norms(model: Classifier, phases: PhasePlan, processes: int) -> None:
    """Raise `UsageError` if several processes were to learn the statistics of BatchNorms, each from its own images.

    PyTorch's SyncBatchNorm, which would share them, works on GPUs alone, so these networks are refused everywhere.
    """
    if phases.from_scratch and model.has_batch_norms and processes > 1:
        raise UsageError(
            f"{model.spec.name} trains from scratch in {processes} processes, but a BatchNorm in training takes its "
            "statistics from the images of one process. Train it in one process, or start from pretrained weights, "
            "whose statistics stay."
        )


def check_sharding(options: TrainingOptions, precision: torch.dtype) -> None:
    """Raise `UsageError` if fsdp cannot divide what these options train."""
    if options.sharding != "fsdp":
        return
    if options.compile:
        raise UsageError("training.sharding = fsdp and training.compile = true exclude each other. Remove one of them.")
    if options.finetune_method == "lora":
        raise UsageError(
            "training.sharding = fsdp has nothing to divide with training.finetune_method = lora. Remove it."
        )
    if precision == torch.float16:
        raise UsageError("training.sharding = fsdp needs a precision without loss scaling: bf16 or off.")


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """What stays the same during a training.

    `trainable` names the tensors that any phase changes. Labels are what `Dataset.targets` has, numbers in standard
    deviations from their mean; `targets` are those of all training images: their labels, or probabilities, float32
    (N + M, C), with M unlabeled images after the labeled ones. With `groups`, which get one answer each, the head is
    fitted on a row for each group, and groups are validated. The state is saved in `checkpoint` after each epoch, and
    no epoch ends after `deadline`, a value of `time.monotonic()`. `planned` are seconds by step, by which the time to
    the deadline is divided.
    """

    model: Classifier
    split: Split
    options: TrainingOptions
    augmentation: Augmentation
    phases: PhasePlan
    device: torch.device
    precision: torch.dtype
    objective: Objective
    labels: torch.Tensor
    val_labels: torch.Tensor
    targets: torch.Tensor
    trainable: frozenset[str]
    fused: FusedTraining
    data: TrainingData
    checkpoint: Path | None
    reporter: ProgressReporter
    deadline: float | None
    planned: Mapping[str, float]
    callbacks: Sequence[Callback] = ()
    trained_heads: Sequence[LinearWeights] = ()
    soft_targets: SoftTargets | None = None
    groups: PooledGroups | None = None

    def step_deadline(self, step: str, *later: str) -> float | None:
        """The end of a step if the remaining time is divided as planned between it and the steps after it."""
        planned = sum(self.planned.get(name, 0.0) for name in (step, *later))
        if self.deadline is None or not planned:
            return self.deadline
        now = time.monotonic()
        return now + (self.deadline - now) * self.planned.get(step, 0.0) / planned

    def deadline_at_pace(self, epoch_seconds: float) -> float | None:
        """The deadline of fine-tuning: what slows down its epochs slows down the evaluation after it, too."""
        planned, evaluation = (self.planned.get(step, 0.0) for step in ("finetune", "evaluate"))
        if self.deadline is None or not planned:
            return self.deadline
        slowdown = epoch_seconds * self.options.finetune_epochs / planned
        return self.deadline - max(0.0, slowdown - 1) * evaluation

    @cached_property
    def identity(self) -> dict[str, Any]:
        """JSON values that must be equal for a training to resume."""
        # How processes divide the work is no part of the training.
        identity: dict[str, Any] = {
            "options": {name: value for name, value in asdict(self.options).items() if name != "sharding"},
            "augmentation": asdict(self.augmentation),
            "model": {name: value for name, value in self.model.get_config().items() if name != "boundary"},
            "images": [len(self.split.train), len(self.split.val)],
            "versions": versions() | {"openvino": openvino_version()},
        }
        # Images without labels are not in it: a checkpoint follows the fit of the head, which alone learns from them.
        if self.options.precision in ("int8", "fastest") and has_int8():
            identity["versions"]["nncf"] = version("nncf")
        if self.soft_targets is not None:
            identity["soft_targets"] = self.soft_targets.digest()
        return dict(json.loads(json.dumps(identity)))


def set_up(
    model: Classifier,
    split: Split,
    options: TrainingOptions,
    *,
    augmentation: Augmentation,
    cache: Cache,
    scratch: Cache,
    checkpoint: Path | None,
    reporter: ProgressReporter,
    deadline: float | None,
    planned: Mapping[str, float],
    callbacks: Sequence[Callback] = (),
    loss_function: LossFunction | None = None,
    trained_heads: Sequence[LinearWeights] = (),
    soft_targets: SoftTargets | None = None,
) -> TrainingSetup:
    """Check the arguments, decide phases, device and precision, and prepare the model.

    Raises `UsageError` if the classes of model and split differ, or an option or the `soft_targets` do not fit, and
    `DataError` if the train part is empty.
    """
    if model.classes != split.classes:
        raise UsageError(
            f"The model's classes are {model.classes} and the data's {split.classes}. Build the model with the data's."
        )
    check_task(model, split)
    if not len(split.train):
        raise DataError("The train part has no image.")
    if split.unlabeled is not None and soft_targets is None:
        check_unlabeled(model, options, len(split.train))
    if split.stored is not None:
        check_stored(model, split, options)
    _check_loss(options, loss_function, len(split.classes))
    check_bands(model.preprocessing.bands, split.dataset.band_numbers)
    if note := describe_color_changes(augmentation, model.preprocessing.channels):
        reporter.on_message(note)
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    phases = plan_phases(model, options, changes_views=augmentation.changes_views)
    _check_phases(model, split, options, augmentation, phases, precision)
    check_int8(options, phases, model.spec.name, has_stored=split.stored is not None)
    if soft_targets is not None:
        soft_targets.check(split, phases.views)
    model.to(device)
    # What an earlier training has fitted to its images.
    model.head.temperature, model.head.half_width, model.ood = 1.0, None, None
    model.head.thresholds = (0.5,) * len(model.head.thresholds)
    task = split.dataset.task
    check_order(options, model.ordered)
    options = replace(options, monitor=monitor_of(options, task))
    model.head.activation, model.pool_by = output_activation(options, task), split.dataset.pool_by
    if (groups := PooledGroups.of(split)) is not None:
        check_pooled(phases.head, model.head.activation, split, is_linear=is_linear(model.head))
    model.freeze(phases.boundary)
    if phases.finetunes and options.finetune_method == "lora":
        lora.attach(model, phases.boundary, rank=options.lora_rank, alpha=options.lora_alpha, seed=options.seed)
    labels, val_labels = (torch.from_numpy(part.targets) for part in (split.train, split.val))
    images = split.with_files("train")
    if task == "regression":
        labels, val_labels = _standardized(model.head, labels, val_labels)
    counted = labels if groups is None else labels[torch.from_numpy(groups.train.firsts)]
    weights = weights_of_classes(options.class_weights, counted.numpy(), split.classes)
    # Probabilities need none, and of several labels there is no share that all classes could have.
    smoothing = options.label_smoothing if soft_targets is None and task == "classification" else 0.0
    if soft_targets is not None and split.unlabeled is not None:
        images = beside(split.train, split.unlabeled.images)
    model.preprocessing = model.preprocessing.for_value_range(split.dataset.value_range)
    return TrainingSetup(
        model=model,
        split=split,
        options=options,
        augmentation=augmentation,
        phases=phases,
        device=device,
        precision=precision,
        objective=Objective(
            loss_of(options, task), smoothing, weights, model.head.activation, loss_function, task, model.ordered
        ),
        labels=labels,
        val_labels=val_labels,
        targets=labels if soft_targets is None else soft_targets.plain(),
        trainable=frozenset(model.trained_tensors()),
        fused=FusedTraining(model, phases.boundary, precision),
        data=TrainingData(
            model,
            {"train": images, "val": split.with_files("val")},
            options=options,
            augmentation=augmentation,
            cache=cache,
            scratch=scratch,
            device=device,
            precision=precision,
            reporter=reporter,
        ),
        checkpoint=checkpoint,
        reporter=reporter,
        deadline=deadline,
        planned=planned,
        callbacks=callbacks,
        trained_heads=trained_heads,
        soft_targets=soft_targets,
        groups=groups,
    )


def _standardized(head: Head, train: torch.Tensor, val: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers (N, 1) in standard deviations from the mean of the training images, in which the head answers, too."""
    center, scale = units_of(train)
    head.use_units(center, scale)
    return ((train.double() - center) / scale).float(), ((val.double() - center) / scale).float()


def check_task(model: Classifier, split: Split) -> None:
    """Raise `UsageError` if a model was built for another task than that of the data."""
    if model.task != (task := split.dataset.task):
        raise UsageError(
            f"The model was built for the task {model.task}, and that of the data is {task}. Build it with "
            "task=split.dataset.task."
        )
    if model.ordered != split.dataset.ordered:
        has, lacks = ("model", "data") if model.ordered else ("data", "model")
        raise UsageError(
            f"The {has} says that the classes have an order, and the {lacks} that they have none. Build the model with "
            'task="ordinal", and scan the data so.'
        )


def check_unlabeled(model: Classifier, options: TrainingOptions, labeled: int) -> None:
    """Raise `UsageError` where images without labels would have no effect: only a head that is fitted can use them.

    `labeled` is the number of labeled training images, which must not be too many.
    """
    head = plan_phases(model, options).head
    if head != "lbfgs":
        why = {
            "none": "there is no phase of the head (training.head_epochs = 0, or a network that trains from scratch)",
            "epochs": "the head is trained in epochs (training.head_optimizer, a loss function, or a head with hidden "
            "layers, dropout or attention)",
        }[head]
        raise UsageError(
            f"data.unlabelled has no effect: {why}, and only a linear head that is fitted (head_optimizer = lbfgs) "
            "learns from images without labels. Remove one of them."
        )
    if distributed.is_distributed():
        raise UsageError("data.unlabelled works in one process, not in several. Leave out --processes, or it.")
    check_labels(labeled)


def check_stored(model: Classifier, split: Split, options: TrainingOptions) -> None:
    """Raise `UsageError` where stored features cannot replace images: in all but a head that is fitted alone."""
    plan = plan_phases(model, options)
    width = 0 if split.stored is None else split.stored.features.shape[1]
    if plan.head != "lbfgs" or plan.finetunes or model.head.features != width:
        raise UsageError(
            "Images of the earlier run are gone, and their stored features suffice only to fit a linear head over the "
            "layers of that run. Expected its backbone, image size and head, head_optimizer = lbfgs and no fine-tuning "
            "(--epochs 0)."
        )
    if split.unlabeled is not None or distributed.is_distributed():
        raise UsageError(
            "Images of the earlier run are gone. With their stored features a head is fitted in one process and "
            "without data.unlabelled."
        )


def _check_loss(options: TrainingOptions, function: LossFunction | None, classes: int) -> None:
    """Refuse a loss function that is missing, or does not work, or makes other options have no effect."""
    if not options.custom_loss:
        return
    if function is None:
        raise UsageError(
            f"training.custom_loss = {options.custom_loss!r}, and no function was given, which is only possible from "
            "Python: regraft.train(..., loss=FUNCTION), or regraft.resume(RUN, loss=FUNCTION)."
        )
    if options.class_weights != "none":
        raise UsageError(
            f"class_weights = {options.class_weights!r} has no effect on the loss {options.custom_loss}. Weight the "
            "classes in the function."
        )
    check_loss(function, options.custom_loss, classes)


def _check_phases(
    model: Classifier,
    split: Split,
    options: TrainingOptions,
    augmentation: Augmentation,
    phases: PhasePlan,
    precision: torch.dtype,
) -> None:
    """Refuse before any work what could only fail later."""
    if phases.head == "none" and not phases.finetunes:
        raise UsageError("head_epochs = 0 and no fine-tuning: nothing would be trained.")
    if phases.finetunes and options.finetune_method == "lora":
        if phases.from_scratch:
            raise UsageError(
                f"training.finetune_method = lora adapts pretrained weights, and {model.spec.name} has random ones."
            )
        lora.check_lora(model, phases.boundary)
    frozen = model.stages[: phases.boundary] if phases.finetunes else []
    if augmentation.cutmix and frozen and len(frozen[-1].shape) != 3:
        raise UsageError(
            f"CutMix needs feature maps, and {model.spec.name} has tokens before {phases.boundary_name}. Use mixup, or "
            "finetune_from = all."
        )
    check_batch_norms(model, phases, distributed.world_size())
    check_sharding(options, precision)
    steps = math.ceil(len(split.train) / options.batch_size)
    if phases.from_scratch and model.has_batch_norms and len(split.train) // steps < 2:
        raise UsageError(
            f"training.batch_size = {options.batch_size} with {len(split.train)} training images has a step with one "
            "image, and from scratch BatchNorm needs several. Use a larger batch size, or pretrained weights."
        )
    if phases.finetunes and not options.finetune_lr and not len(split.val):
        raise UsageError(
            "finetune_lr = 0 chooses the learning rate by validation, and there is no val part. Set a learning rate."
        )
