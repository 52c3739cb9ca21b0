from __future__ import annotations

from pathlib import Path

import pytest
import torch

from regraft.errors import MissingExtraError, UsageError
from regraft.models.classifier import Classifier, build
from regraft.store import Store
from regraft.training import engine as engine_module
from regraft.training.engine import OpenVinoEngine, TorchEngine, choose_engine, make_engine

PIXELS = torch.randint(0, 256, (19, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> Classifier:
    return build(classes=("a", "b"), image_size=64)


@pytest.mark.parametrize("kind", [TorchEngine, OpenVinoEngine])
@pytest.mark.parametrize("boundary", [6, 19])
@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_an_engine_gives_what_the_model_gives(
    model: Classifier, kind: type[TorchEngine], boundary: int, precision: torch.dtype, tolerance: float
) -> None:
    with torch.inference_mode():
        expected = [part for part in model.activations(PIXELS, boundary) if part.numel()]
    got = kind(model, boundary, precision)(PIXELS)
    assert len(got) == len(expected) == 1 + (boundary > 9)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == precision
        assert ours.shape == theirs.shape
        assert float((ours.float() - theirs).norm() / theirs.norm()) < tolerance


def test_vision_transformers_run_on_openvino_too() -> None:
    model = build("vit_tiny_patch16_224", classes=("a", "b"), image_size=32, weights="none")
    with torch.inference_mode():
        expected = model.activations(PIXELS[:3, :, :32, :32], 12)
    values, taps = OpenVinoEngine(model, 12, torch.float32)(PIXELS[:3, :, :32, :32])
    torch.testing.assert_close(values, expected.values, rtol=1e-3, atol=1e-3)
    assert taps.shape == expected.taps.shape


def test_the_faster_engine_is_chosen_once_and_remembered(
    model: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"torch": 100.0, "openvino": 200.0}
    measured: list[str] = []

    def measure(engine: TorchEngine, size: int) -> float:
        measured.append(engine.name)
        return rates[engine.name]

    monkeypatch.setattr(engine_module, "measure", measure)
    store = Store(tmp_path)
    name, why = choose_engine("auto", model, 6, torch.float32, rows=10_000, store=store)
    assert name == "openvino"
    assert "torch 100" in why
    assert "openvino 200" in why
    rates["openvino"] = 50.0  # a busier moment
    assert choose_engine("auto", model, 6, torch.float32, rows=10_000, store=Store(tmp_path))[0] == "openvino"
    assert sorted(measured) == ["openvino", "torch"]
    assert choose_engine("auto", model, 6, torch.float32, rows=10_000)[0] == "torch"
    assert choose_engine("auto", model, 7, torch.float32, rows=10_000, store=store)[0] == "torch"
    assert choose_engine("auto", model, 6, torch.float32, rows=100, store=store) == ("torch", "")
    assert choose_engine("openvino", model, 6, torch.float32, rows=100) == ("openvino", "")


def test_it_is_measured_for_real(model: Classifier) -> None:
    assert 1 < engine_module.measure(TorchEngine(model, 6, torch.float32), 64) < 1e6


def test_what_cannot_be_is_refused(model: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="engine = openvino runs on the CPU"):
        make_engine("openvino", model, 6, torch.float16)
    monkeypatch.setattr(engine_module, "_has_openvino", lambda: False)
    with pytest.raises(MissingExtraError, match=r"pip install 'regraft\[openvino\]'"):
        choose_engine("openvino", model, 6, torch.float32, rows=1)
    assert choose_engine("auto", model, 6, torch.float32, rows=10_000) == ("torch", "")


def test_auto_goes_without_an_engine_that_cannot(
    model: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("an operation that is not supported")

    monkeypatch.setattr(engine_module, "_compiled", broken)
    name, why = choose_engine("auto", model, 6, torch.float32, rows=10_000, store=Store(tmp_path))
    assert name == "torch"
    assert "OpenVINO cannot run this backbone (an operation that is not supported)" in why
    again = choose_engine("auto", model, 6, torch.float32, rows=10_000, store=Store(tmp_path))
    assert again == (name, why)  # remembered with its reason
    monkeypatch.setattr(OpenVinoEngine, "__call__", lambda self, pixels: [pixels.float()])
    name, why = choose_engine("auto", model, 6, torch.float32, rows=10_000)
    assert (name, why.endswith("OpenVINO gives other activations for this backbone.")) == ("torch", True)
