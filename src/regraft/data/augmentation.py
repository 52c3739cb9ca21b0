"""Augment training images at random: the same pixels and key give the same result, so no random state is saved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from regraft.errors import UsageError, check_names
from regraft.option_errors import usage_errors
from regraft.quick_imports import quick_imports

with quick_imports():
    from torchvision.transforms import v2

Policy = Literal["none", "trivialaugment", "randaugment"]
FillMode = Literal["nearest", "reflect", "wrap", "constant"]


def _check_factors(value: float | tuple[float, float]) -> float | tuple[float, float]:
    if not (0 < value[0] <= value[1] < math.inf if isinstance(value, tuple) else 0 <= value < 1):
        raise ValueError("expected a share from 0 to below 1, or two factors [low, high] above 0, such as [0.8, 1.2]")
    return value


#: A share s, which means factors from 1 - s to 1 + s, or the lowest and the highest factor.
Factors = Annotated[float | tuple[float, float], AfterValidator(_check_factors)]
_ZOOM = (
    "zoom in and out by up to this share, each side for itself; or [low, high] as Keras's zoom_range, below 1: closer"
)
_BRIGHTNESS = "brightness changes by up to this share, or [low, high] as in Keras; 0: as color_jitter says"
_FILL_MODE = "what rotation, shifts, shear and zoom show beyond the edges: nearest, reflect, wrap or constant (fill)"


@usage_errors
@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Augmentation:
    """Random changes of the training images. A value of 0 turns a change off."""

    flip: Annotated[float, Field(ge=0, le=1, description="probability of a mirror image")] = 0.5
    vertical_flip: Annotated[float, Field(ge=0, le=1, description="probability of an upside-down image")] = 0.0
    random_crop: Annotated[float, Field(ge=0, lt=1, description="largest share of the area that a crop removes")] = 0.65
    rotation: Annotated[float, Field(ge=0, le=180, description="up to this many degrees either way")] = 0.0
    width_shift: Annotated[float, Field(ge=0, lt=1, description="shift by up to this share of the width")] = 0.0
    height_shift: Annotated[float, Field(ge=0, lt=1, description="shift by up to this share of the height")] = 0.0
    shear: Annotated[float, Field(ge=0, lt=90, description="shear by up to this many degrees either way")] = 0.0
    zoom: Annotated[Factors, Field(description=_ZOOM)] = 0.0
    fill_mode: Annotated[FillMode, Field(description=_FILL_MODE)] = "nearest"
    fill: Annotated[float, Field(ge=0, le=255, description="value of the pixels of fill_mode = constant")] = 0.0
    brightness: Annotated[Factors, Field(description=_BRIGHTNESS)] = 0.0
    color_jitter: Annotated[
        float, Field(ge=0, le=1, description="brightness, contrast and saturation change by up to this share")
    ] = 0.3
    policy: Annotated[Policy, Field(description="additional policy: none, trivialaugment or randaugment")] = "none"
    mixup: Annotated[float, Field(ge=0, description="alpha of MixUp; 0: off")] = 0.0
    cutmix: Annotated[float, Field(ge=0, description="alpha of CutMix; 0: off; with mixup, either at random")] = 0.0

    @model_validator(mode="before")
    @classmethod
    def _refuse_old_names(cls, values: Any) -> Any:
        if isinstance(values, ArgsKwargs):  # from Python; the configuration lists its own errors
            check_names(values.kwargs or (), {"colour": "color_jitter", "crop": "random_crop"})
        return values

    @classmethod
    def none(cls) -> Augmentation:
        """No augmentation."""
        return cls(flip=0, random_crop=0, color_jitter=0)

    @property
    def changes_views(self) -> bool:
        """Whether single images are changed; MixUp and CutMix change batches only."""
        shares = (self.flip, self.vertical_flip, self.random_crop, self.brightness, self.color_jitter)
        return any(shares) or self.moves or self.policy != "none"

    @property
    def moves(self) -> bool:
        """Whether images are rotated, shifted, sheared or zoomed."""
        return any((self.rotation, self.width_shift, self.height_shift, self.shear, self.zoom))


def random_key(*parts: int) -> int:
    """A 63-bit seed from integers such as (seed, epoch, step); nearby integers give unrelated random streams."""
    entropy = [len(parts), *(part % 2**32 for part in parts)]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def augment(pixels: torch.Tensor, augmentation: Augmentation, keys: Sequence[int]) -> torch.Tensor:
    """Make one random view of each image, uint8 (N, 3, H, W), without MixUp and CutMix.

    The same image and key give the same view, whatever else is in the batch. The global random state is not changed.
    """
    if not augmentation.changes_views or not len(pixels):
        return pixels
    transform = _transform(augmentation, list(pixels.shape[-2:]))
    with torch.random.fork_rng(devices=[]):
        views = []
        for image, key in zip(pixels, keys, strict=True):
            torch.default_generator.manual_seed(key)  # torch.manual_seed would also reseed the GPUs
            views.append(transform(image))
        return torch.stack(views)


def _transform(changes: Augmentation, size: list[int]) -> v2.Transform:
    scale, jitter = (1 - changes.random_crop, 1.0), changes.color_jitter
    steps = (
        changes.moves and partial(_random_affine, changes=changes),
        changes.random_crop and v2.RandomResizedCrop(size, scale=scale, ratio=(3 / 4, 4 / 3), antialias=True),
        changes.flip and v2.RandomHorizontalFlip(changes.flip),
        changes.vertical_flip and v2.RandomVerticalFlip(changes.vertical_flip),
        (changes.brightness or changes.color_jitter) and v2.ColorJitter(changes.brightness or jitter, jitter, jitter),
        changes.policy == "trivialaugment" and v2.TrivialAugmentWide(),
        changes.policy == "randaugment" and v2.RandAugment(),
    )
    return v2.Compose([step for step in steps if step])


def _random_affine(image: torch.Tensor, changes: Augmentation) -> torch.Tensor:
    """Rotate, shift, shear and zoom an image, uint8 (3, H, W), in one interpolation.

    The matrix from the result's pixels to the image's is that of Keras's `ImageDataGenerator`.
    """
    height, width = image.shape[-2:]
    angle, shear = (math.radians(_uniform(-most, most)) for most in (changes.rotation, changes.shear))
    dx, dy = (2 * _uniform(-most, most) for most in (changes.width_shift, changes.height_shift))
    low, high = changes.zoom if isinstance(changes.zoom, tuple) else (1 - changes.zoom, 1 + changes.zoom)
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    shearing = torch.tensor([[1.0, -math.sin(shear)], [0.0, math.cos(shear)]])
    linear = rotation @ shearing @ torch.diag(torch.tensor([_uniform(low, high), _uniform(low, high)]))
    sides = torch.tensor([float(width), float(height)])
    shift = rotation @ (torch.tensor([dx, dy]) * sides)  # as coordinates run from -1 to 1, twice the share
    matrix = torch.cat([linear * sides, shift[:, None]], dim=1) / sides[:, None]
    return affine(image, matrix, changes.fill_mode, changes.fill)


def affine(image: torch.Tensor, matrix: torch.Tensor, fill_mode: FillMode, fill: float = 0.0) -> torch.Tensor:
    """Resample an image, uint8 (3, H, W), bilinearly where a matrix (2, 3) maps each pixel of the result.

    Coordinates (x, y) run from -1 to 1 between the outer edges. Beyond them `nearest` continues the last pixel,
    `reflect` mirrors the image (abc|cba), `wrap` repeats it, and `constant` is `fill`.
    """
    values = image[None].float() - fill
    grid = F.affine_grid(matrix[None].to(values), list(values.shape), align_corners=False)
    if fill_mode == "wrap":  # the pixel beyond an edge is that of the opposite edge
        sides = torch.tensor(values.shape[:1:-1]).to(grid)
        grid = ((grid + 1) % 2 - 1) * sides / (sides + 2)
        values = F.pad(values, (1, 1, 1, 1), mode="circular")
    padding = {"nearest": "border", "reflect": "reflection"}.get(fill_mode, "zeros")
    sampled = F.grid_sample(values, grid, padding_mode=padding, align_corners=False)[0] + fill
    return sampled.round().clamp(0, 255).to(torch.uint8)


def _uniform(low: float, high: float) -> float:
    return float(torch.empty(1).uniform_(low, high))


def mix(
    inputs: Sequence[torch.Tensor], targets: torch.Tensor, augmentation: Augmentation, key: int
) -> tuple[Sequence[torch.Tensor], torch.Tensor]:
    """Apply MixUp (arXiv 1710.09412) or CutMix (arXiv 1905.04899) to N pixels or activations (N, ...).

    For CutMix the first inputs must be maps (N, C, H, W); vectors are blended in proportion to the cut area. Targets
    are class probabilities (N, classes). The same key gives the same mixture.
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
            raise UsageError(f"CutMix needs maps (N, C, H, W), but this backbone gives {tuple(maps.shape)}. Use mixup.")
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
