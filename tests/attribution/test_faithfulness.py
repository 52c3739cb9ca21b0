from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from regraft.attribution import cam
from regraft.attribution.cam import explain_pixels
from regraft.attribution.faithfulness import (
    BORDER_AREA,
    CENTER_AREA,
    border_and_center,
    faithfulness,
    occlude,
    top_pixels,
)
from regraft.attribution.methods import METHODS, Method
from regraft.models.classifier import Classifier


@pytest.mark.parametrize("method", METHODS)
def test_a_map_is_more_faithful_than_a_shifted_one(
    trained: Classifier, scene: Callable[..., torch.Tensor], method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cam, "_STEPS", 16)
    monkeypatch.setattr(cam, "_MASKS", 32)
    corners = np.random.default_rng(5).integers(0, 88, (3, 2)).tolist()
    pixels = torch.stack([scene(*corner, seed=100 + i) for i, corner in enumerate(corners)])
    targets = torch.full((len(pixels),), trained.classes.index("along"))
    maps = explain_pixels(trained, pixels, targets, method=method)
    shifted = maps.roll((64, 64), dims=(1, 2))  # as coarse, but elsewhere
    right, wrong = (faithfulness(trained, pixels, targets, each, steps=4) for each in (maps, shifted))
    assert right.deletion.mean() < wrong.deletion.mean()
    assert right.insertion.mean() > wrong.insertion.mean()


def test_shares_of_border_and_center() -> None:
    maps = torch.ones(3, 100, 100)
    maps[1, 10:90, 10:90] = 0
    maps[2] = 0
    border, center = border_and_center(maps)
    assert border.tolist()[:2] == pytest.approx([BORDER_AREA, 1])
    assert center.tolist()[:2] == pytest.approx([CENTER_AREA, 0])
    assert np.isnan([border[2], center[2]]).all()


def test_top_pixels_are_occluded() -> None:
    maps = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(0))
    maps[:, :16] += 1
    mask = top_pixels(maps, 0.5)
    assert mask[:, :16].all()
    assert not mask[:, 16:].any()
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    changed = (occlude(pixels, mask) - pixels.float()).abs().amax(dim=1)
    assert changed[:, 20:].max() == 0
    assert changed[:, :12].mean() > 20
