"""Measure the faithfulness of heat maps (N, S, S) in [0, 1] to the pixels that they explain."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from regraft.attribution.cam import smooth
from regraft.models.classifier import Classifier
from regraft.models.inference import predict_batch

#: Width of the border, and side of the center, as shares of the image's side; their areas are 0.36 and 0.25.
BORDER, CENTER = 0.1, 0.5
BORDER_AREA, CENTER_AREA = 1 - (1 - 2 * BORDER) ** 2, CENTER**2
#: Share of the pixels that is occluded.
OCCLUDED = 0.2


class Faithfulness(NamedTuple):
    """Mean probability of the class over the shares of changed pixels from 0 to 1, each float64 (N,)."""

    deletion: np.ndarray  # pixels are blurred in falling order of attribution; lower is better
    insertion: np.ndarray  # pixels of a blurred image are restored in the same order; higher is better


def border_and_center(maps: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the maps (N, S, S) at the border and in the center, float64 (N,) in [0, 1]; NaN for a map of zeros."""
    inside, middle = ([_between(side, share) for side in maps.shape[1:]] for share in (BORDER, (1 - CENTER) / 2))
    total = maps.double().sum(dim=(1, 2))
    inner = maps[:, inside[0], inside[1]].double().sum(dim=(1, 2))
    center = maps[:, middle[0], middle[1]].double().sum(dim=(1, 2))
    total = torch.where(total > 0, total, torch.nan)
    return (1 - inner / total).numpy(), (center / total).numpy()


def _between(side: int, share: float) -> slice:
    """A side without this share of it at both ends."""
    edge = round(share * side)
    return slice(edge, side - edge)


def top_pixels(maps: torch.Tensor, share: float) -> torch.Tensor:
    """The pixels with the strongest attribution, bool (N, S, S): this share of each image; ties in reading order."""
    flat = maps.flatten(1)
    count = round(share * flat.shape[1])
    order = flat.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order, True).view_as(maps)


def occlude(pixels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Blur the pixels of a mask, bool (N, S, S), with a smooth transition that adds no edge: float32 (N, C, S, S)."""
    return torch.lerp(pixels.float(), blur(pixels), smooth(mask.float(), min(pixels.shape[2:]) // 16)[:, None])


def blur(pixels: torch.Tensor) -> torch.Tensor:
    """Remove details finer than an eighth of the image's side; float32."""
    size = pixels.shape[2:]
    coarse = functional.adaptive_avg_pool2d(pixels.float(), (8, 8))
    return functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False).clamp(0, 255)


def faithfulness(
    model: Classifier, pixels: torch.Tensor, targets: torch.Tensor, maps: torch.Tensor, *, steps: int = 16
) -> Faithfulness:
    """Compute deletion and insertion (Petsiuk et al. 2018) with blurred instead of gray pixels, in `steps` steps."""
    rows = np.arange(len(pixels))
    deletion: list[np.ndarray] = []
    insertion: list[np.ndarray] = []
    blurred = blur(pixels)
    for step in range(steps + 1):
        mask = top_pixels(maps, step / steps)[:, None]
        for curve, images in (
            (deletion, torch.where(mask, blurred, pixels.float())),
            (insertion, torch.where(mask, pixels.float(), blurred)),
        ):
            curve.append(predict_batch(model, images)[0][rows, targets.numpy()])
    # The trapezoidal rule.
    return Faithfulness(
        *((np.sum(curve, axis=0) - (curve[0] + curve[-1]) / 2) / steps for curve in (deletion, insertion))
    )
