from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from regraft.data.augmentation import Augmentation
from regraft.models.classifier import Classifier, build
from regraft.training.loop import predict_logits
from regraft.training.prefix import as_batch, run_prefix
from regraft.training.progress import Silence


@pytest.fixture(scope="module")
def model() -> Classifier:
    return build(classes=("a", "b"), image_size=32)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("boundary", [0, 1, 9, 19])
def test_activations_are_the_prefixs(model: Classifier, pixels: np.ndarray, tmp_path: Path, boundary: int) -> None:
    cached = run_prefix(
        model, pixels, boundary, tmp_path / "a.bin", precision=torch.float32, batch_size=2, listener=Silence()
    )
    assert (cached.views, len(cached)) == (1, 5)
    with torch.inference_mode():
        torch.testing.assert_close(
            cached.values[0], model.activations(as_batch(pixels), boundary), rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(
            predict_logits(model, cached, torch.float32), model(as_batch(pixels)), rtol=1e-4, atol=1e-4
        )


def test_view_zero_is_plain_and_the_others_differ(model: Classifier, pixels: np.ndarray, tmp_path: Path) -> None:
    both = [
        run_prefix(
            model, pixels, 9, tmp_path / f"{i}.bin", precision=torch.float32, views=3, augmentation=Augmentation(),
            seed=seed, listener=Silence(),
        ).values.clone()
        for i, seed in enumerate((0, 0, 1))
    ]  # fmt: skip
    plain = run_prefix(model, pixels, 9, tmp_path / "plain.bin", precision=torch.float32, listener=Silence())
    assert torch.equal(both[0][0], plain.values[0])
    assert not torch.equal(both[0][1], both[0][0])
    assert not torch.equal(both[0][1], both[0][2])
    assert torch.equal(both[0], both[1])
    assert not torch.equal(both[0][1], both[2][1])


def test_drawn_views_depend_on_the_key_alone(model: Classifier, pixels: np.ndarray, tmp_path: Path) -> None:
    cached = run_prefix(
        model,
        pixels,
        9,
        tmp_path / "a.bin",
        precision=torch.float32,
        views=4,
        augmentation=Augmentation(),
        listener=Silence(),
    )
    indices = np.array([3, 1, 4])
    assert torch.equal(cached.drawn(indices, 7), cached.drawn(indices, 7))
    seen = {tuple(cached.drawn(indices, key)[0].flatten()[:50].tolist()) for key in range(40)}
    assert len(seen) == 4
    assert torch.equal(cached.plain(indices), cached.values[0][indices])


def test_activations_live_in_the_file(model: Classifier, pixels: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    cached = run_prefix(
        model,
        pixels,
        9,
        file,
        precision=torch.bfloat16,
        views=2,
        augmentation=Augmentation(),
        listener=Silence(),
    )
    assert cached.values.dtype == torch.bfloat16
    assert file.stat().st_size == cached.values.numel() * 2
