"""Run the frozen prefix anew whenever its activations are read, on views that are drawn for that moment.

Input: pixels and a prefix backend. Output: activations as `Activations` gives them, of which nothing is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from regraft.data.augmentation import augment, random_key
from regraft.data.augmentation_options import Augmentation
from regraft.data.pixel_cache import PixelSource
from regraft.models.staged import StageOutput
from regraft.training.feature_cache import as_batch
from regraft.training.prefix_backend import PrefixBackend


@dataclass(frozen=True)
class LiveActivations:
    """Activations of N images at the backend's boundary, computed when they are read, without gradients.

    `device` is where the images are augmented.
    """

    pixels: PixelSource
    backend: PrefixBackend
    augmentation: Augmentation
    device: torch.device

    @property
    def boundary(self) -> int:
        """Index of the first stage that the images have not passed."""
        return self.backend.boundary

    @property
    def views(self) -> int:
        """1: the plain view alone can be read twice."""
        return 1

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self, view: int, parts: Sequence[slice]) -> Iterator[StageOutput]:
        """One group of images after the other, in the plain view, decoded ahead."""
        numbers = [np.arange(part.start, part.stop) for part in parts]
        return (self._run(as_batch(decoded).to(self.device)) for decoded in self.pixels.batches(numbers))

    def batch(self, view: int, images: slice) -> StageOutput:
        """Some images in the plain view."""
        return self._run(as_batch(self.pixels[images]).to(self.device))

    def sample(self, indices: np.ndarray, key: int, chosen: np.ndarray | slice = slice(None)) -> StageOutput:
        """A new view of each of these images, drawn by the key; only those at the places `chosen` are computed."""
        indices = indices[chosen]
        keys = [random_key(key, int(i)) for i in indices]
        return self._run(augment(as_batch(self.pixels[indices]).to(self.device), self.augmentation, keys))

    def loaded(self, device: torch.device) -> LiveActivations:
        """Itself: there is nothing to move."""
        return self

    def _run(self, pixels: torch.Tensor) -> StageOutput:
        # The backend sets itself up at its first batch, and copies, because backward cannot use inference tensors.
        with torch.inference_mode(False), torch.no_grad():
            values, *taps = [part.clone() for part in self.backend(pixels)]
        values = values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values
        return StageOutput(values, taps[0] if taps else values.new_empty(len(values), 0))
