from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from regraft.cache import Cache, Table
from regraft.errors import MissingExtraError, UsageError
from regraft.models.classifier import Classifier, build
from regraft.training import prefix_backend
from regraft.training.prefix_backend import (
    OpenVinoBackend,
    TorchBackend,
    choose_backend,
    images_per_second,
    make_backend,
)

PIXELS = torch.randint(0, 256, (19, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> Classifier:
    return build(classes=("a", "b"), image_size=64)


@pytest.mark.parametrize(
    ("kind", "boundary", "precision"),
    [
        (TorchBackend, 6, torch.float32),
        (TorchBackend, 19, torch.float32),
        (TorchBackend, 19, torch.bfloat16),
        (OpenVinoBackend, 6, torch.bfloat16),
        (OpenVinoBackend, 19, torch.float32),
    ],
)
def test_a_backend_agrees_with_the_model(
    model: Classifier, kind: type[TorchBackend], boundary: int, precision: torch.dtype
) -> None:
    with torch.inference_mode():
        expected = [part for part in model.activations(PIXELS, boundary) if part.numel()]
    outputs = kind(model, boundary, precision)(PIXELS)
    assert len(outputs) == len(expected) == 1 + (boundary > 9)
    for ours, theirs in zip(outputs, expected, strict=True):
        assert ours.dtype == precision
        assert ours.shape == theirs.shape
        tolerance = 1e-5 if precision == torch.float32 else 0.05
        assert float((ours.float() - theirs).norm() / theirs.norm()) < tolerance


def test_a_compiled_network_is_read_from_the_cache(
    model: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = OpenVinoBackend(model, 19, torch.float32, Cache(tmp_path))(PIXELS)
    monkeypatch.setattr(prefix_backend, "_converted", None)  # nothing is compiled any more
    again = OpenVinoBackend(model, 19, torch.float32, Cache(tmp_path))(PIXELS)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(again, expected, strict=True))
    with torch.no_grad():
        next(model.stages[0].modules[0][1].parameters()).mul_(1.5)
    with pytest.raises(TypeError):  # other weights are compiled
        OpenVinoBackend(model, 19, torch.float32, Cache(tmp_path))(PIXELS)
    with torch.no_grad():
        next(model.stages[0].modules[0][1].parameters()).div_(1.5)


def test_a_compiled_network_that_is_refused_is_compiled_again(model: Classifier, tmp_path: Path) -> None:
    expected = OpenVinoBackend(model, 6, torch.float32, Cache(tmp_path))(PIXELS)
    (entry,) = Cache(tmp_path).entries()
    entry.folder.joinpath("index.bin").write_bytes(b"")
    table = Table(entry.folder, (2**20,), np.uint8)
    table.write_list(np.zeros((2, 2**20), np.uint8))
    again = OpenVinoBackend(model, 6, torch.float32, Cache(tmp_path))(PIXELS)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(again, expected, strict=True))


def test_a_large_backbone_is_worth_measuring_for_few_images() -> None:
    small = build(classes=("a", "b"), image_size=160, weights="none")
    large = build("resnet50", classes=("a", "b"), image_size=160, weights="none")
    assert not prefix_backend._is_worth_measuring(small, 1000)
    assert prefix_backend._is_worth_measuring(large, 1000)
    assert prefix_backend._is_worth_measuring(small, 12_000)


def test_openvino_runs_vision_transformers() -> None:
    model = build("vit_tiny_patch16_224", classes=("a", "b"), image_size=32, weights="none")
    boundary = model.taps[0] + 1
    with torch.inference_mode():
        expected = model.activations(PIXELS[:3, :, :32, :32], boundary)
    values, taps = OpenVinoBackend(model, boundary, torch.float32)(PIXELS[:3, :, :32, :32])
    torch.testing.assert_close(values, expected.values, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(taps, expected.taps, rtol=1e-3, atol=1e-3)


def test_the_faster_backend_is_chosen_once_and_remembered(
    model: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"torch": 100.0, "openvino": 200.0}
    measured: list[str] = []

    def measure(backend: TorchBackend, size: int) -> float:
        measured.append(backend.name)
        return rates[backend.name]

    monkeypatch.setattr(OpenVinoBackend, "__call__", TorchBackend.__call__)
    monkeypatch.setattr(OpenVinoBackend, "on_one_thread", False, raising=False)
    monkeypatch.setattr(prefix_backend, "images_per_second", measure)
    cache = Cache(tmp_path)
    name, reason = choose_backend("auto", model, 6, torch.float32, rows=100_000, cache=cache)
    assert name == "openvino"
    assert "torch 100" in reason
    assert "openvino 200" in reason
    rates["openvino"] = 50.0  # a busier moment
    assert choose_backend("auto", model, 6, torch.float32, rows=100_000, cache=Cache(tmp_path))[0] == "openvino"
    assert sorted(measured) == ["openvino", "torch"]
    assert choose_backend("auto", model, 6, torch.float32, rows=100_000)[0] == "torch"
    assert choose_backend("auto", model, 7, torch.float32, rows=100_000, cache=cache)[0] == "torch"
    assert choose_backend("auto", model, 6, torch.float32, rows=100, cache=cache) == ("torch", "")
    assert choose_backend("openvino", model, 6, torch.float32, rows=100) == ("openvino", "")


def test_throughput_is_measured(model: Classifier) -> None:
    assert 1 < images_per_second(TorchBackend(model, 6, torch.float32), (3, 64, 64)) < 1e6


def test_openvino_is_refused_where_it_cannot_run(model: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="prefix_backend = openvino runs on the CPU"):
        make_backend("openvino", model, 6, torch.float16)
    monkeypatch.setattr(prefix_backend, "_has_openvino", lambda: False)
    with pytest.raises(MissingExtraError, match=r"pip install 'regraft\[openvino\]'"):
        choose_backend("openvino", model, 6, torch.float32, rows=1)
    assert choose_backend("auto", model, 6, torch.float32, rows=100_000) == ("torch", "")


def test_auto_falls_back_to_torch(model: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("an operation that is not supported")

    monkeypatch.setattr(prefix_backend, "_openvino_network", broken)
    name, reason = choose_backend("auto", model, 6, torch.float32, rows=100_000, cache=Cache(tmp_path))
    assert name == "torch"
    assert "OpenVINO cannot run this backbone (an operation that is not supported)" in reason
    again = choose_backend("auto", model, 6, torch.float32, rows=100_000, cache=Cache(tmp_path))
    assert again == (name, reason)  # remembered with its reason
    monkeypatch.setattr(OpenVinoBackend, "__call__", lambda self, pixels: [pixels.float()])
    name, reason = choose_backend("auto", model, 6, torch.float32, rows=100_000)
    assert (name, reason.endswith("OpenVINO computes different activations for this backbone.")) == ("torch", True)
