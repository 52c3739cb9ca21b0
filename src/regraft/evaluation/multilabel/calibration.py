"""Fit a slope and an offset of the logit of each class to images outside the training set (Platt 1999)."""

from __future__ import annotations

import numpy as np

#: Bounds of the logarithm of the slope, and of the offset.
_LOG_SLOPE, _OFFSET = 3.0, 20.0


def fit_slopes_and_offsets(indicators: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each class, the slope a > 0 and the offset b with which sigmoid(a z + b) has the least cross-entropy.

    Standard normal priors of log a and b, with the weight of one image each, keep both near 1 and 0 for a class that
    few images have.

    Args:
        indicators: Whether each image has each class, bool (N, C).
        logits: float64 (N, C).

    Returns:
        Slopes and offsets, float64 (C,); 1 and 0 without images.
    """
    from scipy.optimize import minimize  # takes a third of a second to import

    slopes, offsets = np.ones(logits.shape[1]), np.zeros(logits.shape[1])
    for column in range(logits.shape[1] if len(logits) else 0):
        z, sign = logits[:, column], np.where(indicators[:, column], 1.0, -1.0)

        def loss(values: np.ndarray, z: np.ndarray = z, sign: np.ndarray = sign) -> tuple[float, np.ndarray]:
            slope = np.exp(values[0])
            margin = sign * (slope * z + values[1])
            weight = -sign / (1 + np.exp(np.clip(margin, -500, 500)))
            gradient = np.array([(weight * slope * z).sum(), weight.sum()]) + values
            return float(np.logaddexp(0, -margin).sum() + (values**2).sum() / 2), gradient

        bounds = [(-_LOG_SLOPE, _LOG_SLOPE), (-_OFFSET, _OFFSET)]
        found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=bounds)
        slopes[column], offsets[column] = np.exp(found.x[0]), found.x[1]
    return slopes, offsets
