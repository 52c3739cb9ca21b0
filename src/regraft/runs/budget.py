"""Fit a training into a budget of time, by throughputs that are measured before it starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from regraft import distributed
from regraft.cache import Cache
from regraft.config import Config
from regraft.config.presets import default_budget, for_task, head_backbones
from regraft.data.dataset import Dataset, Split
from regraft.data.pooling import per_answer
from regraft.errors import BudgetError, DataError, UsageError
from regraft.models.classifier import Classifier
from regraft.models.pretrained import smaller_sizes
from regraft.resources import usable_cpus, usable_memory
from regraft.runs.backbone_search import describe_choice, most_backbones
from regraft.text import pluralize
from regraft.timing import time_passes
from regraft.training.budget import Plan, Room, make_plan, shortest_full
from regraft.training.callbacks import ProgressReporter
from regraft.training.phase_plan import finetunes_members, plan_phases
from regraft.training.soft_labels import estimate_seconds, part_size
from regraft.training.storage import free_disk, memory_limit
from regraft.training.throughput import Throughput, measure_throughput

#: Time that is kept for the evaluation, as a multiple of its estimate.
_EVALUATION_MARGIN = 1.5
#: Time that is kept for a head over several backbones, and for images without labels, as a multiple of its estimate.
_HEAD_MARGIN = 1.25
#: Seconds until a plan that has been estimated is made, after another measurement.
_PLANNING = 15.0


@dataclass(frozen=True, eq=False)
class RunPlan:
    """What a run trains, and by when: model and configuration as they were fitted into the budget.

    `deadline` is a value of `time.monotonic()`, None without a limit; `members_deadline` is that of several backbones
    that are fine-tuned before their head is fitted. `seconds` are those planned for each step, empty where none were.
    """

    model: Classifier
    config: Config
    deadline: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    members_deadline: float | None = None


def fit_into_budget(
    model: Classifier,
    split: Split,
    config: Config,
    started: float,
    reporter: ProgressReporter,
    *,
    at_size: Callable[[int], Classifier] | None = None,
    unlabeled: int = 0,
    full_in: Sequence[float] = (),
    own_budget: bool = False,
) -> RunPlan:
    """Choose views, epochs and image size so that the training fits `training.budget` (0: no limit), and report it.

    Where several backbones are fine-tuned, each is planned when its training begins. `started` is a value of
    `time.monotonic()`; `at_size` builds the model for another size, where the size may be chosen; `unlabeled` images
    train beside the labeled ones. `full_in` are budgets that are tried in turn instead, until one has time for all
    views and half of the epochs; `BudgetError` if none has. An `own_budget` of a preset, which nobody asked for, is
    extended where it is too short for one backbone as the options ask for it, or few epochs of the first of several.
    Raises `DataError` for an empty train part, and `UsageError` if not even the head can be trained in this time,
    torch.compile is wanted, too, or what is to be kept has no room.
    """
    if not len(split.train):
        raise DataError("The train part has no image.")
    if split.stored is not None:  # a head alone, which takes seconds
        return RunPlan(model, config)
    budget = full_in[0] if full_in else config.training.budget
    if budget and config.training.compile:
        raise UsageError(
            f"training.compile = true and a budget of {budget:g} s exclude each other, because the time of compilation "
            "is not known beforehand. Remove one of them."
        )

    if budget and config.training.precision == "int8":
        raise UsageError(
            f"training.precision = int8 and a budget of {budget:g} s exclude each other, because the time of "
            "quantization is not known beforehand. Remove one of them."
        )

    if finetunes_members(model, config.training):
        if not budget:
            return RunPlan(model, config)
        return _plan_members(model, split, config, started, reporter, own_budget=own_budget)
    room = _room(config)

    def plan_with(rates: Throughput, budget: float) -> Plan:
        # Where a teacher says what they show, images without labels are rows as the labeled ones.
        of_unlabeled = 0.0 if unlabeled else _seconds_of_unlabeled(model, split, rates) * _HEAD_MARGIN
        try:
            plan = make_plan(
                model,
                {part: len(split[part]) + (unlabeled if part == "train" else 0) for part in split},
                replace(config.training, budget=budget),
                rates,
                changes_views=config.augmentation.changes_views,
                seconds=started + budget - time.monotonic() - of_unlabeled if budget else None,
                room=room,
            )
        except BudgetError as error:
            if not of_unlabeled or split.unlabeled is None:
                raise
            count = pluralize(len(split.unlabeled), "image")
            raise BudgetError(
                f"{error} {of_unlabeled:.0f} s of the budget are kept for {count} without labels (data.unlabelled)."
            ) from error
        return replace(plan, seconds={**plan.seconds, "head": plan.seconds["head"] + of_unlabeled})

    def full_plan(rates: Throughput) -> Plan:
        for seconds in full_in:
            with suppress(BudgetError):
                if (plan := plan_with(rates, seconds)).is_full:
                    return plan
        raise BudgetError(f"{full_in[-1]:.0f} s are too short for all views and half of the epochs of fine-tuning.")

    # Of a head alone without a limit they are an estimate that decides nothing.
    needs_precise = budget > 0 or plan_phases(model, config.training).finetunes
    rates = measure(model, split, config, needs_precise)
    size = before = min(model.preprocessing.shape)
    if budget and own_budget:
        needed = distributed.on_rank_0(lambda: time.monotonic() - started + _PLANNING + plan_with(rates, 0.0).needed)
        budget = _extended(budget, needed, reporter)
    if budget and at_size:
        size = distributed.on_rank_0(lambda: _fitting_size(model, rates, partial(plan_with, budget=budget)))
    if at_size and size != before:
        reporter.on_message(f"The input size is {size} pixels instead of {before}, so more training fits.")
        model = at_size(size)
        config = config.model_copy(update={"model": replace(config.model, image_size=size)})
        rates = measure(model, split, config)
    if rates.reason:
        reporter.on_message(rates.reason)
    plan, deadline = distributed.on_rank_0(
        lambda: (
            plan := full_plan(rates) if full_in else plan_with(rates, budget),
            started + plan.options.budget - time.monotonic(),
        )
    )
    reporter.on_message(" ".join(filter(None, (str(plan), config.describe_preset()))))
    if (memory := usable_memory()) and plan.memory > memory:
        reporter.on_message(
            f"The plan needs about {plan.memory / 1e9:.1f} GB of memory, and this process may use {memory / 1e9:.1f} "
            "GB. If it is killed, use a smaller --image-size, --set training.batch_size=8 or --set training.views=1."
        )
    config = config.model_copy(update={"training": plan.options})
    left = deadline - _EVALUATION_MARGIN * plan.seconds["evaluate"]
    return RunPlan(model, config, time.monotonic() + left if budget else None, plan.seconds)


def with_preset_plan(config: Config, split: Split, reporter: ProgressReporter) -> Config:
    """Adapt a preset to the images: their task, its budget, and whether fine-tuning can be judged; say what it will do.

    Changes nothing for a preset without a budget of its own and without `run.finetune_min_images`.
    """
    images, cpus = len(split.train), usable_cpus()
    training = for_task(config.training, config.run.preset, split.dataset.task)
    without = ""
    if training.finetune_epochs and images < config.run.finetune_min_images:
        training = replace(training, finetune_epochs=0)
        without = f"With {pluralize(images, 'training image')} nothing is fine-tuned (--epochs N does it)."
    finetunes = training.finetune_epochs > 0 and training.finetune_from != "none"
    only_first = len(per_answer(split.val)) < config.run.finetune_all_min_val
    if only_first or not finetunes:
        most = head_backbones(config.run.preset, config.run.max_backbones)
        config = config.model_copy(update={"run": replace(config.run, max_backbones=most)})
    seconds = distributed.broadcast(default_budget(config.run.preset, images, cpus))
    if not seconds:
        if without:
            reporter.on_message(f"Preset {config.run.preset}: {without}")
        return config.model_copy(update={"training": training})
    # A head alone takes seconds, and a limit could only end it with an error.
    training = replace(training, budget=training.budget or (seconds if finetunes else 0.0))
    choice = describe_choice(config)
    several = bool(choice) and most_backbones(config) > 1
    steps = [choice] if choice else []
    if finetunes:
        which = "the best of them" if only_first else "each"
        steps.append(f"{which if several else 'the backbone'} is fine-tuned")
    steps.append("a head is fitted over all of them" if several else "a head is fitted")
    if config.data.unlabelled:
        steps.append("images without labels help where cross-validation says so")
    plan = [f"Preset {config.run.preset}: {', '.join(steps)}."]
    if training.budget:
        machine = f"{pluralize(images, 'training image')} on {pluralize(cpus, 'core')}"
        plan.append(f"At most {training.budget:.0f} s for {machine} (--budget).")
    reporter.on_message(" ".join([*plan, without]).rstrip())
    return config.model_copy(update={"training": training})


def _plan_members(
    model: Classifier, split: Split, config: Config, started: float, reporter: ProgressReporter, *, own_budget: bool
) -> RunPlan:
    """Keep time for the head over several backbones, which are fine-tuned before; `BudgetError` if there is too little.

    An `own_budget` of a preset is extended instead, by what the head and few epochs of the first backbone need.
    """
    budget, reserved = config.training.budget, seconds_of_head(model, split, config)
    if own_budget:
        first = model.member(0)
        rates = measure(first, split, config)
        # The test images are for all together.
        counts: dict[str, int] = {part: len(split[part]) for part in split if part != "test"}
        plan = make_plan(first, counts, shortest_full(config.training), rates, room=_room(config))
        needed = distributed.on_rank_0(lambda: time.monotonic() - started + _PLANNING + plan.needed + reserved)
        budget = _extended(budget, needed, reporter)
    elif distributed.on_rank_0(lambda: started + budget - time.monotonic() < reserved):
        raise BudgetError(
            f"The rest of the budget is too short: the head over {pluralize(len(model.members), 'backbone')} alone "
            f"takes about {reserved:.0f} s here. Give more time, a smaller --image-size or fewer backbones."
        )
    return RunPlan(model, config, started + budget, members_deadline=started + budget - reserved)


def _extended(budget: float, needed: float, reporter: ProgressReporter) -> float:
    """The seconds of a preset's own budget, or those that are needed on a slow machine, which is said."""
    if needed > budget:
        reporter.on_message(
            f"On this machine one backbone alone takes longer: at most {needed:.0f} s (--budget sets another limit)."
        )
    return max(budget, needed)


def seconds_of_head(model: Classifier, split: Split, config: Config) -> float:
    """Estimated seconds of the head over several backbones and of the evaluation after it."""
    training = replace(config.training, finetune_epochs=0)
    config = config.model_copy(update={"training": training})
    counts: dict[str, int] = {part: len(split[part]) for part in split}
    rates = measure(model, split, config)
    plan = make_plan(model, counts, training, rates, room=_room(config))
    return distributed.on_rank_0(lambda: (plan.total + _seconds_of_unlabeled(model, split, rates)) * _HEAD_MARGIN)


def _seconds_of_unlabeled(model: Classifier, split: Split, rates: Throughput) -> float:
    """Estimated seconds for images without labels, if any: one pass through the network, and what the head needs."""
    if split.unlabeled is None:
        return 0.0
    count = part_size(len(split.train), len(split.unlabeled))
    a_pass = count * (1 / rates.decode + 1 / rates.prefix + 1 / rates.features)
    return a_pass + estimate_seconds(len(split.train), count, model.head.features, rates.head)


def disk_for(config: Config) -> tuple[int, Path]:
    """Bytes of room in the cache, or without one on the disk of the runs, and the folder."""
    cache = Cache(limit=int(config.training.cache_gb * 1e9))
    folder = cache.root if config.training.cache_gb else Path(config.run.out or "runs")
    free = free_disk(folder)
    return (min(free, cache.limit) if config.training.cache_gb else free), folder


def _room(config: Config) -> Room:
    disk, folder = disk_for(config)
    return Room(disk=disk, memory=memory_limit(config.training.memory_gb), folder=folder)


def measure(model: Classifier, split: Split, config: Config, warmup: bool = True) -> Throughput:
    """Measure the speed of each step on this machine, as `measure_throughput` does."""
    rates = measure_throughput(
        model,
        config.training,
        decode=_decoded_per_second(model, split.train),
        images=len(split.train),
        cache=Cache() if config.training.cache_gb else None,
        warmup=warmup,
    )
    return distributed.broadcast(rates).of_processes(distributed.world_size())


def _fitting_size(model: Classifier, rates: Throughput, plan_with: Callable[[Throughput], Plan]) -> int:
    """The largest size for which a thorough plan fits, or else the size with the most thorough plan."""
    current, ranks = min(model.preprocessing.shape), dict[int, int]()
    for size in [current, *smaller_sizes(model.spec, current)]:
        with suppress(UsageError):  # nothing fits
            plan = plan_with(rates.at((size / current) ** 2))
            if plan.is_thorough:
                return size
            ranks[size] = plan.rank
    return min(ranks, key=lambda size: (ranks[size], -size), default=current)


def _decoded_per_second(model: Classifier, dataset: Dataset) -> float:
    """Decode a few images on one core and multiply by the number of cores."""
    samples = dataset.samples[:: max(1, len(dataset) // 8)][:8]

    def decode() -> None:
        for sample in samples:
            model.preprocessing(dataset.source(sample), max_pixels=dataset.max_pixels)

    (seconds,) = time_passes(decode, passes=1, warmup=False)
    return len(samples) * usable_cpus() / max(1e-4, seconds)
