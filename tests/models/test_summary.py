from __future__ import annotations

import torch

from regraft.models.classifier import build
from regraft.models.summary import summarize, summary_of


def test_rows_of_a_partly_frozen_model() -> None:
    model = build("vgg16", classes=("a", "b", "c"), weights="none", image_size=32)
    model.freeze(model.resolve("block5_conv1"))
    rows = summarize(model)
    assert sum(row.parameters for row in rows) == model.parameter_count()
    assert sum(row.parameters for row in rows if row.trainable) == sum(
        p.numel() for _, p in model.trainable_parameters()
    )
    numbered = [row for row in rows if row.number is not None]
    assert [row.number for row in numbered] == list(range(len(numbered)))
    assert numbered[0].kind == "Conv2d"
    assert numbered[0].shape == (64, 32, 32)
    trainable = [row.stage for row in numbered if row.trainable]
    assert trainable[0] == "block5_conv1"
    assert rows[-1].stage == "head"
    assert rows[-1].shape == (3,)


def test_transformers_list_their_positions() -> None:
    model = build("vit_tiny_patch16_224", classes=("a", "b"), weights="none", image_size=32)
    rows = summarize(model)
    assert {"pos_embed", "cls_token"} <= {row.name for row in rows}
    assert sum(row.parameters for row in rows) == model.parameter_count()


def test_a_summary_is_a_table_with_totals() -> None:
    model = build("mobilenetv2", classes=("a", "b"), weights="none", image_size=32)
    summary = summary_of(model)
    assert (summary.parameters, summary.megabytes) == (model.parameter_count(), model.megabytes())
    assert summary.trainable_parameters == sum(p.numel() for p in model.head.parameters())
    lines = str(summary).splitlines()
    assert str(model.summary()) == str(summary)
    assert lines[0] == "mobilenetv2, 2 classes, input 32 x 32 pixels"
    assert lines[-3].startswith("Total parameters")
    assert f"{summary.parameters:,}" in lines[-3]
    assert len(lines) == 3 + len(summary.layers) + 4


def test_hooks_are_removed() -> None:
    model = build("mobilenetv2", classes=("a", "b"), weights="none", image_size=32)
    summarize(model)
    assert not any(module._forward_hooks for module in model.modules() if isinstance(module, torch.nn.Module))
