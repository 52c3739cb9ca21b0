"""Two plain networks without pretrained weights, as baselines; timm builds them like any backbone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn

from regraft.quick_imports import quick_imports

with quick_imports():
    from timm.models import generate_default_cfgs, register_model

#: Default side of the images in pixels.
SIZE = 64


class PlainDense(nn.Module):
    """An ANN: two layers of Dense and ReLU on the flattened pixels, for images of one size."""

    def __init__(self, img_size: int = SIZE, in_chans: int = 3, **_: Any) -> None:
        super().__init__()
        self.num_classes = 0
        self.flatten = nn.Flatten()
        self.dense1 = nn.Linear(in_chans * img_size**2, 512)
        self.act1 = nn.ReLU()
        self.dense2 = nn.Linear(512, 256)
        self.act2 = nn.ReLU()

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, C, S, S) to features (N, 256)."""
        hidden = self.act1(self.dense1(self.flatten(images)))
        out: torch.Tensor = self.act2(self.dense2(hidden))
        return out

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Return the features unchanged."""
        return features

    forward = forward_features


class PlainConvolutions(nn.Module):
    """A CNN: four blocks of 3 x 3 convolution, GroupNorm, ReLU and max pooling, then global average pooling."""

    def __init__(self, in_chans: int = 3, **_: Any) -> None:
        super().__init__()
        self.num_classes = 0
        widths = (in_chans, 32, 64, 128, 256)
        self.blocks = nn.Sequential(*(
            nn.Sequential(
                nn.Conv2d(before, width, 3, padding=1, bias=False), nn.GroupNorm(8, width), nn.ReLU(), nn.MaxPool2d(2)
            )
            for before, width in pairwise(widths)
        ))  # fmt: skip

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, C, S, S) to maps (N, 256, S / 16, S / 16)."""
        maps: torch.Tensor = self.blocks(images)
        return maps

    def forward_head(self, maps: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Maps to their means, (N, 256)."""
        return maps.mean((2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, C, S, S) to features (N, 256)."""
        return self.forward_head(self.forward_features(images))


_CFG = {
    "input_size": (3, SIZE, SIZE), "interpolation": "bilinear", "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25),
    "num_classes": 0,
}  # fmt: skip
#: The module attribute from which `register_model` takes the configurations.
default_cfgs = generate_default_cfgs({"regraft_ann": {**_CFG, "fixed_input_size": True}, "regraft_cnn": _CFG})


@register_model
def regraft_ann(pretrained: bool = False, **options: Any) -> PlainDense:
    """The ANN; it has no pretrained weights."""
    return PlainDense(**options)


@register_model
def regraft_cnn(pretrained: bool = False, **options: Any) -> PlainConvolutions:
    """The CNN; it has no pretrained weights."""
    return PlainConvolutions(**options)
