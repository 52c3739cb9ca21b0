"""Plan a training on more images, processes and GPUs than there are here, from speeds that are measured or given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from regraft.config import Config
from regraft.data.dataset import Part, Split
from regraft.errors import DataError, UsageError
from regraft.models.classifier import Classifier
from regraft.resources import usable_cpus, usable_memory
from regraft.runs.budget import disk_for, measure
from regraft.runs.prepare import prepare
from regraft.runs.teacher import refuse_teacher
from regraft.runs.unlabelled import refuse_unlabeled
from regraft.timing import time_passes
from regraft.training.budget import Room
from regraft.training.callbacks import ProgressReporter
from regraft.training.device import choose_device
from regraft.training.losses import Objective
from regraft.training.phase_plan import finetunes_members, plan_phases, with_enough_steps
from regraft.training.scaling import Cluster, Rates, ScalePlan, plan_scale
from regraft.training.storage import check_shared_cache

#: Images of which the head's speed is measured.
_HEAD_IMAGES = 4096
#: Files of which the mean size is taken.
_FILES = 200


def plan_from(
    data: Path | str,
    config: Config,
    reporter: ProgressReporter,
    *,
    images: int | None = None,
    processes: int = 1,
    gpus: int | None = None,
    cpus: int | None = None,
    rates: Path | None = None,
    disk_gb: float | None = None,
) -> tuple[ScalePlan, Rates]:
    """Plan the training that `regraft train DATA` would run.

    Args:
        data: Labeled images, as for `train`; a sample of the real data is enough.
        config: Settings of the training.
        reporter: Receives the progress of the scan.
        images: Plan for this number of images, in the same shares of parts. Default: those of the data.
        processes: Number of processes.
        gpus: Number of GPUs, one for each process. Default: one for each process where the rates are of a GPU.
        cpus: CPUs of all machines together. Default: those of the rates, for each GPU where there are GPUs.
        rates: A file of speeds. Default: they are measured here, in seconds.
        disk_gb: Disk for the cache, in 10^9 bytes. Default: `training.cache_gb`, or what is free here if that is less.

    Returns:
        The plan, and the speeds that it used.

    Raises:
        UsageError: The file of rates is wrong, or of another device, network or freeze boundary; the machines cannot
            run the processes; or the settings have a budget. What can be is found before the data is read.
        DataError: The data has no image to train on.
    """
    if config.training.budget:
        raise UsageError(
            f"training.budget = {config.training.budget:g} has no effect on a plan, which says what the whole training "
            "takes. Remove it."
        )
    refuse_unlabeled(config, "regraft plan")
    refuse_teacher(config, "regraft plan")
    if images is not None and images < 1:
        raise UsageError(f"--images {images}: expected at least 1.")
    given = Rates.load(rates) if rates else None
    device = given.device if given else choose_device(config.training.device).type
    if device not in ("cpu", "cuda"):
        raise UsageError(f"Rates of the device {device} cannot be planned with; expected cpu or cuda.")
    if gpus is None:
        gpus = processes if device == "cuda" else 0
    own_cpus = given.cpus if given else usable_cpus()
    cluster = Cluster(processes, gpus, cpus or own_cpus * (max(1, gpus) if device == "cuda" else 1))
    cluster.check_device(device)
    check_shared_cache(config.training.feature_cache, processes)
    model, split = prepare(data, config, reporter)
    if not len(split.train):
        raise DataError("The train part has no image.")
    if finetunes_members(model, config.training):
        raise UsageError(
            f"{model.spec.name} are fine-tuned one after the other, and a plan is of one training. Plan each backbone, "
            "and the head over all with --epochs 0."
        )
    speeds = given or measure_rates(model, split, config)
    counts: dict[str, int] = {part: len(split[part]) for part in split}
    if images is not None:
        total = sum(counts.values())
        counts = {part: round(count * images / total) for part, count in counts.items()}
    training = with_enough_steps(config.training, counts.get("train", 0))
    memory = int(config.training.memory_gb * 1e9 or (usable_memory() or 4e9) / 2) // processes
    plan = plan_scale(
        model,
        counts,
        training,
        speeds,
        cluster,
        changes_views=config.augmentation.changes_views,
        room=Room(disk_for(config)[0] if disk_gb is None else int(disk_gb * 1e9), memory),
    )
    return plan, speeds


def measure_rates(model: Classifier, split: Split, config: Config) -> Rates:
    """Measure the speeds of this machine, on noise and a few of the images, in seconds.

    Those of fine-tuning are measured also where the configuration has none, because a file of rates is for other plans.
    """
    training = config.training
    training = replace(
        training,
        finetune_epochs=max(1, training.finetune_epochs),
        finetune_from="auto" if training.finetune_from == "none" else training.finetune_from,
    )
    config = config.model_copy(update={"training": training})
    speeds, cpus = measure(model, split, config), usable_cpus()
    device, precision = speeds.measured_on(config.training)
    return Rates(
        device=device.type,
        precision=str(precision).removeprefix("torch."),
        backbone=model.spec.name,
        image_size=model.preprocessing.named_size,
        boundary=plan_phases(model, training).boundary_name,
        cpus=cpus,
        decode=speeds.decode / cpus,
        prefix=speeds.prefix,
        features=speeds.features,
        tail=speeds.tail,
        predict=speeds.predict,
        head=_head_values_per_second(model, device),
        image_bytes=_mean_bytes(split, "train"),
        activation_bytes=speeds.activation_bytes,
        peak_layer_bytes=speeds.peak_layer_bytes,
    )


def _head_values_per_second(model: Classifier, device: torch.device) -> float:
    """Time loss and gradient of the head on noise."""
    features, classes = model.head.features, len(model.classes)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(_HEAD_IMAGES, features, generator=generator).to(device)
    objective = Objective("cross_entropy", 0.0, torch.ones(classes, device=device))
    targets = objective.targets(torch.arange(_HEAD_IMAGES, device=device) % classes)
    weight = torch.zeros(classes, features, device=device, requires_grad=True)

    def evaluate() -> None:
        (gradient,) = torch.autograd.grad(objective(rows @ weight.T, targets), [weight])
        gradient.cpu()

    return rows.numel() / min(time_passes(evaluate, passes=3))


def _mean_bytes(split: Split, part: Part) -> float:
    """Mean size of some of the files, in bytes."""
    samples = split[part].samples
    chosen = [samples[i] for i in np.linspace(0, len(samples) - 1, min(len(samples), _FILES)).astype(int)]
    return float(np.mean([_size(split.dataset.source(sample)) for sample in chosen]))


def _size(source: object) -> int:
    if isinstance(source, (bytes, bytearray)):
        return len(source)
    return source.nbytes if isinstance(source, np.ndarray) else Path(str(source)).stat().st_size
