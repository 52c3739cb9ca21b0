"""Heat maps (N, S, S) in [0, 1] of the pixels that support a class: class activation maps and integrated gradients.

Stages replace hooks: those up to the explained stage run without gradients, so the model does not change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

import numpy as np
import torch
from torch.nn import functional

from regraft.attribution.methods import Method, check_method
from regraft.errors import UnknownNameError, UsageError
from regraft.models.classifier import Classifier
from regraft.models.passes import images_per_pass
from regraft.models.torch_defaults import torch_defaults

#: Number of steps of integrated gradients, and of masks of Score-CAM.
_STEPS, _MASKS = 64, 64
#: Number of images per pass with gradients at most.
_BATCH = 16


def images_at_once(model: Classifier) -> int:
    """Number of images of a pass with gradients, for which the maps of many layers are kept: fewer of large ones."""
    if model.mean.device.type != "cpu":
        return _BATCH
    return min(_BATCH, images_per_pass(math.prod(model.preprocessing.input_shape)))


@torch_defaults()
def explain_pixels(
    model: Classifier,
    pixels: torch.Tensor,
    targets: torch.Tensor,
    *,
    method: Method,
    stage: int | None = None,
    images: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute the heat map of a class for each image; the model's mode does not change, and it keeps no gradient.

    Pixels (N, C, H, W), uint8 or float in 0..255, and class indices, int64 (N,), give float32 (N, H, W) on the CPU, in
    [0, 1]: the largest value of each map is 1, or all are 0 if nothing supports the class. `stage` is the index of the
    stage whose output is explained, `default_stage` if None. Raises UsageError if that output has no spatial axes.

    Of a model of numbers the targets are those of `DIRECTIONS`: 0 is evidence for a higher number, 1 for a lower one.
    With `images`, int64 (N,), maps of the same image are on one scale, and the largest value of one of them is 1; not
    those of Score-CAM, whose weights are shares of one score. EigenCAM raises UsageError, as both would be the same.

    For several backbones the map is the sum of their maps (`regraft.attribution.members`), each at its own stage.
    """
    check_method(method, model.task)
    if model.members and method != "integrated-gradients":
        from regraft.attribution.members import explain_members  # which imports this module

        return explain_members(model, pixels, targets, method=method).total
    pixels, targets = pixels.clone(), targets.clone()  # tensors of the caller's inference mode have no gradients
    was_training = model.training
    model.eval()
    try:
        if stage is None:
            stage = default_stage(model, method)
        batches = (torch.split(values.to(model.mean.device), images_at_once(model)) for values in (pixels, targets))
        maps = [
            positive(compute(model, batch, batch_targets, method, stage), model.preprocessing.shape)
            for batch, batch_targets in zip(*batches, strict=True)
        ]
        scale = None if method == "scorecam" else images
        return normalize(torch.cat(maps).cpu(), scale) if maps else torch.zeros(0, *pixels.shape[2:])
    finally:
        model.train(was_training)


def to_heat_maps(maps: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Positive part of maps (N, H, W), interpolated to a height and width, and divided by its largest value."""
    return normalize(positive(maps, shape))


def positive(maps: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Positive part of maps (N, H, W), interpolated to a height and width."""
    return upsample(maps.clamp_min(0), shape)


def smooth(maps: torch.Tensor, radius: int) -> torch.Tensor:
    """Average maps (N, S, S) over neighbors up to `radius` pixels away, twice, which rounds the corners."""
    for down, right in ((radius, 0), (0, radius)) * (2 if radius else 0):
        size = (2 * down + 1, 2 * right + 1)
        maps = functional.avg_pool2d(maps[:, None], size, 1, (down, right), count_include_pad=False)[:, 0]
    return maps


def find_stage(model: Classifier, name: str) -> int:
    """Find a stage by its name, an alias, or a layer's name; UsageError if its output has no spatial axes."""
    if model.members:
        raise UsageError(
            f"The stage is {name}, but the model has {len(model.members)} backbones. Each of them is explained at its "
            "last spatial stage. Leave out the stage (--layer)."
        )
    if not name or name in ("none", "all", "auto", "last") or name.lstrip("-").isdigit():
        raise UnknownNameError("stage", name, [stage.name for stage in model.stages])
    index = model.resolve(name)
    maps_of_stage(model, index)
    return index


def grid_of(model: Classifier, stage: int) -> tuple[int, int] | None:
    """Rows and columns of a stage's output, which are the cells of its heat map; None without spatial axes."""
    shape = model.stages[stage].shape
    if len(shape) == 3:
        rows, columns = shape[:2] if model.channels_last_maps else shape[1:]
        return (rows, columns) if min(rows, columns) > 1 else None
    if len(shape) == 2:
        side = round((shape[0] - _prefix_tokens(model)) ** 0.5)
        return (side, side) if side > 1 and side * side == shape[0] - _prefix_tokens(model) else None
    return None


def finer_stage(model: Classifier, stage: int) -> int | None:
    """The last stage below `stage` whose map has more cells; None if there is none."""
    cells = np.prod(grid_of(model, stage) or (1, 1))
    finer = (index for index in reversed(range(stage)) if np.prod(grid_of(model, index) or (0, 0)) > cells)
    return next(finer, None)


def _prefix_tokens(model: Classifier) -> int:
    return int(getattr(model.backbone, "num_prefix_tokens", 0))


@torch_defaults()
def default_stage(model: Classifier, method: Method) -> int:
    """Index of the last spatial stage on which the logits depend everywhere, which a method explains by default.

    If the head of a transformer reads the class token, that is the stage before the last block: above it, nothing leads
    from the patches to that token. Integrated gradients explain the pixels: 0. Raises UsageError if the backbone has no
    spatial stage. Several backbones have stages of their own, and are 0.
    """
    if method == "integrated-gradients":
        return 0
    if model.members:
        for index in range(len(model.members)):
            with suppress(UsageError):
                default_stage(model.member(index), method)
                return 0
        raise UsageError(f"No backbone has a stage with spatial axes, which {method} needs. Use integrated-gradients.")
    pixels = torch.full((1, *model.preprocessing.input_shape), 128.0, device=model.mean.device)
    last = len(model.stages) - 2  # below the pooling
    reads_class = model.tokens is not None and (
        "class" in model.tap_parts.get(last, ()) or (model.tokens.pooled == "class" and model.pooling == "avg")
    )
    for index in reversed(range(last if reads_class else len(model.stages))):
        try:
            _, gradient = _stage_gradient(model, pixels, torch.zeros(1, dtype=torch.int64, device=pixels.device), index)
        except UsageError:  # no spatial axes
            continue
        if bool((gradient.abs().amax(dim=1) > 0).float().mean() > 0.5):
            return index
    raise UsageError(
        f"{model.spec.name} has no stage with spatial axes, which {method} needs. Use method integrated-gradients."
    )


def _stage_gradient(
    model: Classifier,
    pixels: torch.Tensor,
    targets: torch.Tensor,
    stage: int,
    others: torch.Tensor | float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The stage's output and the gradient of the log-odds of each image's class, both (N, C, H, W).

    `others`, (N, classes), is added to the logits: what other backbones contribute.
    """
    to_maps = maps_of_stage(model, stage)
    with torch.no_grad():
        below = model.activations(pixels, stage)
        values = model.stages[stage].forward(below.values)
    with torch.enable_grad():
        values = values.detach().requires_grad_()
        logits = model.forward_from(model.append_taps(stage, values, below.taps), stage + 1)
        (gradient,) = torch.autograd.grad(_log_odds(model, logits + others, targets).sum(), values)
    return to_maps(values.detach()), to_maps(gradient)


def _log_odds(model: Classifier, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-odds of each image's class against all others, (N,), without what all classes have in common.

    Where an image has any number of labels, those of the class against its absence, which are its logit. Of a number it
    is the number, or for the target 1 its negative.
    """
    if model.task == "regression":
        return logits[:, 0] * (1 - 2 * targets)
    if model.task == "multilabel":
        return logits.gather(1, targets[:, None])[:, 0]
    scores = logits if model.head.activation == "softmax" else functional.logsigmoid(logits)
    chosen = targets[:, None]
    others = scores.scatter(1, chosen, float("-inf")).logsumexp(dim=1)
    return scores.gather(1, chosen)[:, 0] - others


def maps_of_stage(model: Classifier, stage: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function from the stage's output to maps (N, C, H, W); raises UsageError if it has no spatial axes."""
    shape, grid = model.stages[stage].shape, grid_of(model, stage)
    if grid and len(shape) == 3:
        return lambda values: values.permute(0, 3, 1, 2) if model.channels_last_maps else values
    if grid:
        return partial(_tokens_to_maps, prefix_tokens=_prefix_tokens(model), side=grid[0])
    raise UsageError(
        f"The output of {model.stages[stage].name}, {' x '.join(map(str, shape))} per image, has no spatial axes. "
        f"Expected one of {', '.join(s.name for s in model.stages if len(s.shape) > 1)}."
    )


def _tokens_to_maps(values: torch.Tensor, prefix_tokens: int, side: int) -> torch.Tensor:
    patches = values[:, prefix_tokens:].transpose(1, 2)
    return patches.reshape(*patches.shape[:2], side, side)


def upsample(maps: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Maps (N, H, W), interpolated to another height and width."""
    if maps.shape[1:] == shape:
        return maps
    return functional.interpolate(maps[:, None], size=shape, mode="bicubic", align_corners=False)[:, 0]


def normalize(maps: torch.Tensor, images: torch.Tensor | None = None) -> torch.Tensor:
    """Positive part, divided by its maximum, or by that of all maps with the same number in `images`, int64 (N,)."""
    maps = maps.clamp_min(0)
    largest = maps.amax(dim=(1, 2))
    if images is not None and len(images):
        of_image = largest.new_zeros(int(images.max()) + 1).scatter_reduce(0, images, largest, "amax")
        largest = of_image[images]
    largest = largest[:, None, None]
    return torch.where(largest > 0, maps / largest.clamp_min(torch.finfo(maps.dtype).tiny), 0.0)


# The methods; each returns (N, H, W), and positive values support the class.


def _gradcam(maps: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Sum of maps weighted by their mean gradient. Selvaraju et al. 2017."""
    return (maps * gradient.mean(dim=(2, 3), keepdim=True)).sum(dim=1)


def _gradcam_plus_plus(maps: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Sum of maps weighted by positive gradients, stronger where few are. Chattopadhay et al. 2018, eq. 19."""
    square = gradient.square()
    denominator = 2 * square + maps.sum(dim=(2, 3), keepdim=True) * square * gradient
    alpha = torch.where(gradient != 0, square / torch.where(denominator != 0, denominator, 1.0), 0.0)
    weight = (alpha * gradient.clamp_min(0)).sum(dim=(2, 3), keepdim=True)
    return (maps * weight).sum(dim=1)


def _hirescam(maps: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Sum of maps times gradient: for a linear head the contribution of each position. Draelos and Carin 2020."""
    return (maps * gradient).sum(dim=1)


def _layercam(maps: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Sum of maps times positive gradient, which also suits lower stages. Jiang et al. 2021."""
    return (maps * gradient.clamp_min(0)).sum(dim=1)


def _eigencam(maps: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """First principal component of the maps, the same for every class. Muhammad and Yeasin 2020."""
    positions = maps.flatten(2).transpose(1, 2).double()  # (N, H W, C)
    centered = positions - positions.mean(dim=1, keepdim=True)
    if positions.shape[1] <= positions.shape[2]:  # the smaller of the two Gram matrices
        values, vectors = torch.linalg.eigh(centered @ centered.transpose(1, 2))
        component = vectors[:, :, -1] * values[:, -1:].clamp_min(0).sqrt()
    else:
        _, vectors = torch.linalg.eigh(centered.transpose(1, 2) @ centered)
        component = (centered @ vectors[:, :, -1:])[:, :, 0]
    norm = positions.norm(dim=2)
    covariance = (component * (norm - norm.mean(dim=1, keepdim=True))).sum(dim=1, keepdim=True)
    sign = torch.where(covariance < 0, -1.0, 1.0)  # positive where the activations are strong
    signed: torch.Tensor = (component * sign).float().reshape(len(maps), *maps.shape[2:])
    return signed


def _scorecam(
    model: Classifier, pixels: torch.Tensor, targets: torch.Tensor, stage: int, others: torch.Tensor | float
) -> torch.Tensor:
    """Sum of maps weighted by the score of the image under them; only the strongest. Wang et al. 2020."""
    to_maps, shape = maps_of_stage(model, stage), model.preprocessing.shape
    results = []
    with torch.no_grad():
        for index, (image, target) in enumerate(zip(pixels.float(), targets, strict=True)):
            constant = others[index] if isinstance(others, torch.Tensor) else others
            maps = to_maps(model.activations(image[None], stage + 1).values)[0]
            strongest = maps[maps.flatten(1).std(dim=1).topk(min(_MASKS, len(maps))).indices]
            masks = functional.interpolate(strongest[None], size=shape, mode="bilinear")[0]
            low, high = masks.amin(dim=(1, 2), keepdim=True), masks.amax(dim=(1, 2), keepdim=True)
            masks = (masks - low) / (high - low).clamp_min(torch.finfo(masks.dtype).tiny)
            base = model.mean.expand(1, -1, *shape)
            masked = torch.cat([base, base + masks[:, None] * (image - base)])
            scores = torch.cat([
                _log_odds(model, model(batch) + constant, target.expand(len(batch)))
                for batch in torch.split(masked, images_at_once(model))
            ])  # fmt: skip
            weight = (scores[1:] - scores[0]).softmax(dim=0)
            results.append((weight[:, None, None] * strongest).sum(dim=0))
    return torch.stack(results)


def _pixel_contributions(model: Classifier, pixels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Integrated gradients from the mean color to the image, (N, S, S). Sundararajan et al. 2017."""
    # The mean color of several backbones is that of each on average.
    mean = torch.stack([member.mean for member in model.members or (model,)]).mean(dim=0)
    results = []
    for image, target in zip(pixels.float(), targets, strict=True):
        difference = image - mean[0]
        steps = (torch.arange(_STEPS, device=image.device) + 0.5) / _STEPS
        total = torch.zeros_like(image)
        for batch in torch.split(steps, images_at_once(model)):
            with torch.enable_grad():
                points = (mean + batch[:, None, None, None] * difference).requires_grad_()
                scores = _log_odds(model, model(points), target.expand(len(batch)))
                (gradient,) = torch.autograd.grad(scores.sum(), points)
            total += gradient.sum(dim=0)
        results.append((total / _STEPS * difference).sum(dim=0))
    return torch.stack(results)


_FROM_GRADIENT: Mapping[Method, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "gradcam": _gradcam, "gradcam++": _gradcam_plus_plus, "hirescam": _hirescam, "layercam": _layercam,
    "eigencam": _eigencam,
}  # fmt: skip


def compute(
    model: Classifier,
    pixels: torch.Tensor,
    targets: torch.Tensor,
    method: Method,
    stage: int,
    others: torch.Tensor | float = 0.0,
) -> torch.Tensor:
    """Signed maps (n, H, W) of a batch by one method, with `others` added to the logits."""
    if method == "scorecam":
        return _scorecam(model, pixels, targets, stage, others)
    if method == "integrated-gradients":
        # Neighboring pixels have opposite signs; their smoothed sum shows the contribution of a region.
        return smooth(_pixel_contributions(model, pixels, targets), min(pixels.shape[2:]) // 16)
    return _FROM_GRADIENT[method](*_stage_gradient(model, pixels, targets, stage, others))
