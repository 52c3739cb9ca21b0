"""Two plain networks that begin with random weights: what transfer learning is measured against.

Enters: normalised images (N, 3, S, S). Leaves: features. They are registered with timm, so that all that works with a
backbone works with them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from timm.models import generate_default_cfgs, register_model
from torch import nn

#: Side of the images that they are made for, in pixels.
SIZE = 64


class PlainDense(nn.Module):
    """An ANN: the pixels in a row, then two layers of Dense and ReLU. It reads images of one size only."""

    def __init__(self, img_size: int = SIZE, **_: Any) -> None:
        """Draw the weights from torch's random state."""
        super().__init__()
        self.num_classes = 0
        self.flatten = nn.Flatten()
        self.dense1 = nn.Linear(3 * img_size**2, 512)
        self.act1 = nn.ReLU()
        self.dense2 = nn.Linear(512, 256)
        self.act2 = nn.ReLU()

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, S, S) to (N, 256)."""
        hidden = self.act1(self.dense1(self.flatten(images)))
        out: torch.Tensor = self.act2(self.dense2(hidden))
        return out

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """The features as they are."""
        return features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The features."""
        return self.forward_features(images)


class PlainConvolutions(nn.Module):
    """A CNN: four times a 3 x 3 convolution, GroupNorm, ReLU and a halving of the map; then its mean."""

    def __init__(self, **_: Any) -> None:
        """Draw the weights from torch's random state."""
        super().__init__()
        self.num_classes = 0
        widths = (3, 32, 64, 128, 256)
        self.blocks = nn.Sequential(*(
            nn.Sequential(
                nn.Conv2d(before, width, 3, padding=1, bias=False), nn.GroupNorm(8, width), nn.ReLU(), nn.MaxPool2d(2)
            )
            for before, width in pairwise(widths)
        ))  # fmt: skip

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, S, S) to maps (N, 256, S / 16, S / 16)."""
        maps: torch.Tensor = self.blocks(images)
        return maps

    def forward_head(self, maps: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Maps to their means, (N, 256)."""
        return maps.mean((2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The features."""
        return self.forward_head(self.forward_features(images))


def _cfg(*, fixed: bool) -> dict[str, Any]:
    return {
        "input_size": (3, SIZE, SIZE),
        "fixed_input_size": fixed,
        "interpolation": "bilinear",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "num_classes": 0,
    }


#: Where timm looks for what is known of them.
default_cfgs = generate_default_cfgs({"regraft_ann": _cfg(fixed=True), "regraft_cnn": _cfg(fixed=False)})


@register_model
def regraft_ann(pretrained: bool = False, **options: Any) -> PlainDense:
    """The ANN; there are no pretrained weights."""
    return PlainDense(**options)


@register_model
def regraft_cnn(pretrained: bool = False, **options: Any) -> PlainConvolutions:
    """The CNN; there are no pretrained weights."""
    return PlainConvolutions(**options)
