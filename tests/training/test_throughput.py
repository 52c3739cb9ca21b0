"""Speeds are measured, and measuring changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from regraft.cache import Cache
from regraft.models.classifier import build
from regraft.training.options import TrainingOptions
from regraft.training.throughput import measure_throughput


@pytest.mark.parametrize("weights", ["auto", "none"])
def test_throughput_is_measured_and_the_model_stays_unchanged(weights: str) -> None:
    model = build(classes=("a", "b"), image_size=32, weights=weights)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainable = [name for name, _ in model.trainable_parameters()]
    state = torch.get_rng_state()
    rates = measure_throughput(model, TrainingOptions(), decode=10, images=100)
    assert torch.equal(torch.get_rng_state(), state)
    assert rates.decode == 10
    assert 0 < rates.tail < 1e6
    assert 0 < rates.last < 1e6
    assert 0 < rates.prefix < 1e6
    assert rates.features > 0
    assert rates.predict > 0
    assert rates.prefix_backend == "torch"
    assert rates.peak_layer_bytes >= 4 * 16 * 16 * (16 + 96), "blocks.1.0 widens the maps of 16 channels to 96"
    assert rates.activation_bytes > 2 * 1152, "the last maps alone"
    assert not model.training
    assert trainable == [name for name, _ in model.trainable_parameters()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    head = measure_throughput(model, replace(TrainingOptions(), finetune_epochs=0), decode=10, images=100)
    assert head.tail == head.last == head.features == float("inf")


def test_without_warm_up_the_batch_passes_once() -> None:
    model, options = build(classes=("a", "b"), image_size=32), replace(TrainingOptions(), finetune_epochs=0)
    passes: list[int] = []
    hook = model.head.register_forward_hook(lambda head, inputs, logits: passes.append(len(logits)))
    precise = measure_throughput(model, options, decode=10, images=100)
    assert passes.count(16) == 3
    passes.clear()
    rough = measure_throughput(model, options, decode=10, images=100, warmup=False)
    hook.remove()
    assert passes.count(16) == 1
    assert 0 < rough.prefix < 1e6
    assert 0 < rough.predict < 1e6
    assert rough.peak_layer_bytes == precise.peak_layer_bytes


def test_a_rough_measurement_is_remembered(tmp_path: Path) -> None:
    model, options = build(classes=("a", "b"), image_size=32), replace(TrainingOptions(), finetune_epochs=0)
    cache, passes = Cache(tmp_path), list[int]()
    first = measure_throughput(model, options, decode=10, images=100, cache=cache, warmup=False)
    hook = model.head.register_forward_hook(lambda head, inputs, logits: passes.append(len(logits)))
    assert measure_throughput(model, options, decode=10, images=100, cache=cache, warmup=False) == first
    assert not passes
    measure_throughput(model, options, decode=10, images=100, cache=cache)
    hook.remove()
    assert passes, "a plan that decides measures the machine as it is now"
