"""The run's own images for its exports."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from regraft.errors import DataError
from regraft.exporting.calibration_data import QuantizationSearch, evenly_spaced, parity_images, sensitive_layers
from regraft.exporting.inference_module import InferenceModule
from regraft.runs.run import Run
from regraft.training.callbacks import NullReporter


def test_indices_are_evenly_spaced() -> None:
    assert evenly_spaced(9, 3).tolist() == [0, 4, 8]
    assert evenly_spaced(2, 5).tolist() == [0, 1]
    assert len(evenly_spaced(1001, 200)) == 200


def test_parity_images_are_those_of_the_validation_part(run: Run) -> None:
    images, part = parity_images(run, None), run.predictions.part("val")
    assert (images.part, images.names) == ("val", tuple(part.ids))
    assert np.array_equal(images.labels, part.labels)
    assert images.pixels.shape == (len(part), 32, 32, 3)
    assert images.pixels.dtype == np.uint8


def test_missing_image_is_named(run: Run, squares_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(squares_folder, tmp_path / "copy"))
    name = run.predictions.part("val").ids[0]
    (copy / name).unlink()
    with pytest.raises(DataError, match=name):
        parity_images(run, copy)


def test_quantizations_leave_more_and_more_layers_in_float(run: Run) -> None:
    module, source = InferenceModule(run.classifier), parity_images(run, None).source
    search = QuantizationSearch(run, module, source, NullReporter())
    assert search.images.shape[1:] == (32, 32, 3)
    candidates = [spec.float_layers for spec in search.candidates()]
    assert [len(layers) for layers in candidates] == [0, 1, 2]
    assert candidates[2][:1] == candidates[1]


def test_all_layers_of_the_backbone_are_ordered_and_restored(run: Run) -> None:
    module = InferenceModule(run.classifier)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    layers = {
        path: layer
        for path, layer in module.model.named_modules()
        if path.startswith("backbone") and isinstance(layer, (nn.Conv2d, nn.Linear))
    }
    weights = {path: layer.weight.clone() for path, layer in layers.items()}
    progress: list[tuple[int, int]] = []
    order = sensitive_layers(module, pixels, lambda done, total: progress.append((done, total)))
    assert sorted(order) == sorted(layers)
    assert progress[-1] == (len(layers), len(layers))
    assert all(torch.equal(layer.weight, weights[path]) for path, layer in layers.items())
