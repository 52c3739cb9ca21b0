from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regraft.data.augmentation import Augmentation
from regraft.data.dataset import Split
from regraft.data.pixels import load_pixels
from regraft.data.preprocessing import Preprocessing
from regraft.models.classifier import build
from regraft.store import Store
from regraft.training.hardware import choose_device, choose_precision
from regraft.training.loop import LiveViews, MirroredMaps, Phase, make_optimizer, rate
from regraft.training.prefix import Activations, Rows


def _phase(**changes: Any) -> Phase:
    values: dict[str, Any] = {
        "name": "finetune", "epochs": 4, "lr": 0.1, "optimizer": "adamw", "weight_decay": 0.05, "batch_size": 8,
        "schedule": "cosine", "warmup": 0.25, "reduce_on_plateau": 0, "plateau_factor": 10.0, "monitor": "val_accuracy",
    }  # fmt: skip
    return Phase(**{**values, **changes})


def test_cosine_rises_then_falls_to_zero() -> None:
    rates = [rate(_phase(), p) for p in np.linspace(0, 1, 101)]
    assert 0 < rates[0] < 0.05
    assert rates[25] == pytest.approx(1)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert all(later >= earlier for earlier, later in pairwise(rates[:26]))
    assert all(later <= earlier for earlier, later in pairwise(rates[25:]))


def test_constant_stays() -> None:
    assert {rate(_phase(schedule="constant", warmup=0.0), p) for p in (0, 0.5, 1)} == {1.0}


@pytest.mark.parametrize("name", ["adamw", "adam", "rmsprop", "sgd"])
def test_only_weights_decay_and_only_what_trains_is_given(name: str) -> None:
    model = build("mobilenetv2", classes=("a", "b"), weights="none", image_size=32)
    model.freeze(model.resolve("blocks.6"))
    optimizer = make_optimizer(model, _phase(optimizer=name))
    for group in optimizer.param_groups:
        assert len({p.ndim > 1 for p in group["params"]}) == 1
        assert group["weight_decay"] == (0.05 if group["params"][0].ndim > 1 else 0)
    given = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert given == {id(p) for _, p in model.trainable()}


def test_devices_and_precisions() -> None:
    cpu = torch.device("cpu")
    assert choose_device("cpu") == cpu
    assert choose_precision("off", cpu) == torch.float32
    assert choose_precision("bf16", cpu) == torch.bfloat16
    assert choose_precision("auto", cpu) in (torch.bfloat16, torch.float32)


def _activations(views: int = 1) -> Activations:
    maps = torch.randn(views, 9, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    return Activations(2, Rows(maps), Rows(maps[..., 0, 0].contiguous()))


@pytest.mark.parametrize(("flip", "vertical", "axes"), [(1.0, 0.0, [3]), (0.0, 1.0, [2]), (1.0, 1.0, [2, 3])])
def test_maps_are_mirrored_and_what_is_pooled_stays(flip: float, vertical: float, axes: list[int]) -> None:
    activations, chosen = _activations(), np.array([4, 0, 7])
    plain = activations.batch(0, chosen)
    mirrored = MirroredMaps(activations, flip, vertical).drawn(chosen, key=1)
    assert torch.equal(mirrored.values, plain.values.flip(axes))
    assert torch.equal(mirrored.taps, plain.taps)
    assert mirrored.values.is_contiguous(memory_format=torch.channels_last)


def test_about_half_of_the_maps_are_mirrored_by_the_key() -> None:
    batches, chosen = MirroredMaps(_activations(), 0.5, 0.0), np.arange(9)
    assert (len(batches), batches.boundary) == (9, 2)
    plain = batches.activations.batch(0, chosen).values
    turned = [(batches.drawn(chosen, key).values != plain).flatten(1).any(1) for key in range(40)]
    assert 0.35 < float(torch.stack(turned).float().mean()) < 0.65
    assert torch.equal(batches.drawn(chosen, 3).values, batches.drawn(chosen, 3).values)


def test_pixels_in_memory_give_the_same_views(
    squares_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu, chosen = torch.device("cpu"), np.array([5, 2])
    pixels = load_pixels(squares_split.train, Preprocessing(size=32), Store(tmp_path))
    stored = LiveViews.of(pixels, Augmentation(), cpu)
    monkeypatch.setattr("regraft.training.loop.has_room", lambda *_: True)
    held = LiveViews.of(pixels, Augmentation(), cpu)
    assert isinstance(held.pixels, torch.Tensor)
    assert not isinstance(stored.pixels, torch.Tensor)
    assert len(held) == len(stored) == 24
    assert torch.equal(held.drawn(chosen, 7).values, stored.drawn(chosen, 7).values)
