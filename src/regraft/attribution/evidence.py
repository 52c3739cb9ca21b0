"""Whether the evidence is to be believed: where it lies, and what the answer is without it.

Enters: maps (N, S, S) in [0, 1], and the pixels that they were made of. Leaves: shares of evidence by place, pixels
without the strongest evidence, and probabilities while evidence is taken away or brought back.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from regraft.attribution.maps import smoothed
from regraft.models.classifier import Classifier
from regraft.models.inference import infer

#: Width of the border, and side of the centre, as shares of the image's side; their areas are 0.36 and 0.25.
BORDER, CENTRE = 0.1, 0.5
BORDER_AREA, CENTRE_AREA = 1 - (1 - 2 * BORDER) ** 2, CENTRE**2
#: Share of the pixels that is occluded.
OCCLUDED = 0.2


class Faithfulness(NamedTuple):
    """The class's probability, averaged over shares of pixels from 0 to 1, each float64 (N,).

    Attributes:
        deletion: While pixels are blurred, those with the most evidence first: the lower, the better the map.
        insertion: While they come back into a blurred image in the same order: the higher, the better.
    """

    deletion: np.ndarray
    insertion: np.ndarray


def shares(maps: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """How much of the evidence lies at the border and in the centre.

    Args:
        maps: (N, S, S), not negative.

    Returns:
        Both float64 (N,) in [0, 1]; an even map gives `BORDER_AREA` and `CENTRE_AREA`; NaN where there is no evidence.
    """
    side = maps.shape[-1]
    edge, quarter = round(BORDER * side), round((1 - CENTRE) / 2 * side)
    total = maps.double().sum(dim=(1, 2))
    inner = maps[:, edge : side - edge, edge : side - edge].double().sum(dim=(1, 2))
    centre = maps[:, quarter : side - quarter, quarter : side - quarter].double().sum(dim=(1, 2))
    total = torch.where(total > 0, total, torch.nan)
    return (1 - inner / total).numpy(), (centre / total).numpy()


def strongest(maps: torch.Tensor, share: float) -> torch.Tensor:
    """The pixels with the most evidence, bool (N, S, S): `share` of each image's, ties in reading order."""
    flat = maps.flatten(1)
    count = round(share * flat.shape[1])
    order = flat.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order, True).view_as(maps)


def occluded(pixels: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """The images with a blurred version of themselves at some places, faded in, so that no edge is seen.

    Args:
        pixels: uint8 or float in 0..255, (N, 3, S, S).
        where: bool (N, S, S).

    Returns:
        float32 (N, 3, S, S).
    """
    return torch.lerp(pixels.float(), blurred(pixels), smoothed(where.float(), pixels.shape[-1] // 16)[:, None])


def blurred(pixels: torch.Tensor) -> torch.Tensor:
    """The images without what is finer than an eighth of their side, float32."""
    size = pixels.shape[2:]
    coarse = functional.adaptive_avg_pool2d(pixels.float(), (8, 8))
    return functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False).clamp(0, 255)


def faithfulness(
    model: Classifier, pixels: torch.Tensor, targets: torch.Tensor, maps: torch.Tensor, *, steps: int = 16
) -> Faithfulness:
    """Deletion and insertion (Petsiuk et al. 2018), with blurring in place of grey.

    Args:
        model: As for `explain_pixels`.
        pixels: (N, 3, S, S).
        targets: int64 (N,).
        maps: Of these, (N, S, S).
        steps: Shares of pixels between 0 and 1 at which the network is asked.
    """
    rows = np.arange(len(pixels))
    without: list[np.ndarray] = []
    brought: list[np.ndarray] = []
    blur = blurred(pixels)
    for step in range(steps + 1):
        where = strongest(maps, step / steps)[:, None]
        for curve, image in (
            (without, torch.where(where, blur, pixels.float())),
            (brought, torch.where(where, pixels.float(), blur)),
        ):
            curve.append(infer(model, image)[0][rows, targets.numpy()])
    return Faithfulness(*((np.sum(curve, axis=0) - (curve[0] + curve[-1]) / 2) / steps for curve in (without, brought)))
