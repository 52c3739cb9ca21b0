"""Training images pass the frozen layers in 8 bits, and what is saved is measured in float."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regraft.cache import Cache
from regraft.data.dataset import Split
from regraft.errors import UsageError
from regraft.models.classifier import Classifier
from regraft.training import device, int8_prefix, prefix_backend
from regraft.training.data import TrainingData
from regraft.training.feature_cache import as_batch
from regraft.training.prefix_backend import OpenVinoBackend
from regraft.training.trainer import train

MakeModel = Callable[..., Classifier]
HEAD: dict[str, Any] = {"finetune_from": "none", "precision": "int8"}


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not in 8 bits is in float32, also on a processor with bfloat16."""
    found = {name: value for name, value in device._cpu_capabilities().items() if "bf16" not in name}
    monkeypatch.setattr(device, "_cpu_capabilities", lambda: found)


def _pixels(model: Classifier, split: Split, part: str) -> torch.Tensor:
    data = split[part]  # type: ignore[index]
    return as_batch(np.stack([model.preprocessing(data.source(sample)) for sample in data.samples]))


def test_training_images_pass_in_8_bits_and_validation_images_in_float(
    make_model: MakeModel, squares_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[np.ndarray] = []

    def record(network: Any, images: list[np.ndarray], **options: Any) -> Any:
        batches.extend(images)
        return quantize(network, images, **options)

    quantize = prefix_backend.quantize
    monkeypatch.setattr(prefix_backend, "quantize", record)
    model = make_model()
    result = train(model, squares_split, cache=Cache(tmp_path), **HEAD)
    assert result.int8["used"]
    assert result.int8["cross_validation"]["images"] == result.int8["calibrated_on"] == len(squares_split.train)
    assert any(note.startswith("Training images pass the frozen layers in int8") for note in result.notes)
    # Only training images calibrate.
    train_pixels, val_pixels = (_pixels(model, squares_split, part) for part in ("train", "val"))
    own = {image.numpy().tobytes() for image in train_pixels}
    assert {image.tobytes() for batch in batches for image in batch} == own
    # The scores of validation images are those of the model as it is saved.
    assert result.val_logits is not None
    assert result.train_features is not None
    with torch.inference_mode():
        torch.testing.assert_close(result.val_logits, model(val_pixels), rtol=1e-3, atol=1e-3)
        exact = model.head.embed(model.forward_tail(model.activations(train_pixels, 0), 0))
    error = float((result.train_features[1] - exact).norm() / exact.norm())
    assert 1e-4 < error < 0.5
    # Features in 8 bits are in tables of their own.
    entries = [entry for entry in Cache(tmp_path).entries() if entry.kind == "activations"]
    rows = {("int8" in entry.key["backend"]): entry.rows for entry in entries}
    assert rows == {True: len(squares_split.train), False: len(squares_split.train) + len(squares_split.val)}
    again = train(other := make_model(), squares_split, cache=Cache(tmp_path), **HEAD)
    assert again.notes == result.notes
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(_weights(other), _weights(model), strict=True))


def _weights(model: Classifier) -> list[torch.Tensor]:
    return list(model.head.state_dict().values())


def test_other_images_or_bits_are_another_network(
    make_model: MakeModel, squares_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    pixels, end = _pixels(model, squares_split, "train"), len(model.stages)
    versions: dict[str, bool] = {}
    for computes in (True, False):  # whether sums of 8 bits do not overflow
        monkeypatch.setattr(prefix_backend, "computes_int8", lambda device, computes=computes: computes)
        backends = [OpenVinoBackend(model, end, torch.float32, None, part) for part in (pixels, pixels[1:], None)]
        versions |= {backend.version: backend.calibration is not None for backend in backends}
    assert list(versions.values()) == [True, True, False, True, True]
    assert all(("int8" in version) == is_int8 for version, is_int8 in versions.items())


def test_a_network_that_8_bits_spoil_is_refused_with_its_figures(make_model: MakeModel, squares_split: Split) -> None:
    """A channel with a large constant, which nothing reads, leaves the others less than a step of 8 bits."""
    model = make_model()
    stem, reader = model.backbone.get_submodule("bn1"), _reader_of_stem(model)
    with torch.no_grad():
        stem.weight[0], stem.bias[0] = 0.0, 1e4
        reader.weight[0 if reader.groups > 1 else slice(None), slice(None) if reader.groups > 1 else 0] = 0.0
    result = train(model, squares_split, **HEAD)
    decision = result.int8["cross_validation"]
    assert not result.int8["used"]
    assert decision["accuracy"] < decision["float_accuracy"]
    (note,) = (note for note in result.notes if note.startswith("int8 refused"))
    now, before = (f"{100 * decision[name]:.1f} %" for name in ("accuracy", "float_accuracy"))
    assert f"cross-validated accuracy {now} instead of {before}" in note
    assert note.endswith("The frozen layers run in float32.")
    # All is as without int8.
    plain = train(make_model_like(make_model, model), squares_split, finetune_from="none")
    assert result.val_logits is not None
    assert plain.val_logits is not None
    assert torch.equal(result.val_logits, plain.val_logits)


def _reader_of_stem(model: Classifier) -> torch.nn.Conv2d:
    """The convolution that reads the output of the stem."""
    found = [layer for layer in model.backbone.get_submodule("blocks").modules() if isinstance(layer, torch.nn.Conv2d)]
    return found[0]


def make_model_like(make_model: MakeModel, model: Classifier) -> Classifier:
    """Another model with the same backbone."""
    other = make_model()
    other.backbone.load_state_dict(model.backbone.state_dict())
    return other


@pytest.mark.parametrize(("rate", "used"), [(200.0, True), (110.0, False)])
def test_fastest_takes_8_bits_where_they_are_faster(
    make_model: MakeModel, squares_split: Split, monkeypatch: pytest.MonkeyPatch, rate: float, used: bool
) -> None:
    monkeypatch.setattr(int8_prefix, "computes_int8", lambda device: True)
    monkeypatch.setattr(int8_prefix, "_WORTH_QUANTIZING_GMAC", 0.0)
    monkeypatch.setattr(TrainingData, "rates", lambda self, backends: [100.0, rate])
    result = train(make_model(), squares_split, finetune_from="none", precision="fastest")
    assert result.int8["used"] == used
    assert result.int8["images_per_second"] == {"float32": 100.0, "int8": rate}
    assert ("cross_validation" in result.int8) == used  # what is not faster is not compared
    assert any("int8 is not clearly faster" in note for note in result.notes) != used


def test_fastest_is_auto_without_the_instructions_the_packages_or_enough_images(
    make_model: MakeModel, squares_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_prefix, "_WORTH_QUANTIZING_GMAC", 0.0)
    plain = train(make_model(), squares_split, finetune_from="none")
    for name, value in (("computes_int8", False), ("has_int8", False)):
        with monkeypatch.context() as patch:
            patch.setattr(int8_prefix, "computes_int8", lambda device: True)
            patch.setattr(int8_prefix, name, lambda *_, value=value: value)
            result = train(make_model(), squares_split, finetune_from="none", precision="fastest")
        assert (result.int8, result.notes) == ({}, plain.notes)
    monkeypatch.undo()
    monkeypatch.setattr(int8_prefix, "computes_int8", lambda device: True)
    assert not train(make_model(), squares_split, finetune_from="none", precision="fastest").int8


def test_a_network_without_frozen_layers_is_refused(make_model: MakeModel, squares_split: Split) -> None:
    with pytest.raises(UsageError, match="int8 is for the frozen layers of cnn, and all of it trains, from scratch"):
        train(make_model(backbone="cnn", weights="none"), squares_split, precision="int8")
