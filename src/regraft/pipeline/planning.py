"""What fits into a budget of time, by rates that are measured on the machine before the work begins.

Enters: a model, a split and a `Config`. Leaves: the model and the configuration to train with, and the moment to stop.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from regraft.config import Config
from regraft.data.dataset import Dataset, Split
from regraft.errors import DataError, UsageError
from regraft.models.classifier import Classifier, smaller_sizes
from regraft.store import Store
from regraft.training.plan import Plan, Rates, make_plan, measure_rates
from regraft.training.progress import Listener


def fit_into_budget(
    model: Classifier,
    split: Split,
    config: Config,
    started: float,
    listener: Listener,
    *,
    at_size: Callable[[int], Classifier] | None = None,
) -> tuple[Classifier, Config, float | None]:
    """The model and the configuration that fit into the budget, and the moment of `time.monotonic` when training ends.

    `at_size` builds the model for images of another side, where that may be chosen.
    """
    if not len(split.train):
        raise DataError("The train part has no image.")
    budget = config.training.budget

    def planned(rates: Rates) -> Plan:
        return make_plan(
            model,
            {part: len(split[part]) for part in split},
            config.training,
            rates,
            changes_views=config.augmentation.changes_views,
            seconds=started + budget - time.monotonic() if budget else None,
        )

    rates = _measured(model, split, config)
    if budget and at_size and (size := _fitting_size(model, rates, planned)) != model.preprocessing.size:
        listener.note(f"The input is {size} pixels in place of {model.preprocessing.size}: more training fits in time.")
        model = at_size(size)
        config = config.model_copy(update={"model": replace(config.model, image_size=size)})
        rates = _measured(model, split, config)
    if rates.why:
        listener.note(rates.why)
    plan = planned(rates)
    listener.note(str(plan))
    config = config.model_copy(update={"training": plan.options})
    return model, config, started + budget - plan.seconds["evaluate"] if budget else None


def _measured(model: Classifier, split: Split, config: Config) -> Rates:
    return measure_rates(
        model,
        config.training,
        decode=_decode_rate(model, split.train),
        images=len(split.train),
        store=Store() if config.training.cache_gb else None,
    )


def _fitting_size(model: Classifier, rates: Rates, planned: Callable[[Rates], Plan]) -> int:
    """The largest size at which a thorough plan fits; if there is none, the one at which the best plan does."""
    here, ranks = model.preprocessing.size, {}
    for size in [here, *smaller_sizes(model.spec, here)]:
        with suppress(UsageError):  # nothing fits
            plan = planned(rates.at((size / here) ** 2))
            if plan.is_thorough:
                return size
            ranks[size] = plan.rank
    return min(ranks, key=lambda size: (ranks[size], -size), default=here)


def _decode_rate(model: Classifier, dataset: Dataset) -> float:
    """Images a second, by a few of them, on every core."""
    chosen = dataset.samples[:: max(1, len(dataset) // 8)][:8]
    started = time.monotonic()
    for sample in chosen:
        model.preprocessing(dataset.source(sample), max_pixels=dataset.max_pixels)
    return len(chosen) * (os.cpu_count() or 1) / max(1e-4, time.monotonic() - started)
