"""A run's own images for its exports: those of the parity gate, and those that calibrate int8 layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from regraft.errors import DataError, ImageError, UsageError
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.evaluation.regression.predictions import RegressionPredictions
from regraft.exporting.formats.base import QuantizationSpec
from regraft.exporting.inference_module import InferenceModule
from regraft.runs.run import Run
from regraft.runs.run_images import SourceOf, images_of, split_rows
from regraft.training.callbacks import ProgressReporter

#: Number of images of the parity gate: at most, and at least even if they exceed `_MAX_PARITY_BYTES` of pixels.
_MAX_PARITY_IMAGES, _MIN_PARITY_IMAGES, _MAX_PARITY_BYTES = 2000, 32, 2**30
#: Maximum number of calibration images, and of those on which the sensitivity of layers is measured.
_CALIBRATION_IMAGES, _SENSITIVITY_IMAGES = 200, 32
#: Number of steps of a quantized value, and the layers that are quantized.
_LEVELS, _LAYERS = 255, (nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class ParityImages:
    """N labeled images of a run that it was not trained on: pixels uint8 (N, S, S, C), labels int64 (N,).

    If an image has any number of labels, these are indicators, bool (N, C), and numbers are float64 (N,).
    `part` is "val", or "test" if the run has no validation images; `source` maps an image's name to its file.
    """

    part: str
    names: tuple[str, ...]
    labels: np.ndarray
    pixels: np.ndarray
    source: SourceOf

    @property
    def deviation(self) -> float | None:
        """Standard deviation of labels that are numbers, 1 if they are all equal; else None."""
        return (float(self.labels.std()) or 1.0) if self.labels.dtype == np.float64 else None


def parity_images(run: Run, data: Path | str | None) -> ParityImages:
    """Read the run's validation images, or its test images if it has no others.

    Raises `UsageError` if it has neither or does not say where they are, `DataError` if one is missing or has changed.
    """
    source = images_of(run, data)
    if source is None:
        text = f"{run.path} does not say where its images are, and an export is checked on them."
        raise UsageError(f"{text} Expected --data (in Python: data=).")
    preprocessing = run.classifier.preprocessing
    predictions = run.every_prediction
    name = "val" if "val" in predictions.parts else "test"
    part = predictions.part(name)
    if isinstance(part, MultilabelPredictions):
        labels = part.indicators
    else:
        labels = part.targets if isinstance(part, RegressionPredictions) else part.labels
    if not len(part):
        raise UsageError(f"{run.path} has no validation or test images, and an export is checked on them.")
    limit = max(_MIN_PARITY_IMAGES, min(_MAX_PARITY_IMAGES, _MAX_PARITY_BYTES // math.prod(preprocessing.input_shape)))
    chosen = evenly_spaced(len(part), limit)
    pixels = np.empty((len(chosen), *preprocessing.pixel_shape), np.uint8)
    for row, i in enumerate(chosen):
        pixels[row] = _read_pixels(run, source, part.ids[i])
    return ParityImages(name, tuple(part.ids[i] for i in chosen), labels[chosen], pixels, source)


class QuantizationSearch:
    """Calibration images from the training part, uint8 (N, S, S, C), and the quantizations to try on them."""

    def __init__(self, run: Run, module: InferenceModule, source: SourceOf, reporter: ProgressReporter) -> None:
        """Read the images; raises `UsageError` if the run names none, `DataError` if one is missing or changed."""
        names = [row["path"] for row in split_rows(run.path) if row.get("part") == "train"]
        if not names:
            raise UsageError(f"{run.path} does not name its training images, and int8 is calibrated on them.")
        self._module, self._reporter = module, reporter
        self._order: list[str] | None = None
        chosen = evenly_spaced(len(names), _CALIBRATION_IMAGES)
        self.images = np.stack([_read_pixels(run, source, names[i]) for i in chosen])

    def candidates(self) -> Iterator[QuantizationSpec]:
        """Yield the whole backbone in int8, then all but its 1, 2, 4, ... most sensitive layers, up to half of them."""
        yield QuantizationSpec(self.images)
        if self._order is None:
            some = self.images[evenly_spaced(len(self.images), _SENSITIVITY_IMAGES)]
            self._order = sensitive_layers(
                self._module, some, lambda done, total: self._reporter.on_progress("sensitivity", done, total, "layers")
            )
        count = 1
        while count <= len(self._order) // 2:
            yield QuantizationSpec(self.images, tuple(self._order[:count]))
            count *= 2


def evenly_spaced(count: int, limit: int) -> np.ndarray:
    """Return at most `limit` indices below `count`, evenly spaced, so that images sorted by class give all classes."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int))


def _read_pixels(run: Run, source: SourceOf, name: str) -> np.ndarray:
    try:
        return run.classifier.preprocessing(source(name))
    except ImageError as error:
        raise DataError(f"{name}: {error.reason}. An export is checked on the run's own images.") from error


def sensitive_layers(
    module: InferenceModule, images: np.ndarray, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> list[str]:
    """Order the backbone's convolutions and dense layers by how much 8 bits change the probabilities.

    Each layer is quantized alone on some tens of images, uint8 (N, S, S, C), and restored, as the formats do it: its
    weights symmetrically per channel, its input between the minimum and the maximum. `on_progress` gets the numbers of
    layers that are done and of all. Returns PyTorch's names, which begin with "backbone.", the most sensitive first.
    """
    named = module.model.named_modules()
    layers = {name: layer for name, layer in named if name.startswith("backbone") and isinstance(layer, _LAYERS)}
    pixels = torch.from_numpy(images)
    errors = {}
    with torch.inference_mode():
        exact = module(pixels)
        for number, (name, layer) in enumerate(layers.items(), start=1):
            with _quantized_layer(layer):
                errors[name] = float((module(pixels) - exact).abs().mean().nan_to_num(nan=float("inf")))
            on_progress(number, len(layers))
    return sorted(errors, key=lambda name: -errors[name])


@contextmanager
def _quantized_layer(layer: nn.Module) -> Iterator[None]:
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    scale = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True).clamp_min(1e-12) / (_LEVELS // 2)
    original = weight.clone()
    handle = layer.register_forward_pre_hook(lambda _module, inputs: (_quantize_input(inputs[0]), *inputs[1:]))
    weight.copy_((weight / scale).round() * scale)
    try:
        yield
    finally:
        handle.remove()
        weight.copy_(original)


def _quantize_input(values: torch.Tensor) -> torch.Tensor:
    low, high = values.amin().clamp_max(0), values.amax().clamp_min(0)
    step = ((high - low) / _LEVELS).clamp_min(1e-12)
    return ((values - low) / step).round() * step + low
