"""Heat maps: where in an image the evidence for a class lies.

Enters: a `Classifier` and pixels (N, 3, S, S). Leaves: maps (N, S, S) in [0, 1]. A model that is cut into stages needs
no hooks: the stages below the one that is looked at run without gradients, those above it with, and only the gradient
of its output is asked for, so that nothing is left behind in the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch.nn import functional

from regraft.attribution.methods import METHODS, Method
from regraft.errors import UnknownNameError, UsageError
from regraft.models.classifier import Classifier

#: Steps from the mean colour to the image (integrated gradients), and maps that mask the image (Score-CAM).
_STEPS, _MASKS = 64, 64
#: Images of one pass with gradients.
_BATCH = 16


class _Seen(NamedTuple):
    """A stage's output as maps, and the gradient of the classes' scores by it, both (N, C, H, W)."""

    maps: torch.Tensor
    gradient: torch.Tensor


def explain_pixels(
    model: Classifier, pixels: torch.Tensor, targets: torch.Tensor, *, method: Method, stage: int | None = None
) -> torch.Tensor:
    """Where the evidence for a class of each image lies.

    Args:
        model: In any mode; it is used for inference, left as it was, and keeps no gradient.
        pixels: uint8 or float in 0..255, (N, 3, S, S).
        targets: Number of the class for each image, int64 (N,).
        method: One of `METHODS`.
        stage: Index of the stage whose output is looked at; None: `default_stage`.

    Returns:
        float32 (N, S, S) on the CPU, in [0, 1]; the largest value of each map is 1, or all are 0 where nothing speaks
        for the class.

    Raises:
        UsageError: The stage's output has no places, or there is no such method.
    """
    if method not in METHODS:
        raise UnknownNameError("method", method, list(METHODS))
    was_training = model.training
    model.eval()
    try:
        if stage is None:
            stage = default_stage(model, method)
        made = [
            _normed(_upsampled(_BY_NAME[method](model, some, wanted, stage), model.preprocessing.size))
            for some, wanted in zip(
                torch.split(pixels.to(model.mean.device), _BATCH),
                torch.split(targets.to(model.mean.device), _BATCH),
                strict=True,
            )
        ]
        return torch.cat(made).cpu() if made else torch.zeros(0, *pixels.shape[2:])
    finally:
        model.train(was_training)


def smoothed(maps: torch.Tensor, reach: int) -> torch.Tensor:
    """Maps (N, S, S) averaged over neighbours up to `reach` pixels away, twice, which leaves no corners."""
    for down, right in ((reach, 0), (0, reach)) * (2 if reach else 0):
        size = (2 * down + 1, 2 * right + 1)
        maps = functional.avg_pool2d(maps[:, None], size, 1, (down, right), count_include_pad=False)[:, 0]
    return maps


def find_stage(model: Classifier, name: str) -> int:
    """The stage that a name means: its own, a familiar one, or that of a layer within it.

    Raises:
        UnknownNameError: There is none.
        UsageError: Its output has no places, such as a vector of features.
    """
    if not name or name in ("none", "all", "auto", "last") or name.lstrip("-").isdigit():
        raise UnknownNameError("stage", name, [stage.name for stage in model.stages])
    index = model.resolve(name)
    _grid(model, index)
    return index


def default_stage(model: Classifier, method: Method) -> int:
    """The stage that a method looks at: the last with places whose output the head's answer depends on at every place.

    Of a transformer whose head reads the class token alone, that is the stage before the last block: behind it the
    other tokens go nowhere. Integrated gradients look at the pixels: 0.

    Raises:
        UsageError: The backbone has no stage with places.
    """
    if method == "integrated-gradients":
        return 0
    side = model.preprocessing.size
    pixels = torch.full((1, 3, side, side), 128.0, device=model.mean.device)
    for index in reversed(range(len(model.stages))):
        if not _has_places(model, index):
            continue
        seen = _look(model, pixels, torch.zeros(1, dtype=torch.int64, device=pixels.device), index)
        if bool((seen.gradient.abs().amax(dim=1) > 0).float().mean() > 0.5):
            return index
    raise UsageError(
        f"{model.spec.name} has no stage with places, which {method} needs. Expected method integrated-gradients."
    )


# What the methods look at.


def _look(model: Classifier, pixels: torch.Tensor, targets: torch.Tensor, stage: int) -> _Seen:
    """The stage's output and the gradient of the log-odds of each image's class."""
    with torch.no_grad():
        below = model.activations(pixels, stage)
        values = model.stages[stage].forward(below.values)
    with torch.enable_grad():
        values = values.detach().requires_grad_()
        logits = model.logits_from(model.above(stage, values, below.taps), stage + 1)
        scores = _log_odds(_unnormalised(model, logits), targets)
        (gradient,) = torch.autograd.grad(scores.sum(), values)
    to_maps = _grid(model, stage)
    return _Seen(to_maps(values.detach()), to_maps(gradient))


def _unnormalised(model: Classifier, logits: torch.Tensor) -> torch.Tensor:
    """Logarithms of what the head divides by its sum, (N, C); the temperature only scales them."""
    return logits if model.head.activation == "softmax" else functional.logsigmoid(logits)


def _log_odds(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Of each image's class against all others together, (N,): what sets it apart, not what all classes share."""
    chosen = targets[:, None]
    others = logits.scatter(1, chosen, float("-inf")).logsumexp(dim=1)
    return logits.gather(1, chosen)[:, 0] - others


def _has_places(model: Classifier, stage: int) -> bool:
    try:
        _grid(model, stage)
    except UsageError:
        return False
    return True


def _grid(model: Classifier, stage: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """What makes maps (N, C, H, W) of the stage's output.

    Raises:
        UsageError: It has no places.
    """
    shape = model.stages[stage].shape
    if len(shape) == 3 and min(shape[:2] if model.channels_last_maps else shape[1:]) > 1:
        return _channels_first if model.channels_last_maps else lambda values: values
    if len(shape) == 2:
        extra = int(getattr(model.backbone, "num_prefix_tokens", 0))
        side = round((shape[0] - extra) ** 0.5)
        if side > 1 and side * side == shape[0] - extra:
            return partial(_tokens, extra=extra, side=side)
    raise UsageError(
        f"{model.stages[stage].name} gives {' x '.join(map(str, shape))} numbers an image without places. "
        f"Expected one of {', '.join(s.name for s in model.stages if len(s.shape) > 1)}."
    )


def _channels_first(values: torch.Tensor) -> torch.Tensor:
    return values.permute(0, 3, 1, 2)


def _tokens(values: torch.Tensor, extra: int, side: int) -> torch.Tensor:
    places = values[:, extra:].transpose(1, 2)
    return places.reshape(*places.shape[:2], side, side)


def _upsampled(maps: torch.Tensor, side: int) -> torch.Tensor:
    """What is positive of maps (N, H, W), over (N, S, S) pixels."""
    maps = maps.clamp_min(0)
    if maps.shape[1:] == (side, side):
        return maps
    return functional.interpolate(maps[:, None], size=(side, side), mode="bicubic", align_corners=False)[:, 0]


def _normed(maps: torch.Tensor) -> torch.Tensor:
    """What is positive, divided by its maximum."""
    maps = maps.clamp_min(0)
    largest = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(largest > 0, maps / largest.clamp_min(torch.finfo(maps.dtype).tiny), 0.0)


# The methods; each gives (N, H, W), of which what is positive speaks for the class.


def _gradcam(model: Classifier, pixels: torch.Tensor, targets: torch.Tensor, stage: int) -> torch.Tensor:
    """Maps weighted by their mean gradient. Selvaraju et al. 2017."""
    maps, gradient = _look(model, pixels, targets, stage)
    return (maps * gradient.mean(dim=(2, 3), keepdim=True)).sum(dim=1)


def _gradcam_plus_plus(model: Classifier, pixels: torch.Tensor, targets: torch.Tensor, stage: int) -> torch.Tensor:
    """Maps weighted by positive gradients, the more where few places share one. Chattopadhay et al. 2018, eq. 19."""
    maps, gradient = _look(model, pixels, targets, stage)
    square = gradient.square()
    below = 2 * square + maps.sum(dim=(2, 3), keepdim=True) * square * gradient
    alpha = torch.where(gradient != 0, square / torch.where(below != 0, below, 1.0), 0.0)
    weight = (alpha * gradient.clamp_min(0)).sum(dim=(2, 3), keepdim=True)
    return (maps * weight).sum(dim=1)


def _hirescam(model: Classifier, pixels: torch.Tensor, targets: torch.Tensor, stage: int) -> torch.Tensor:
    """Maps times their gradient place by place: for a linear head what each place adds. Draelos and Carin 2020."""
    maps, gradient = _look(model, pixels, targets, stage)
    return (maps * gradient).sum(dim=1)


def _layercam(model: Classifier, pixels: torch.Tensor, targets: torch.Tensor, stage: int) -> torch.Tensor:
    """Maps times their positive gradient place by place, which also serves lower stages. Jiang et al. 2021."""
    maps, gradient = _look(model, pixels, targets, stage)
    return (maps * gradient.clamp_min(0)).sum(dim=1)


def _eigencam(model: Classifier, pixels: torch.Tensor, targets: torch.Tensor, stage: int) -> torch.Tensor:
    """The maps' first principal component, the same for every class. Muhammad and Yeasin 2020."""
    maps, _ = _look(model, pixels, targets, stage)
    places = maps.flatten(2).transpose(1, 2).double()  # (N, H W, C)
    centred = places - places.mean(dim=1, keepdim=True)
    if places.shape[1] <= places.shape[2]:  # of the two products the smaller
        values, vectors = torch.linalg.eigh(centred @ centred.transpose(1, 2))
        component = vectors[:, :, -1] * values[:, -1:].clamp_min(0).sqrt()
    else:
        _, vectors = torch.linalg.eigh(centred.transpose(1, 2) @ centred)
        component = (centred @ vectors[:, :, -1:])[:, :, 0]
    strength = places.norm(dim=2) - places.norm(dim=2).mean(dim=1, keepdim=True)
    sign = torch.where((component * strength).sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
    found: torch.Tensor = (component * sign).float().reshape(len(maps), *maps.shape[2:])
    return found


def _scorecam(model: Classifier, pixels: torch.Tensor, targets: torch.Tensor, stage: int) -> torch.Tensor:
    """Maps weighted by what the class scores when only they show the image; the strongest of them. Wang et al. 2020."""
    to_maps, side = _grid(model, stage), model.preprocessing.size
    made = []
    with torch.no_grad():
        for image, target in zip(pixels.float(), targets, strict=True):
            maps = to_maps(model.activations(image[None], stage + 1).values)[0]
            chosen = maps.flatten(1).std(dim=1).topk(min(_MASKS, len(maps))).indices
            masks = functional.interpolate(maps[None, chosen], size=(side, side), mode="bilinear")[0]
            low, high = masks.amin(dim=(1, 2), keepdim=True), masks.amax(dim=(1, 2), keepdim=True)
            masks = (masks - low) / (high - low).clamp_min(torch.finfo(masks.dtype).tiny)
            shown = torch.cat([model.mean.expand(1, 3, side, side), model.mean + masks[:, None] * (image - model.mean)])
            scores = torch.cat([
                _log_odds(_unnormalised(model, model(some)), target.expand(len(some)))
                for some in torch.split(shown, _BATCH)
            ])  # fmt: skip
            weight = (scores[1:] - scores[0]).softmax(dim=0)
            made.append((weight[:, None, None] * maps[chosen]).sum(dim=0))
    return torch.stack(made)


def _integrated_gradients(model: Classifier, pixels: torch.Tensor, targets: torch.Tensor, stage: int) -> torch.Tensor:
    """What each place adds on the way from the mean colour to the image. Sundararajan et al. 2017.

    Single pixels of either sign lie side by side; what a place adds is told by its neighbourhood.
    """
    return smoothed(_added(model, pixels, targets), pixels.shape[-1] // 16)


def _added(model: Classifier, pixels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """What each pixel adds to the score, (N, S, S), all together what the image does."""
    made = []
    for image, target in zip(pixels.float(), targets, strict=True):
        difference = image - model.mean[0]
        shares = (torch.arange(_STEPS, device=image.device) + 0.5) / _STEPS
        total = torch.zeros_like(image)
        for some in torch.split(shares, _BATCH):
            with torch.enable_grad():
                points = (model.mean + some[:, None, None, None] * difference).requires_grad_()
                scores = _log_odds(_unnormalised(model, model(points)), target.expand(len(some)))
                (gradient,) = torch.autograd.grad(scores.sum(), points)
            total += gradient.sum(dim=0)
        made.append((total / _STEPS * difference).sum(dim=0))
    return torch.stack(made)


_BY_NAME: Mapping[Method, Callable[[Classifier, torch.Tensor, torch.Tensor, int], torch.Tensor]] = {
    "gradcam": _gradcam,
    "gradcam++": _gradcam_plus_plus,
    "hirescam": _hirescam,
    "layercam": _layercam,
    "eigencam": _eigencam,
    "scorecam": _scorecam,
    "integrated-gradients": _integrated_gradients,
}
