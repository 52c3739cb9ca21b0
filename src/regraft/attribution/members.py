"""Heat maps of a classifier of several backbones: one of each backbone, and their sum.

A backbone's map explains the log-odds of the whole model, with what the other backbones add to the logits held fixed,
at the last stage of the backbone that has positions. Most methods give contributions, which are divided by the area of
a cell and then have one unit; the maps of EigenCAM and Score-CAM, which have none, are divided by their maximum.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from regraft.attribution.cam import compute, default_stage, grid_of, images_at_once, normalize, upsample
from regraft.attribution.methods import Method
from regraft.errors import UsageError
from regraft.models.classifier import Classifier
from regraft.models.several_backbones import SeveralBackbones
from regraft.models.torch_defaults import torch_defaults

#: Methods whose maps have no unit.
_UNITLESS: tuple[Method, ...] = ("eigencam", "scorecam")


class MemberMaps(NamedTuple):
    """Float32 maps on the CPU, in [0, 1]: of all backbones together, (N, S, S), and of each, by its name.

    Those of the backbones have one scale, on which the strongest has the maximum 1.
    """

    total: torch.Tensor
    members: dict[str, torch.Tensor]


@torch_defaults()
def explain_members(model: Classifier, pixels: torch.Tensor, targets: torch.Tensor, *, method: Method) -> MemberMaps:
    """Explain as `explain_pixels` does, each backbone for itself, by any method that explains a stage.

    A backbone without spatial positions has no map. Raises `UsageError` if that holds for all of them.
    """
    assert isinstance(model.backbone, SeveralBackbones)
    targets = targets.clone()  # a tensor of the caller's inference mode has no gradients
    was_training = model.training
    model.eval()
    try:
        members = [model.member(index) for index in range(len(model.members))]
        stages = dict(_spatial(members, method))
        total: list[torch.Tensor] = []
        alone: dict[str, list[torch.Tensor]] = {members[index].spec.name: [] for index in stages}
        at_once = images_at_once(model)
        batches = (torch.split(values.to(model.mean.device), at_once) for values in (pixels, targets))
        for batch, batch_targets in zip(*batches, strict=True):
            maps = _maps(model.backbone, members, stages, batch, batch_targets, method, model.preprocessing.shape)
            total.append(normalize(maps.sum(dim=0)))
            scale = maps.clamp_min(0).amax(dim=(0, 2, 3), keepdim=True)
            scaled = maps.clamp_min(0) / scale.clamp_min(torch.finfo(maps.dtype).tiny)
            for own, one in zip(alone.values(), scaled, strict=True):
                own.append(one)
        return MemberMaps(torch.cat(total).cpu(), {name: torch.cat(maps).cpu() for name, maps in alone.items()})
    finally:
        model.train(was_training)


def _spatial(members: list[Classifier], method: Method) -> list[tuple[int, int]]:
    """Number and explained stage of each backbone that has positions."""
    found = []
    for index, member in enumerate(members):
        try:
            found.append((index, default_stage(member, method)))
        except UsageError:
            continue
    if not found:
        raise UsageError(f"No backbone has a stage with spatial axes, which {method} needs. Use integrated-gradients.")
    return found


def _maps(
    backbone: SeveralBackbones,
    members: list[Classifier],
    stages: dict[int, int],
    pixels: torch.Tensor,
    targets: torch.Tensor,
    method: Method,
    shape: tuple[int, int],
) -> torch.Tensor:
    """Signed maps (M, N, S, S) of the backbones with positions, in one unit."""
    with torch.no_grad():
        inputs = backbone.inputs(pixels.float() / 255)
        logits = [member(own) for member, own in zip(members, inputs, strict=True)]
        total = torch.stack(logits).sum(dim=0)
    maps = []
    for index, stage in stages.items():
        member = members[index]
        values = compute(member, inputs[index], targets, method, stage, total - logits[index])
        if method in _UNITLESS:
            values = normalize(values)
        else:
            rows, columns = grid_of(member, stage) or (1, 1)
            values = values * rows * columns
        maps.append(upsample(values, shape))
    return torch.stack(maps)
