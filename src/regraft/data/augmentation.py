"""Augmentation: other views of the training images.

Enters: a batch of uint8 pixels (N, 3, H, W) and a key. Leaves: a batch of the same shape, the same for the
same key, so that no random state has to be kept to continue a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import InterpolationMode

from regraft.errors import UsageError

Policy = Literal["none", "trivialaugment", "randaugment"]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Augmentation:
    """What a view may differ in. A strength of 0 turns a part off."""

    flip: Annotated[float, Field(ge=0, le=1, description="probability of a mirror image")] = 0.5
    vertical_flip: Annotated[float, Field(ge=0, le=1, description="probability of an upside-down image")] = 0.0
    crop: Annotated[
        float,
        Field(ge=0, lt=1, description="a random crop may leave out up to this share of the area; 0: no crop"),
    ] = 0.65
    rotation: Annotated[float, Field(ge=0, le=180, description="up to this many degrees either way")] = 0.0
    colour: Annotated[
        float, Field(ge=0, le=1, description="brightness, contrast and saturation change by up to this share")
    ] = 0.3
    policy: Annotated[Policy, Field(description="an automatic policy on top: none, trivialaugment or randaugment")] = (
        "none"
    )
    mixup: Annotated[float, Field(ge=0, description="alpha of MixUp; 0: off")] = 0.0
    cutmix: Annotated[float, Field(ge=0, description="alpha of CutMix; 0: off; with mixup, either at random")] = 0.0

    @classmethod
    def none(cls) -> Augmentation:
        """No augmentation at all."""
        return cls(flip=0, crop=0, colour=0)

    @property
    def changes_views(self) -> bool:
        """Whether any view differs from the plain image (MixUp and CutMix act on batches, not on views)."""
        return any((self.flip, self.vertical_flip, self.crop, self.rotation, self.colour)) or self.policy != "none"


def random_key(*parts: int) -> int:
    """A 63-bit seed from whole numbers such as (seed, epoch, step); nearby keys give unrelated streams."""
    return int(
        np.random.SeedSequence([len(parts), *(part % 2**32 for part in parts)]).generate_state(1, np.uint64)[0] >> 1
    )


def augment(pixels: torch.Tensor, augmentation: Augmentation, keys: Sequence[int]) -> torch.Tensor:
    """Draw one view of each image.

    Args:
        pixels: uint8 (N, 3, H, W).
        augmentation: What may change; MixUp and CutMix are not applied here.
        keys: One for each image; the same image and key give the same view, whatever else is in the batch. The
            program's own random state is left alone.

    Returns:
        uint8 (N, 3, H, W).
    """
    if not augmentation.changes_views or not len(pixels):
        return pixels
    height, width = pixels.shape[-2:]
    transform = _transform(augmentation, (height, width))
    with torch.random.fork_rng(devices=[]):
        views = []
        for image, key in zip(pixels, keys, strict=True):
            torch.default_generator.manual_seed(key)  # torch.manual_seed would seed the GPUs too, for good
            views.append(transform(image))
        return torch.stack(views)


def _transform(augmentation: Augmentation, size: tuple[int, int]) -> v2.Transform:
    steps: list[v2.Transform] = []
    if augmentation.rotation:
        steps.append(v2.RandomRotation(augmentation.rotation, interpolation=InterpolationMode.BILINEAR))
    if augmentation.crop:
        scale = (1 - augmentation.crop, 1.0)
        steps.append(v2.RandomResizedCrop(size, scale=scale, ratio=(3 / 4, 4 / 3), antialias=True))
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip(augmentation.flip))
    if augmentation.vertical_flip:
        steps.append(v2.RandomVerticalFlip(augmentation.vertical_flip))
    if augmentation.colour:
        steps.append(v2.ColorJitter(*[augmentation.colour] * 3))
    if augmentation.policy == "trivialaugment":
        steps.append(v2.TrivialAugmentWide())
    elif augmentation.policy == "randaugment":
        steps.append(v2.RandAugment())
    return v2.Compose(steps)


def mix(
    inputs: Sequence[torch.Tensor], targets: torch.Tensor, augmentation: Augmentation, key: int
) -> tuple[Sequence[torch.Tensor], torch.Tensor]:
    """MixUp or CutMix of a batch, on pixels or on activations at the freeze boundary.

    Args:
        inputs: Each (N, ...), of the same images. CutMix cuts the first, which must be maps (N, C, H, W); vectors
            beside it are mixed by the area.
        targets: Class probabilities (N, classes).
        augmentation: The two alphas.
        key: The same key gives the same mixture.

    Returns:
        The mixed inputs and targets, same shapes.

    Sources: MixUp, arXiv 1710.09412; CutMix, arXiv 1905.04899.
    """
    chosen = [name for name, alpha in (("mixup", augmentation.mixup), ("cutmix", augmentation.cutmix)) if alpha > 0]
    if not chosen or len(targets) < 2:
        return inputs, targets
    rng = np.random.default_rng(key)
    name = chosen[int(rng.integers(len(chosen)))]
    alpha = augmentation.mixup if name == "mixup" else augmentation.cutmix
    keep = float(rng.beta(alpha, alpha))
    partner = torch.from_numpy(rng.permutation(len(targets))).to(targets.device)
    box: tuple[Any, ...] | None = None
    if name == "cutmix":
        maps = inputs[0]
        if maps.ndim != 4:
            raise UsageError(f"CutMix needs maps (N, C, H, W) and this backbone gives {tuple(maps.shape)}; use mixup")
        height, width = maps.shape[-2:]
        cut_height, cut_width = (round(side * (1 - keep) ** 0.5) for side in (height, width))
        top = int(rng.integers(height - cut_height + 1))
        left = int(rng.integers(width - cut_width + 1))
        box = (..., slice(top, top + cut_height), slice(left, left + cut_width))
        keep = 1 - cut_height * cut_width / (height * width)

    def mixed(values: torch.Tensor) -> torch.Tensor:
        if box is None or values.ndim != 4:
            return torch.lerp(values[partner].float(), values.float(), keep).to(values.dtype)
        cut = values.clone()
        cut[box] = values[partner][box]
        return cut

    return [mixed(values) for values in inputs], torch.lerp(targets[partner], targets, keep)
