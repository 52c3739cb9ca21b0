"""Augment training images at random: the same pixels and key give the same result, so no random state is saved."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from regraft.data.augmentation_options import Augmentation, Factors, FillMode
from regraft.errors import UsageError
from regraft.quick_imports import quick_imports
from regraft.text import pluralize

with quick_imports():
    from torchvision.transforms import v2


def random_key(*parts: int) -> int:
    """A 63-bit seed from integers such as (seed, epoch, step); nearby integers give unrelated random streams."""
    entropy = [len(parts), *(part % 2**32 for part in parts)]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def augment(pixels: torch.Tensor, augmentation: Augmentation, keys: Sequence[int]) -> torch.Tensor:
    """Make one random view of each image, uint8 (N, C, H, W), without MixUp and CutMix.

    The same image and key give the same view, whatever else is in the batch. The global random state is not changed.
    """
    if not augmentation.changes_views or not len(pixels):
        return pixels
    transform = _transform(augmentation, list(pixels.shape[-2:]), pixels.shape[1])
    with torch.random.fork_rng(devices=[]):
        views = []
        for image, key in zip(pixels, keys, strict=True):
            torch.default_generator.manual_seed(key)  # torch.manual_seed would also reseed the GPUs
            views.append(transform(image))
        return torch.stack(views)


def _transform(changes: Augmentation, size: list[int], channels: int) -> v2.Transform:
    scale, jitter = (1 - changes.random_crop, 1.0), changes.color_jitter
    aspect = size[1] / size[0]
    ratio = (3 / 4 * aspect, 4 / 3 * aspect)
    steps = (
        changes.moves and partial(_random_affine, changes=changes),
        changes.random_crop and v2.RandomResizedCrop(size, scale=scale, ratio=ratio, antialias=True),
        changes.flip and v2.RandomHorizontalFlip(changes.flip),
        changes.vertical_flip and v2.RandomVerticalFlip(changes.vertical_flip),
        (changes.brightness or changes.color_jitter) and _color_jitter(changes.brightness or jitter, jitter, channels),
        changes.policy == "trivialaugment" and v2.TrivialAugmentWide(),
        changes.policy == "randaugment" and v2.RandAugment(),
    )
    return v2.Compose([step for step in steps if step])


def _color_jitter(brightness: Factors, jitter: float, channels: int) -> Callable[[torch.Tensor], torch.Tensor]:
    if channels == 3:
        colors: Callable[[torch.Tensor], torch.Tensor] = v2.ColorJitter(brightness, jitter, jitter)
        return colors
    return partial(_random_levels, brightness=brightness, contrast=jitter)


def _random_levels(image: torch.Tensor, brightness: Factors, contrast: float) -> torch.Tensor:
    """Change brightness and contrast of an image of any channels, uint8 (C, H, W), as torchvision does of colors."""
    low, high = brightness if isinstance(brightness, tuple) else (1 - brightness, 1 + brightness)
    brighter, stronger = _uniform(low, high), _uniform(1 - contrast, 1 + contrast)
    values = image.float() * brighter
    values = torch.lerp(values.mean(), values, stronger)
    return values.round().clamp(0, 255).to(torch.uint8)


def describe_color_changes(augmentation: Augmentation, channels: int) -> str:
    """A sentence about changes of colors that images of other channels do not get; "" if there are none.

    Raises `UsageError` for a policy, whose changes are defined for red, green and blue.
    """
    if channels == 3:
        return ""
    if augmentation.policy != "none":
        raise UsageError(
            f"augmentation.policy = {augmentation.policy} changes red, green and blue, and the images have "
            f"{pluralize(channels, 'channel')}. Choose none, and rotation, zoom or shifts instead."
        )
    if not augmentation.color_jitter:
        return ""
    return "The augmentation changes brightness and contrast alone: saturation is that of red, green and blue."


def _random_affine(image: torch.Tensor, changes: Augmentation) -> torch.Tensor:
    """Rotate, shift, shear and zoom an image, uint8 (C, H, W), in one interpolation.

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
    """Resample an image, uint8 (C, H, W), bilinearly where a matrix (2, 3) maps each pixel of the result.

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


class Mixture:
    """How the N images of a batch are mixed: MixUp (arXiv 1710.09412) or CutMix (arXiv 1905.04899).

    Each is mixed with a partner, int64 (N,), so that a process can mix a part of a batch as one process mixes all of
    it. Use `draw_mixture`.
    """

    def __init__(self, count: int, name: str, alpha: float, rng: np.random.Generator) -> None:
        self.name, self.keep = name, float(rng.beta(alpha, alpha))
        self.partner: np.ndarray = rng.permutation(count)
        self._rng = rng

    def mix(self, inputs: Sequence[torch.Tensor], partners: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Mix pixels or activations (n, ...) of some images with those of their partners; called once, before targets.

        For CutMix the first inputs must be maps (n, C, H, W); vectors are blended in proportion to the cut area.
        """
        box: tuple[Any, ...] | None = None
        if self.name == "cutmix":
            shape = tuple(inputs[0].shape)
            if len(shape) != 4:
                raise UsageError(f"CutMix needs maps (N, C, H, W), but this backbone gives {shape}. Use mixup.")
            height, width = shape[-2:]
            cut_height, cut_width = (round(side * (1 - self.keep) ** 0.5) for side in (height, width))
            top = int(self._rng.integers(height - cut_height + 1))
            left = int(self._rng.integers(width - cut_width + 1))
            box = (..., slice(top, top + cut_height), slice(left, left + cut_width))
            self.keep = 1 - cut_height * cut_width / (height * width)

        def mixed(values: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
            if box is None or values.ndim != 4:
                return torch.lerp(others.float(), values.float(), self.keep).to(values.dtype)
            cut = values.clone()
            cut[box] = others[box]
            return cut

        return [mixed(values, others) for values, others in zip(inputs, partners, strict=True)]

    def mix_targets(self, targets: torch.Tensor) -> torch.Tensor:
        """Mix the class probabilities of the whole batch, (N, classes)."""
        return torch.lerp(targets[torch.from_numpy(self.partner).to(targets.device)], targets, self.keep)


def draw_mixture(count: int, augmentation: Augmentation, key: int) -> Mixture | None:
    """Draw the mixture of a batch of `count` images; None if nothing is mixed. The same key gives the same mixture."""
    chosen = [name for name, alpha in (("mixup", augmentation.mixup), ("cutmix", augmentation.cutmix)) if alpha > 0]
    if not chosen or count < 2:
        return None
    rng = np.random.default_rng(key)
    name = chosen[int(rng.integers(len(chosen)))]
    return Mixture(count, name, augmentation.mixup if name == "mixup" else augmentation.cutmix, rng)


def mix(
    inputs: Sequence[torch.Tensor], targets: torch.Tensor, augmentation: Augmentation, key: int
) -> tuple[Sequence[torch.Tensor], torch.Tensor]:
    """Apply MixUp or CutMix to N pixels or activations (N, ...) and their class probabilities (N, classes)."""
    mixture = draw_mixture(len(targets), augmentation, key)
    if mixture is None:
        return inputs, targets
    partner = torch.from_numpy(mixture.partner)
    mixed = mixture.mix(inputs, [values[partner.to(values.device)] for values in inputs])
    return mixed, mixture.mix_targets(targets)
