from __future__ import annotations

import torch

from regraft.models.classifier import build
from regraft.models.summary import summarise


def test_rows_add_up_and_say_what_trains() -> None:
    model = build("vgg16", classes=("a", "b", "c"), weights="none", image_size=32)
    model.freeze(model.resolve("block5_conv1"))
    rows = summarise(model)
    assert sum(row.parameters for row in rows) == model.parameter_count()
    assert sum(row.parameters for row in rows if row.trainable) == sum(p.numel() for _, p in model.trainable())
    numbered = [row for row in rows if row.number is not None]
    assert [row.number for row in numbered] == list(range(len(numbered)))
    assert numbered[0].kind == "Conv2d"
    assert numbered[0].shape == (64, 32, 32)
    trainable = [row.stage for row in numbered if row.trainable]
    assert trainable[0] == "block5_conv1"
    assert rows[-1].stage == "head"
    assert rows[-1].shape == (3,)


def test_transformers_list_their_positions() -> None:
    model = build("vit_s16", classes=("a", "b"), weights="none", image_size=32)
    rows = summarise(model)
    assert {"pos_embed", "cls_token"} <= {row.name for row in rows}
    assert sum(row.parameters for row in rows) == model.parameter_count()


def test_no_hook_stays_behind() -> None:
    model = build("mobilenetv2", classes=("a", "b"), weights="none", image_size=32)
    summarise(model)
    assert not any(module._forward_hooks for module in model.modules() if isinstance(module, torch.nn.Module))
