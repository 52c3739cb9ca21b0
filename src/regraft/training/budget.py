"""Estimate the cost of a training on this machine, and choose what fits into a budget of time.

Input: a model, the numbers of images, the options, and a `Throughput`. Output: a `Plan` with the seconds of each step,
and options that keep the budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from regraft.errors import BudgetError
from regraft.models.classifier import Classifier
from regraft.models.passes import images_per_pass
from regraft.text import pluralize
from regraft.training.epochs import LR_CANDIDATES
from regraft.training.feature_cache import row_bytes
from regraft.training.linear_head import MAX_SEARCH_IMAGES, REFITTED_SHARE, is_refitted
from regraft.training.options import TrainingOptions
from regraft.training.phase import Phase
from regraft.training.phase_plan import plan_phases
from regraft.training.storage import check_disk, check_memory, check_shared_cache, describe_storage, storage_needs
from regraft.training.throughput import Throughput

#: (finetune_from, views, epochs) from which a budget chooses, the most thorough first: never more than the options ask
#: for, and of more than ten that they ask for the same share; "" keeps their finetune_from.
LADDER = (("", 8, 10), ("", 8, 5), ("", 4, 5), ("", 4, 3), ("", 2, 2), ("last", 1, 3))
#: Shares of the epochs from which a budget chooses for a network that trains from scratch, with one epoch at last.
SCRATCH_LADDER = (0.75, 0.5, 0.35, 0.25, 0.15, 0.0)
#: Smaller images are tried before the rungs from this one on.
_THOROUGH_RUNGS = 5
#: Rungs before this one have all views and half of the epochs, or five.
_FULL_RUNGS = 3
#: Images of a batch when a part is predicted, of which a pass has fewer if they are large.
_PREDICTION_BATCH = 32
#: Memory of a head that is fitted in chunks: two chunks and their temporary values.
_CHUNKED_HEAD = 2e8
#: Epochs of the last rung before `_FULL_RUNGS`.
_FULL_EPOCHS = LADDER[_FULL_RUNGS - 2][2]
#: Safety factor: the machine may be slower during training than during the measurement.
_MARGIN = 1.25


@dataclass(frozen=True)
class Room:
    """Bytes of room for what a training keeps: on the disk of `folder`, by the cache's limit too, and in memory."""

    disk: int
    memory: int
    folder: Path = Path()


@dataclass(frozen=True)
class Plan:
    """What a training will do, and its estimated cost.

    `seconds` are by step, with empty caches; `memory` and `disk` are bytes. `head_epochs` is 0 for a solved head.
    `rank` is the rung of the ladder from which a budget chooses: 0 is everything that the options ask for. `dropped`:
    the options ask for fine-tuning that does not fit.
    """

    options: TrainingOptions
    boundary: str
    images: int
    seconds: Mapping[str, float]
    memory: int
    disk: int
    head_epochs: int = 0
    rank: int = 0
    dropped: bool = False
    from_scratch: bool = False
    is_live: bool = False  # whether the frozen layers run at every step
    storage: str = ""  # sentences about what is not on disk

    @property
    def is_thorough(self) -> bool:
        """Whether fine-tuning, where the options ask for it, has several epochs and views."""
        return self.rank < _THOROUGH_RUNGS and not self.dropped

    @property
    def is_full(self) -> bool:
        """Whether fine-tuning, where the options ask for it, has all views and at least half of the epochs."""
        return self.rank < _FULL_RUNGS and not self.dropped

    @property
    def total(self) -> float:
        """Seconds of all steps."""
        return sum(self.seconds.values())

    @property
    def needed(self) -> float:
        """Seconds of a budget that is certainly enough."""
        return self.total * _MARGIN

    def __str__(self) -> str:
        """One line for people."""
        steps = ", ".join(f"{name} {seconds:.0f}" for name, seconds in self.seconds.items() if seconds >= 0.5)
        epochs = pluralize(self.options.finetune_epochs, "epoch")
        views = "new views at every step" if self.is_live else pluralize(self.options.views, "view")
        work = f"{self.images} images in {views}, "
        if self.from_scratch:
            work += f"{epochs} of the whole network from scratch"
        else:
            work += "the head trained"
        if self.head_epochs:
            optimizer = Phase.from_options(self.options, "head").optimizer
            work += f" for {pluralize(self.head_epochs, 'epoch')} by {optimizer}"
        if not self.from_scratch and self.options.finetune_epochs and self.boundary != "head":
            work += f", {epochs} of fine-tuning from {self.boundary}"
            work += " by LoRA" if self.options.finetune_method == "lora" else ""
        if self.dropped:
            work += " (fine-tuning does not fit into the budget)"
        return (
            f"Plan: {work}. About {self.total:.0f} s with empty caches ({steps}), "
            f"{self.memory / 1e9:.1f} GB of memory, {self.disk / 1e6:,.0f} MB on disk.{self.storage}"
        )


def shortest_full(options: TrainingOptions) -> TrainingOptions:
    """The options with as few epochs of fine-tuning as a plan that `is_full` may have."""
    return replace(options, finetune_epochs=_epochs_of_rung(_FULL_EPOCHS, options.finetune_epochs))


def _epochs_of_rung(epochs: int, asked: int) -> int:
    return max(min(epochs, asked), round(asked * epochs / LADDER[0][2]))


def make_plan(
    model: Classifier,
    counts: Mapping[str, int],
    options: TrainingOptions,
    rates: Throughput,
    *,
    changes_views: bool = True,
    seconds: float | None = None,
    room: Room | None = None,
) -> Plan:
    """Choose the most thorough training that fits.

    `counts` are images by part; `seconds` is the time for everything, evaluation included, and None only estimates what
    the options ask for. Where the activations have no room on disk (`room`; None: there is enough), they are kept in
    memory, or there are fewer views, or none are kept, whichever is faster. Raises `BudgetError` if not even the head,
    or from scratch one epoch, can be trained in the time, and `UsageError` if what the options want to keep has no
    room.
    """
    check_shared_cache(options.feature_cache, rates.processes)
    phases = plan_phases(model, options, changes_views=changes_views)
    is_live = options.feature_cache == "none" and phases.finetunes and phases.boundary > 0
    views = options.views if is_live else phases.views
    asked = replace(options, views=views, prefix_backend=rates.prefix_backend)

    def estimate(options: TrainingOptions) -> Plan:
        return _fitting_storage(model, counts, options, rates, room)

    plan = estimate(asked)
    if seconds is None:
        return plan
    candidates = [plan]
    if phases.from_scratch:  # a head on random features is no smaller training of this network
        shorter = dict.fromkeys(max(1, int(asked.finetune_epochs * share)) for share in SCRATCH_LADDER)
        candidates += [estimate(replace(asked, finetune_epochs=count)) for count in shorter]
        return _first_that_fits(candidates, seconds, "one epoch")
    for start, views, epochs in LADDER if phases.finetunes else ():
        epochs = _epochs_of_rung(epochs, asked.finetune_epochs)
        rung = replace(asked, views=min(views, asked.views), finetune_epochs=epochs)
        if not start:
            candidates.append(estimate(rung))
        elif model.resolve(start) > phases.boundary:
            candidates.append(estimate(replace(rung, finetune_from=start)))
    head_only = estimate(replace(asked, views=1, finetune_epochs=0))
    candidates.append(replace(head_only, dropped=phases.finetunes))
    return _first_that_fits(candidates, seconds, "only the head")


def _first_that_fits(candidates: Sequence[Plan], seconds: float, least: str) -> Plan:
    for rank, candidate in enumerate(candidates):
        if candidate.needed <= seconds:
            return replace(candidate, rank=rank)
    raise BudgetError(
        f"The rest of the budget, {max(seconds, 0):.0f} s, is too short: training {least} takes about "
        f"{candidates[-1].needed:.0f} s here. Give more time, a smaller --image-size or fewer images."
    )


def _fitting_storage(
    model: Classifier, counts: Mapping[str, int], options: TrainingOptions, rates: Throughput, room: Room | None
) -> Plan:
    """The estimate for the options, or for the fastest way to keep less, where `auto` has no room for all of it."""
    phases = plan_phases(model, options)
    _, precision = rates.measured_on(options)
    needs = storage_needs(model, counts, phases, precision, processes=rates.processes)
    asked = estimate_plan(model, counts, options, rates, room)
    if room is None:
        return asked
    if options.feature_cache == "memory":
        check_memory(needs, room.memory)
    if options.feature_cache == "disk":
        check_disk(needs.activations, room.folder)
    if options.feature_cache != "auto" or needs.activations <= room.disk:
        return asked
    shared = rates.processes > 1  # memory is not
    if needs.activations <= room.memory and not shared:
        return estimate_plan(model, counts, replace(options, feature_cache="memory"), rates, room)
    smaller = [replace(options, feature_cache="none", views=0 if phases.finetunes else options.views)]
    a_view = counts.get("train", 0) * row_bytes(model, phases.cut, precision)
    of_val = counts.get("val", 0) * row_bytes(model, phases.cut, precision)
    in_memory = room.memory > room.disk and not shared
    views = ((room.memory if in_memory else room.disk) - of_val) // max(1, a_view)
    if phases.finetunes and 1 <= views < phases.views:
        smaller.append(replace(options, views=views, feature_cache="memory" if in_memory else "disk"))
    best = min((estimate_plan(model, counts, fewer, rates, room) for fewer in smaller), key=lambda plan: plan.total)
    if not best.is_live and best.options.views < options.views:
        fewer = f" There is room for {pluralize(best.options.views, 'view')} of each image instead of {options.views}."
        best = replace(best, storage=best.storage + fewer)
    return best


def estimate_plan(
    model: Classifier, counts: Mapping[str, int], options: TrainingOptions, rates: Throughput, room: Room | None
) -> Plan:
    """What a training with exactly these options takes; arguments as for `make_plan`."""
    train, val, test = (counts.get(part, 0) for part in ("train", "val", "test"))
    device, precision = rates.measured_on(options)
    phases = plan_phases(model, options)
    starts_with_head = phases.head != "none"
    rows = train * phases.views
    epochs = options.finetune_epochs if phases.finetunes else 0
    # Before fine-tuning L-BFGS fits the head on the plain images alone.
    head_views = 1 if phases.finetunes and phases.head != "epochs" else phases.views
    head_rows = train * head_views
    passed = float(head_rows)
    if phases.head == "lbfgs":
        passed = min(train, MAX_SEARCH_IMAGES) + REFITTED_SHARE * head_rows * is_refitted(train, head_views)
    to_head = 1 / rates.prefix + 1 / rates.features
    # The rates belong to the boundary of the given options; above it, both are taken to reach the head, as a bound.
    from_last = options.finetune_from == "last"
    prefix = 1 / rates.prefix if phases.finetunes and not from_last else to_head
    after_cut = 1 / rates.features if phases.cut < len(model.stages) else to_head if phases.boundary == 0 else 0.0
    candidates = len(LR_CANDIDATES) if epochs and not options.finetune_lr else 0
    step = rates.last if from_last else rates.tail
    seconds_of_prefix = (rows + val) * prefix if phases.boundary or starts_with_head else 0.0
    per_epoch = options.steps_per_epoch * options.batch_size or train
    head = 1 + passed * model.head.features / rates.head + (head_rows + val) * after_cut
    needs = storage_needs(model, counts, phases, precision, processes=rates.processes)
    keeps = options.feature_cache if options.feature_cache != "auto" else "disk"
    is_live = keeps == "none" and phases.finetunes and phases.boundary > 0
    on_disk = needs.activations if keeps == "disk" and seconds_of_prefix else 0
    stores_pixels = not needs.reads_once and (room is None or on_disk + needs.pixels <= room.disk)
    passes = epochs + candidates
    # Pixels that are not stored are decoded in every pass over them.
    is_decoded_once = stores_pixels or needs.reads_once
    decode = 0.0 if is_decoded_once else 1 / rates.decode
    live = decode + 1 / rates.prefix if is_live else decode if phases.boundary == 0 else 0.0
    seconds = {
        "decode": (train + val) / rates.decode if is_decoded_once else 0.0,
        "prefix": 0.0 if is_live else seconds_of_prefix + (rows + val) * decode * bool(seconds_of_prefix),
        "head": head + is_live * (head_rows + val) * live if starts_with_head else 0.0,
        "finetune": passes * (per_epoch * (1 / step + live) + val * (live + after_cut)),
        "evaluate": 2 + train * (live + after_cut) + (val + test) / min(rates.predict, rates.decode),
    }
    disk = on_disk + needs.pixels * stores_pixels
    in_memory = room is None or needs.features <= room.memory - (needs.activations if keeps == "memory" else 0)
    if not in_memory and keeps != "memory" and not needs.reads_once:
        disk += head_rows * model.head.features * precision.itemsize
    # PyTorch keeps freed memory, so the needs of different steps add up: within a sixth of the peaks of seven runs.
    at_once = min(_PREDICTION_BATCH, images_per_pass(math.prod(model.preprocessing.input_shape)))
    batches = 2 * at_once * rates.peak_layer_bytes
    batches += math.ceil(options.batch_size / rates.processes) * rates.activation_bytes if epochs else 0
    batches *= device.type == "cpu"
    # Features that do not fit are read in chunks, beside a few matrices of F x F.
    of_features = needs.features if in_memory else _CHUNKED_HEAD + 40 * model.head.features**2
    memory = int(9e8 + 8 * model.megabytes() * 1e6 + of_features + batches)
    memory += needs.activations if keeps == "memory" else 0
    head_epochs = options.head_epochs if phases.head == "epochs" else 0
    return Plan(
        options,
        phases.boundary_name,
        train,
        seconds,
        memory,
        disk,
        head_epochs,
        from_scratch=phases.from_scratch,
        is_live=is_live,
        storage=describe_storage(options, phases, stores_pixels=stores_pixels or needs.reads_once),
    )
