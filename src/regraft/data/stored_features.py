"""Features of images that are gone: what the head reads of them, from the run that still had the images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class StoredFeatures:
    """Inputs of the head for E images without files.

    Attributes:
        features: float32 (E, F).
        weights: Number of images that each stands for in the loss of the head, float32 (E,).
    """

    features: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: np.ndarray) -> StoredFeatures:
        """Those of some images: numbers, int (n,), or which of them, bool (E,)."""
        return StoredFeatures(self.features[rows], self.weights[rows])
