from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from regraft.cache import Cache
from regraft.data.augmentation_options import Augmentation
from regraft.data.dataset import Split
from regraft.data.pixel_cache import load_pixels
from regraft.data.preprocessing import Preprocessing
from regraft.training.activations import Activations, CachedTensor
from regraft.training.data import FlippedMaps, OnlineAugmentation


def _activations(views: int = 1) -> Activations:
    maps = torch.randn(views, 9, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    return Activations(2, CachedTensor(maps), CachedTensor(maps[..., 0, 0].contiguous()))


@pytest.mark.parametrize(("flip", "vertical", "axes"), [(1.0, 0.0, [3]), (0.0, 1.0, [2]), (1.0, 1.0, [2, 3])])
def test_maps_are_flipped_and_taps_stay(flip: float, vertical: float, axes: list[int]) -> None:
    activations, chosen = _activations(), np.array([4, 0, 7])
    plain = activations.batch(0, chosen)
    flipped = FlippedMaps(activations, flip, vertical).sample(chosen, key=1)
    assert torch.equal(flipped.values, plain.values.flip(axes))
    assert torch.equal(flipped.taps, plain.taps)
    assert flipped.values.is_contiguous(memory_format=torch.channels_last)


def test_about_half_of_the_maps_are_flipped() -> None:
    batches, chosen = FlippedMaps(_activations(), 0.5, 0.0), np.arange(9)
    assert (len(batches), batches.boundary) == (9, 2)
    plain = batches.activations.batch(0, chosen).values
    flipped = [(batches.sample(chosen, key).values != plain).flatten(1).any(1) for key in range(40)]
    assert 0.35 < float(torch.stack(flipped).float().mean()) < 0.65
    assert torch.equal(batches.sample(chosen, 3).values, batches.sample(chosen, 3).values)


def test_pixels_in_memory_give_the_same_views(
    squares_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu, chosen = torch.device("cpu"), np.array([5, 2])
    pixels = load_pixels(squares_split.train, Preprocessing(size=32), Cache(tmp_path))
    stored = OnlineAugmentation.of(pixels, Augmentation(), cpu)
    monkeypatch.setattr("regraft.training.data.has_room", lambda *_: True)
    in_memory = OnlineAugmentation.of(pixels, Augmentation(), cpu)
    assert isinstance(in_memory.pixels, torch.Tensor)
    assert not isinstance(stored.pixels, torch.Tensor)
    assert len(in_memory) == len(stored) == 24
    assert torch.equal(in_memory.sample(chosen, 7).values, stored.sample(chosen, 7).values)
