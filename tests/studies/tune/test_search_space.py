from __future__ import annotations

import pytest

import regraft
from regraft.config import Config, load_config
from regraft.data.dataset import Dataset
from regraft.errors import UsageError
from regraft.studies.tune.search_space import SearchSpace


def test_the_space_contains_the_base_and_no_parameter_without_effect(squares: Dataset) -> None:
    model = regraft.build(classes=squares.classes, image_size=32)
    base = load_config(None, ["training.finetune_lr=0", "training.weight_decay=0.9", "training.label_smoothing=0.07"])
    space = SearchSpace(base, [], model)
    assert "training.finetune_lr" not in space.default  # 0 searches for the rate itself
    assert space.default["training.weight_decay"] == 0.9
    assert space.config(space.default).training.label_smoothing == 0.07
    assert "model.dropout" not in space.default
    short = space.config(space.default, short=True).training
    assert (short.finetune_epochs, short.views) == (3, 3)
    head = space.config({"model.head": "mlp", "model.head_widths": "512 256", "training.finetune_from": "none"})
    assert head.model.head_widths == (512, 256)
    assert head.training.views == 1
    fixed = SearchSpace(Config(), ["augmentation.flip"], model)
    assert fixed.config({"augmentation": "none"}).augmentation.flip == Config().augmentation.flip
    assert fixed.config({"augmentation": "none"}).augmentation.random_crop == 0
    with pytest.raises(UsageError, match="no setting to search"):
        SearchSpace(
            load_config(None, ["training.finetune_epochs=0"]), ["model.head", "training.label_smoothing"], model
        )
