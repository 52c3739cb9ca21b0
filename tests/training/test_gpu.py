"""Left out where there is no CUDA device; what it checks of the logic is checked on the CPU in its neighbours."""

from __future__ import annotations

import pytest

from regraft.data.dataset import Split
from regraft.models.classifier import build
from regraft.training.train import train


@pytest.mark.gpu
@pytest.mark.parametrize("start", ["auto", "all", "none"])
def test_a_gpu_learns_the_same(squares_split: Split, start: str) -> None:
    model = build(classes=squares_split.classes, image_size=64)
    result = train(model, squares_split, device="cuda", finetune_from=start, finetune_epochs=3, batch_size=8)
    assert result.device.startswith("cuda")
    assert result.engine == "torch"
    assert result.train_accuracy is not None
    assert result.train_accuracy > 0.9
