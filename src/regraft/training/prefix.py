"""The frozen prefix, run once.

Enters: pixels of N images and K views to draw of each. Leaves: the activations at the freeze boundary, (K, N, ...),
in a memory-mapped file. View 0 is the plain image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from regraft.data.augmentation import Augmentation, augment, random_key
from regraft.files import reserve
from regraft.models.classifier import Classifier
from regraft.training.hardware import autocast
from regraft.training.progress import Listener


@dataclass(frozen=True)
class Activations:
    """Cached activations.

    Attributes:
        values: (K, N, ...) in float32, or in the type that the prefix ran in; on the CPU, memory-mapped.
        boundary: Index of the first stage that is not in them.
    """

    values: torch.Tensor
    boundary: int

    @property
    def views(self) -> int:
        """K, versions of each image."""
        return self.values.shape[0]

    def __len__(self) -> int:
        """N, number of images."""
        return self.values.shape[1]

    def plain(self, indices: np.ndarray) -> torch.Tensor:
        """The unaugmented view of some images, (n, ...)."""
        return _channels_last(self.values[0][torch.from_numpy(indices)])

    def drawn(self, indices: np.ndarray, key: int) -> torch.Tensor:
        """One view of each of some images, drawn by the key, (n, ...)."""
        chosen = np.random.default_rng(key).integers(self.views, size=len(indices))
        return _channels_last(self.values[torch.from_numpy(chosen), torch.from_numpy(indices)])


def _channels_last(values: torch.Tensor) -> torch.Tensor:
    return values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values


def as_batch(pixels: np.ndarray) -> torch.Tensor:
    """Pixels (N, S, S, 3) of a store as a tensor (N, 3, S, S), uint8."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)


def run_prefix(
    model: Classifier,
    pixels: np.ndarray,
    boundary: int,
    file: Path,
    *,
    precision: torch.dtype,
    views: int = 1,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    batch_size: int = 64,
    listener: Listener,
    name: str = "prefix",
) -> Activations:
    """Compute the activations at a boundary.

    Args:
        model: Used in inference mode.
        pixels: uint8 (N, S, S, 3).
        boundary: Stages below it are run.
        file: Where the activations go.
        precision: Type of the arithmetic and of the stored values.
        views: K; 1 is the plain image alone.
        augmentation: What the other K - 1 views differ in.
        seed: Of the views.
        batch_size: Images for one pass; the result depends on it in the last bits only.
        listener: Told after each batch.
        name: What the work is called there.

    Raises:
        RunError: The disk has no room for the file.
    """
    count, device = len(pixels), model.mean.device
    shape: tuple[int, ...] = model.stages[boundary - 1].shape if boundary else (3, *pixels.shape[1:3])
    total = views * count
    file.unlink(missing_ok=True)
    reserve(file, total * math.prod(shape) * precision.itemsize, "The activations of all views")
    values = torch.from_file(
        str(file),
        shared=True,
        size=total * math.prod(shape),
        dtype=precision,
    ).view(views, count, *shape)
    model.eval()
    with torch.inference_mode(), autocast(device, precision):
        for view in range(views):
            for start in range(0, count, batch_size):
                batch = as_batch(pixels[start : start + batch_size])
                if view and augmentation is not None:
                    batch = augment(batch, augmentation, random_key(seed, view, start))
                values[view, start : start + batch_size] = model.activations(batch.to(device), boundary).to(
                    "cpu", precision
                )
                listener.work(name, view * count + min(start + batch_size, count), total)
    return Activations(values, boundary)
