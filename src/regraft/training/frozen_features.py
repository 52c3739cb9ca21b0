"""Inputs of the head for plain images, by a backbone whose layers are frozen, so that each runs once for an image.

Input: a model and images. Output: features, from cached activations where there are any.
"""

from __future__ import annotations

import torch

from regraft import distributed
from regraft.cache import Cache
from regraft.data.dataset import Dataset
from regraft.data.pixel_cache import StreamedPixels
from regraft.data.rgb import ValueRange
from regraft.models.classifier import Classifier
from regraft.training.callbacks import ProgressReporter
from regraft.training.device import choose_device, choose_precision
from regraft.training.feature_cache import extract_features, run_prefix
from regraft.training.options import TrainingOptions
from regraft.training.prefix_backend import BackendName, choose_backend, make_backend


def frozen_features(
    model: Classifier,
    dataset: Dataset,
    cache: Cache,
    reporter: ProgressReporter,
    *,
    options: TrainingOptions | None = None,
    boundary: int | None = None,
    value_range: ValueRange | None = None,
    backend: BackendName | None = None,
    name: str = "backbone",
) -> torch.Tensor:
    """Inputs of the head's layers, float32 (N, E) on the CPU; the model moves to the device of the options.

    The activations that are cached are those at a `boundary`, a number of stages; default: all. `value_range` is
    as in `decode_image`; default: that of the data set. The prefix runs on a `backend`; default: the faster one by a
    remembered measurement. `name` is the step in the progress.
    """
    options = options or TrainingOptions()
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    boundary = len(model.stages) if boundary is None else boundary
    model.to(device).eval()
    if backend is None:
        backend, _ = distributed.broadcast(
            choose_backend(options.prefix_backend, model, boundary, precision, rows=len(dataset), cache=cache)
        )
    preprocessing = model.preprocessing.for_value_range(dataset.value_range if value_range is None else value_range)
    activations = run_prefix(
        model,
        dataset,
        StreamedPixels(dataset, preprocessing, cache),  # every image is read once, so no pixels are stored
        make_backend(backend, model, boundary, precision, cache),
        cache,
        batch_size=64 if device.type == "cpu" else 256,
        reporter=reporter,
        name=name,
    )
    features = extract_features(model, activations, 1, precision, reporter, embedded=True).values
    assert isinstance(features, torch.Tensor)
    return features[0]
