from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from regraft.errors import UsageError
from regraft.models.attention_pooling import AttentionPooling
from regraft.models.classifier import Classifier, build
from regraft.models.serialization import load_classifier, save_classifier

CLASSES = ("ape", "bee", "cat")
BACKBONES = ["mobilenetv2", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s16_224"]


def _built(name: str, **options: object) -> Classifier:
    size = 224 if name.startswith(("swin", "mixer")) else 32
    return build(name, classes=CLASSES, weights="none", image_size=size, pooling="attention", **options)


def test_each_query_averages_its_channels_by_its_own_attention() -> None:
    torch.manual_seed(0)
    pooling, positions = AttentionPooling(12, 4), torch.randn(2, 5, 12)
    with torch.no_grad():
        for parameter in pooling.parameters():
            parameter.copy_(torch.randn_like(parameter))
        pooled = pooling(positions)
        values = functional.linear(positions, pooling.values.weight, pooling.values.bias)
        for query in range(4):
            share = slice(3 * query, 3 * query + 3)
            # The published formula, by PyTorch's own attention.
            expected = functional.scaled_dot_product_attention(
                pooling.queries[None, query : query + 1].expand(2, 1, 12), positions, values[:, :, share]
            )
            torch.testing.assert_close(pooled[:, share], expected[:, 0])


def test_it_starts_near_the_mean() -> None:
    torch.manual_seed(0)
    positions = torch.randn(2, 49, 64)
    torch.testing.assert_close(AttentionPooling(64)(positions), positions.mean(1), rtol=0, atol=0.02)


@pytest.mark.parametrize(("channels", "queries"), [(384, 32), (1280, 32), (40, 20), (7, 7), (37, 1)])
def test_the_queries_divide_the_channels(channels: int, queries: int) -> None:
    assert len(AttentionPooling(channels).queries) == queries


@pytest.mark.parametrize("name", BACKBONES)
def test_the_head_pools_positions_or_patches(name: str) -> None:
    model = _built(name)
    size = model.preprocessing.size
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    assert model.head.attention is not None
    with torch.inference_mode():
        outputs = model.backbone.forward_features((pixels.float() - model.mean) / model.std)
        if name == "mobilenetv2":
            positions = outputs.flatten(2).transpose(1, 2)
        elif name.startswith("swin"):
            positions = outputs.flatten(1, 2)
        else:
            positions = outputs[:, getattr(model.backbone, "num_prefix_tokens", 0) :]
        expected = model.head.classifier(model.head.attention(positions))
        torch.testing.assert_close(model(pixels), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"head_stages": "upper"}, {"head": "mlp", "head_widths": (8,)}])
def test_save_then_load_is_the_identity(tmp_path: Path, options: dict[str, object]) -> None:
    model = _built("vit_tiny_patch16_224", **options)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    save_classifier(model, tmp_path)
    again = load_classifier(tmp_path)
    with torch.inference_mode():
        assert torch.equal(again(pixels), model(pixels))
    assert again.get_config() == model.get_config()
    assert again.head.has_shape_of(model.head)


def test_rows_and_attention_of_an_earlier_head_stay() -> None:
    earlier, model = _built("mobilenetv2", seed=1), _built("mobilenetv2", seed=2)
    assert earlier.head.attention is not None
    assert model.head.attention is not None
    model.head.copy_rows(("bee", "dog", "cat"), earlier.head, CLASSES)
    assert torch.equal(model.head.attention.queries, earlier.head.attention.queries)
    assert torch.equal(model.head.classifier.weight[0], earlier.head.classifier.weight[1])
    assert not model.head.has_shape_of(build("mobilenetv2", classes=CLASSES, weights="none", image_size=32).head)


def test_a_vector_has_no_positions() -> None:
    with pytest.raises(UsageError, match="ends in a vector"):
        build("ann", classes=CLASSES, pooling="attention")
