"""Formats on other kinds of backbones than the tests of the export."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from regraft.errors import ExportError
from regraft.exporting.formats import FORMATS, canonical_format
from regraft.exporting.formats.base import ExportJob
from regraft.exporting.inference_module import InferenceModule
from regraft.models.classifier import Pooling, build
from regraft.models.head import Activation, Head
from regraft.models.options import HiddenActivation


@pytest.mark.parametrize(
    ("backbone", "names"), [("test_convnext", ["litert"]), ("test_vit", ["onnx", "exported-program"])]
)
def test_other_backbones_are_exported(backbone: str, names: list[str], tmp_path: Path) -> None:
    module = InferenceModule(build(backbone, classes=("a", "b", "c"), weights="none", image_size=32))
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    expected = module(torch.from_numpy(images)).numpy()
    for name in names:
        FORMATS[name].write(tmp_path, ExportJob(module))
        assert np.abs(FORMATS[name].open(tmp_path)(images) - expected).max() < 1e-5


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def heads_as_in_keras(images: np.ndarray) -> list[tuple[InferenceModule, np.ndarray]]:
    """Networks with these heads, and their answers; formats share a network's graphs, as in an export to several."""
    poolings: list[tuple[Pooling, Activation]] = [("max", "softmax"), ("flatten", "sigmoid")]
    made = []
    for pooling, last in poolings:
        model = build("cnn", classes=("a", "b", "c"), weights="none", image_size=32, pooling=pooling)
        width, layers = model.head.features, list[nn.Module]()
        for hidden in get_args(HiddenActivation):
            layers += Head(width, 1, widths=(8,), hidden_activation=hidden).layers
            width = 8
        model.head.layers, model.head.classifier = nn.Sequential(*layers), nn.Linear(width, 3)
        model.head.activation = last
        model.head.temperature = 1.7
        model.eval()
        expected = model.head.probabilities(model(torch.from_numpy(images).permute(0, 3, 1, 2))).detach().numpy()
        made.append((InferenceModule(model), expected))
    return made


@pytest.mark.parametrize("name", FORMATS)
def test_heads_as_in_keras_are_exported(
    name: str, heads_as_in_keras: list[tuple[InferenceModule, np.ndarray]], images: np.ndarray, tmp_path: Path
) -> None:
    """Maxima and whole maps, layers of every activation one after the other, and both activations of the last layer."""
    for number, (module, expected) in enumerate(heads_as_in_keras):
        folder = tmp_path / str(number)
        folder.mkdir()
        FORMATS[name].write(folder, ExportJob(module))
        assert np.abs(FORMATS[name].open(folder)(images) - expected).max() < 1e-5


@pytest.fixture(scope="module")
def attentive(images: np.ndarray) -> tuple[InferenceModule, np.ndarray]:
    """A network that pools by attention, and its answers."""
    model = build("cnn", classes=("a", "b", "c"), weights="none", image_size=32, pooling="attention")
    assert model.head.attention is not None
    with torch.no_grad():
        model.head.attention.queries.copy_(torch.randn_like(model.head.attention.queries))
        expected = model(torch.from_numpy(images).permute(0, 3, 1, 2)).softmax(dim=1).numpy()
    return InferenceModule(model), expected


@pytest.mark.parametrize("name", FORMATS)
def test_attentive_pooling_is_exported(
    name: str, attentive: tuple[InferenceModule, np.ndarray], images: np.ndarray, tmp_path: Path
) -> None:
    module, expected = attentive
    if name == "h5":
        with pytest.raises(ExportError, match="HDF5 has no layer for it"):
            FORMATS[name].write(tmp_path, ExportJob(module))
        return
    FORMATS[name].write(tmp_path, ExportJob(module))
    assert np.abs(FORMATS[name].open(tmp_path)(images) - expected).max() < 1e-5


def test_a_format_may_be_given_as_an_extension() -> None:
    names = (".h5", ".TFLite", "SavedModel", ".other", "model.h5")
    assert [canonical_format(name) for name in names] == ["h5", "litert", "savedmodel", ".other", "model.h5"]
