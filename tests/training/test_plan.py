from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from regraft.data.dataset import Split
from regraft.errors import UsageError
from regraft.models.classifier import Classifier, build
from regraft.training.options import TrainingOptions
from regraft.training.plan import Plan, Rates, make_plan, measure_rates
from regraft.training.progress import Epoch, Silence
from regraft.training.train import train

COUNTS = {"train": 1000, "val": 100, "test": 200}
RATES = Rates(decode=1000, prefix=250, features=1000, tail=100, last=200, predict=100)


@pytest.fixture(scope="module")
def model() -> Classifier:
    return build(classes=("a", "b"), image_size=32)


def _plan(model: Classifier, seconds: float | None, **options: Any) -> Plan:
    return make_plan(model, COUNTS, TrainingOptions(**options), RATES, seconds=seconds)


def test_without_a_budget_what_was_asked_for_is_estimated(model: Classifier) -> None:
    plan = _plan(model, None, finetune_epochs=7, views=3)
    assert plan.options == TrainingOptions(finetune_epochs=7, views=3, engine="torch")
    assert plan.seconds["prefix"] == pytest.approx(3100 / 250)
    assert plan.seconds["finetune"] == pytest.approx(7 * (1000 / 100 + 100 / 1000))
    assert plan.rank == 0
    assert plan.is_thorough
    assert plan.total == sum(plan.seconds.values())
    assert "7 epochs of fine-tuning from blocks.3.0" in str(plan)
    assert f"About {plan.total:.0f} s" in str(plan)


def test_the_more_time_the_more_is_done(model: Classifier) -> None:
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


def test_a_batch_needs_memory_beside_the_features(model: Classifier) -> None:
    plan = _plan(model, None, batch_size=64)
    held = make_plan(model, COUNTS, plan.options, replace(RATES, held=5e6, widest=3e6)).memory
    assert held - plan.memory == pytest.approx(64 * 5e6 + 64 * 3e6, rel=1e-6)
    alone = replace(plan.options, finetune_epochs=0)
    assert make_plan(model, COUNTS, alone, replace(RATES, held=5e6)).memory == pytest.approx(
        make_plan(model, COUNTS, alone, RATES).memory
    )


def test_looking_for_the_rate_takes_its_time(model: Classifier) -> None:
    known, sought = (_plan(model, None, finetune_lr=lr).seconds["finetune"] for lr in (1e-4, 0))
    assert sought == pytest.approx(1.4 * known)


def test_too_little_time_says_how_much_it_takes(model: Classifier) -> None:
    with pytest.raises(UsageError, match=r"too short: training only the head takes about \d+ s"):
        _plan(model, 3)


def test_rates_are_measured_and_the_model_left_as_it_was(model: Classifier) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainable = [name for name, _ in model.trainable()]
    state = torch.get_rng_state()
    rates = measure_rates(model, TrainingOptions(), decode=10, images=100)
    assert torch.equal(torch.get_rng_state(), state)
    assert rates.decode == 10
    assert 0 < rates.tail < rates.last < 1e6
    assert 0 < rates.prefix < 1e6
    assert rates.tail < rates.features
    assert rates.predict > 0
    assert rates.engine == "torch"
    assert rates.widest >= 4 * 16 * 16 * (16 + 96), "blocks.1.0 widens the maps of 16 channels to 96"
    assert rates.held > 2 * 1152, "the last maps alone"
    assert not model.training
    assert trainable == [name for name, _ in model.trainable()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    head = measure_rates(model, replace(TrainingOptions(), finetune_epochs=0), decode=10, images=100)
    assert head.tail == head.last == head.features == float("inf")


def test_no_epoch_begins_that_would_end_too_late(squares_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("regraft.training.train.time.monotonic", lambda: now[0])

    class TenSeconds(Silence):
        def epoch(self, row: Epoch) -> None:
            now[0] += 10 * (row.phase == "finetune")

        def work(self, name: str, done: int, total: int, detail: str = "") -> None:
            now[0] += 10 * (name == "finetune" and done % 24 == 0)

    model = build(classes=squares_split.classes, image_size=32)
    options: dict[str, Any] = {"finetune_epochs": 50, "views": 1, "batch_size": 12, "finetune_from": "blocks.6"}
    result = train(model, squares_split, listener=TenSeconds(), deadline=75, **options)
    epochs = [row for row in result.history if row.phase == "finetune"]
    assert 1 <= len(epochs) <= 7
    assert any("The time is up" in note for note in result.notes)
