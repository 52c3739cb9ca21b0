from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from regraft.data.dataset import Split
from regraft.errors import MissingExtraError, UsageError
from regraft.models.classifier import Classifier, build
from regraft.models.serialization import load_classifier, save_classifier
from regraft.models.weights import WeightsRecord
from regraft.training import lora
from regraft.training.callbacks import Epoch, NullReporter
from regraft.training.trainer import train

SIZE = 32
OPTIONS: dict[str, Any] = {
    "finetune_epochs": 2, "views": 2, "batch_size": 8, "finetune_method": "lora", "lora_rank": 4, "finetune_lr": 1e-2,
    "keep_finetuned": "always",
}  # fmt: skip


@pytest.fixture
def make_model(squares_split: Split, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Classifier]:
    """Build a narrow transformer whose random weights count as pretrained."""
    narrow = partial(timm.create_model, embed_dim=48, num_heads=2)

    def make(name: str = "vit_tiny_patch16_224", **options: Any) -> Classifier:
        monkeypatch.setattr("regraft.models.weights.timm.create_model", narrow)
        size = 28 if "patch14" in name else SIZE
        model = build(name, classes=squares_split.classes, image_size=size, weights="none", **options)
        model.weights = WeightsRecord("file")
        for key, parameter in model.named_parameters():
            if key.endswith((".gamma", ".gamma_1", ".gamma_2")):  # which begin near zero
                torch.nn.init.ones_(parameter)
        return model

    return make


def _logits(model: Classifier) -> torch.Tensor:
    size, generator = model.preprocessing.size, torch.Generator().manual_seed(0)
    return model(torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=generator))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "dinov3_vits16", "siglip2_vitb16", "eva02_tiny_patch14_224"])
def test_merged_and_separate_adapters_agree_to_rounding(make_model: Callable[..., Classifier], name: str) -> None:
    model = make_model(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    boundary = model.resolve("auto")
    with torch.inference_mode():
        expected = _logits(model)
    lora.attach(model, boundary, rank=4, alpha=8, seed=0)
    trainable = dict(model.trainable_parameters())
    adapters = [value for key, value in trainable.items() if ".lora_" in key]
    assert len(adapters) >= 2 * 2 * (len(model.stages) - 1 - boundary)
    assert set(trainable) - {f"head.classifier.{part}" for part in ("weight", "bias")} == {
        key for key, _ in model.named_parameters() if ".lora_" in key
    }
    with torch.inference_mode():
        assert torch.equal(_logits(model), expected)  # an adapter starts as zero
        for adapter in adapters:
            adapter.copy_(torch.randn_like(adapter) / 10)
        separate = _logits(model)
        assert (separate - expected).abs().max() > 1e-2
        with lora.merged(model):
            assert list(model.state_dict()) == list(before)
            torch.testing.assert_close(_logits(model), separate, rtol=1e-4, atol=1e-4)
        assert torch.equal(_logits(model), separate)
    _logits(model).square().sum().backward()
    assert all(parameter.grad is not None for parameter in trainable.values())
    with lora.merged_finally(model):
        pass
    with torch.inference_mode():
        torch.testing.assert_close(_logits(model), separate, rtol=1e-4, atol=1e-4)
    assert list(model.state_dict()) == list(before)
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert len(changed) == len(adapters) // 2
    names = {name for name, _ in model.trainable_parameters()}
    assert {f"backbone.{key}" for key, _ in model.backbone.named_parameters()} & names >= set(changed)


class _Stop(Exception):
    """Stands for a kill."""


class _Killer(NullReporter):
    def on_epoch_end(self, row: Epoch) -> None:
        if row.epoch == 2:
            raise _Stop


@pytest.mark.parametrize("finetune_from", ["auto", "all"])
def test_a_training_by_adapters_gives_an_ordinary_model(
    make_model: Callable[..., Classifier], squares_split: Split, tmp_path: Path, finetune_from: str
) -> None:
    options = {**OPTIONS, "finetune_from": finetune_from}
    model, saved = make_model(), []
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = train(model, squares_split, on_better=lambda better: saved.append(set(better.state_dict())), **options)
    assert result.finetuned
    ours = {key: value for key, value in model.state_dict().items() if not key.startswith("ood.")}
    assert list(ours) == list(before)
    assert all(names == set(before) for names in saved)
    blocks = range(12) if finetune_from == "all" else range(model.resolve("auto") - 1, 12)
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    expected = {f"backbone.blocks.{block}.{layer}.weight" for block in blocks for layer in layers}
    changed = {key for key, value in ours.items() if not torch.equal(value, before[key])}
    assert changed == expected | {"head.classifier.weight", "head.classifier.bias"}
    save_classifier(model, tmp_path)
    with torch.inference_mode():
        assert torch.equal(_logits(load_classifier(tmp_path)), _logits(model))


def test_a_killed_training_resumes_from_a_small_file(
    make_model: Callable[..., Classifier], squares_split: Split, tmp_path: Path
) -> None:
    whole, file = make_model(), tmp_path / "last.safetensors"
    expected = train(whole, squares_split, **OPTIONS)
    killed = make_model()
    with pytest.raises(_Stop):
        train(killed, squares_split, checkpoint=file, reporter=_Killer(), **OPTIONS)
    assert not any("lora" in key for key in killed.state_dict())
    # Weights, their average, two moments and the best weights, of the adapters and the head; of all it would be more.
    trained = sum(p.numel() for key, p in whole.named_parameters() if key.startswith(("backbone.blocks.8", "head")))
    assert file.stat().st_size < 5 * 4 * trained
    model = make_model()
    result = train(model, squares_split, checkpoint=file, **OPTIONS)
    assert [row.val_loss for row in result.history] == [row.val_loss for row in expected.history]
    theirs = whole.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["mobilenetv2", "convnext_atto"])
def test_a_network_without_attention_is_refused(squares_split: Split, name: str) -> None:
    model = build(name, classes=squares_split.classes, image_size=SIZE, weights="none")
    model.weights = WeightsRecord("file")
    with pytest.raises(UsageError, match=rf"{name} has no attention from .* on. Use finetune_method = full"):
        train(model, squares_split, **OPTIONS)


def test_random_weights_are_refused(make_model: Callable[..., Classifier], squares_split: Split) -> None:
    model = make_model()
    model.weights = WeightsRecord("none")
    with pytest.raises(UsageError, match=r"adapts pretrained weights, and .* has random ones"):
        train(model, squares_split, **OPTIONS)


def test_without_peft_the_extra_is_named(
    make_model: Callable[..., Classifier], squares_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    monkeypatch.setattr("regraft.training.lora.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'regraft\[lora\]'"):
        train(model, squares_split, **OPTIONS)
