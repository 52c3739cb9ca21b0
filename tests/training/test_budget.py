from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from regraft.errors import BudgetError, UsageError
from regraft.models.classifier import Classifier, build
from regraft.training.budget import Plan, Room, make_plan, shortest_full
from regraft.training.options import TrainingOptions
from regraft.training.throughput import Throughput

COUNTS = {"train": 1000, "val": 100, "test": 200}
RATES = Throughput(decode=1000, prefix=250, features=1000, tail=100, last=200, predict=100)


@pytest.fixture(scope="module")
def model() -> Classifier:
    return build(classes=("a", "b"), image_size=32)


def _plan(model: Classifier, seconds: float | None, **options: Any) -> Plan:
    return make_plan(model, COUNTS, TrainingOptions(**options), RATES, seconds=seconds)


def test_without_a_budget_the_options_are_estimated(model: Classifier) -> None:
    plan = _plan(model, None, finetune_epochs=7, views=3)
    assert plan.options == TrainingOptions(finetune_epochs=7, views=3, prefix_backend="torch")
    assert plan.seconds["prefix"] == pytest.approx(3100 / 250)
    assert plan.seconds["finetune"] == pytest.approx(7 * (1000 / 100 + 100 / 1000))
    assert plan.rank == 0
    assert plan.is_thorough
    assert plan.total == sum(plan.seconds.values())
    assert "7 epochs of fine-tuning from blocks.3.0" in str(plan)
    assert f"About {plan.total:.0f} s" in str(plan)


def test_more_time_gives_more_training(model: Classifier) -> None:
    asked = _plan(model, None).total
    thoroughness, chosen = [], []
    for seconds in (25, 35, 45, 70, 120, 200, 4 * asked):
        plan = _plan(model, seconds)
        assert plan.total <= seconds
        thoroughness.append(-plan.rank)
        chosen.append((plan.options.finetune_from, plan.options.finetune_epochs, plan.options.views))
    assert thoroughness == sorted(thoroughness)
    assert chosen[0] == ("auto", 0, 1)
    assert ("last", 3, 1) in chosen
    assert chosen[-1] == ("auto", 10, 8), "never more than was asked for"


def test_the_shortest_full_plan_has_five_epochs_or_those_asked_for(model: Classifier) -> None:
    options = TrainingOptions()
    needed = make_plan(model, COUNTS, shortest_full(options), RATES).needed
    just = _plan(model, needed + 0.01)
    assert (just.options.finetune_epochs, just.options.views, just.is_full) == (5, 8, True)
    assert not _plan(model, needed - 0.01).is_full
    assert shortest_full(replace(options, finetune_epochs=2)).finetune_epochs == 2
    assert shortest_full(replace(options, finetune_epochs=34)).finetune_epochs == 17, "of more the same share"


def test_a_batch_needs_memory_beside_the_features(model: Classifier) -> None:
    plan = _plan(model, None, batch_size=64)
    with_batch = make_plan(
        model, COUNTS, plan.options, replace(RATES, activation_bytes=5e6, peak_layer_bytes=3e6)
    ).memory
    assert with_batch - plan.memory == pytest.approx(64 * 5e6 + 64 * 3e6, rel=1e-6)
    alone = replace(plan.options, finetune_epochs=0)
    assert make_plan(model, COUNTS, alone, replace(RATES, activation_bytes=5e6)).memory == pytest.approx(
        make_plan(model, COUNTS, alone, RATES).memory
    )


def test_the_learning_rate_search_takes_time(model: Classifier) -> None:
    known, sought = (_plan(model, None, finetune_lr=lr).seconds["finetune"] for lr in (1e-4, 0))
    assert sought == pytest.approx(1.4 * known)


def test_too_little_time_is_refused_with_the_time_needed(model: Classifier) -> None:
    with pytest.raises(UsageError, match=r"too short: training only the head takes about \d+ s"):
        _plan(model, 3)


def test_from_scratch_a_short_budget_has_fewer_epochs_and_never_a_head_alone() -> None:
    network = build("cnn", classes=("a", "b"), image_size=32)
    plans = [
        make_plan(network, COUNTS, TrainingOptions(finetune_epochs=30), RATES, seconds=seconds)
        for seconds in (600, 200, 40)
    ]
    assert [plan.options.finetune_epochs for plan in plans] == [30, 10, 1]
    assert all(plan.seconds["head"] == plan.seconds["prefix"] == 0 for plan in plans)
    assert "10 epochs of the whole network from scratch" in str(plans[1])
    with pytest.raises(BudgetError, match=r"training one epoch takes about \d+ s"):
        make_plan(network, COUNTS, TrainingOptions(), RATES, seconds=5)


def test_activations_without_room_on_disk_go_to_memory_or_are_fewer_or_none(model: Classifier) -> None:
    whole = _plan(model, None)
    size = whole.disk - 1100 * 3 * 32**2  # of 8 views of 1000 images, and of 100 of validation

    def plan(disk: int, memory: int, rates: Throughput = RATES, **options: Any) -> Plan:
        return make_plan(model, COUNTS, TrainingOptions(**options), rates, room=Room(disk, memory))

    assert plan(2 * size, 0).options == whole.options
    assert str(plan(2 * size, 10**9)) == str(whole)
    in_memory = plan(size // 2, 10**9)
    assert in_memory.options.feature_cache == "memory"
    assert in_memory.disk < whole.disk
    assert in_memory.memory > whole.memory
    assert "kept in memory (training.feature_cache = memory)." in str(in_memory)
    fewer = plan(int(0.55 * size), 0)
    assert (fewer.options.feature_cache, fewer.options.views) == ("disk", 4)
    assert "There is room for 4 views of each image instead of 8." in str(fewer)
    none = plan(size // 100, 0)
    assert (none.options.feature_cache, none.options.views) == ("none", 0)
    assert "1000 images in new views at every step, " in str(none)
    assert none.seconds["prefix"] == 0
    assert none.seconds["finetune"] == pytest.approx(
        10 * (1000 / 100 + 1100 / 250 + 100 / 1000 + 1100 / 1000)  # steps, prefix, tail of validation, decoding
    )
    assert "Frozen layers run at every step, on new views (training.feature_cache = none)." in str(none)
    # One epoch passes the prefix less often than five views.
    assert plan(int(0.7 * size), 0, finetune_epochs=1).options.feature_cache == "none"
    assert "Pixels have no room: every pass over the images decodes them." in str(none)
    assert none.seconds["decode"] == 0
    assert fewer.seconds["finetune"] == whole.seconds["finetune"], "cached views need no pixels"


def test_the_head_alone_needs_no_room_for_pixels_and_may_be_chunked(model: Classifier) -> None:
    options = TrainingOptions(finetune_epochs=0)
    counts = {"train": 200_000, "val": 20_000}
    plenty = make_plan(model, counts, options, RATES, room=Room(10**12, 10**12))
    little = make_plan(model, counts, options, RATES, room=Room(10**12, 10**9))
    assert plenty.disk == little.disk < 220_000 * 3000 * 4
    assert little.memory < 2e9 < plenty.memory
    kept = make_plan(model, counts, options, RATES, room=Room(10**6, 10**6))
    assert kept.options.feature_cache == "none"
    assert "Features are kept until the end" in str(kept)


@pytest.mark.parametrize("mode", ["memory", "disk"])
def test_a_place_that_is_asked_for_and_too_small_is_refused(model: Classifier, mode: Any, tmp_path: Path) -> None:
    options = TrainingOptions(feature_cache=mode)
    counts = {"train": 10**10}
    with pytest.raises(UsageError, match=f"training.feature_cache = {mode} needs"):
        make_plan(model, counts, options, RATES, room=Room(10**9, 10**9, tmp_path))
