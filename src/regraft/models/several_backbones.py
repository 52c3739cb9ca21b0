"""Several backbones side by side, which a `Classifier` uses as if they were one.

Input: images in 0..1, (N, C, S, S), where S is the largest size of a member. Output: the members' features side by
side, (N, F). Each member resizes and normalizes for itself, inside the graph, so that exports contain it. To training
and prediction the whole is a single stage: it is frozen, and its members are fine-tuned as classifiers of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from regraft.data.preprocessing import Preprocessing
from regraft.models.options import Pooling
from regraft.models.registry import BackboneSpec
from regraft.models.staged import StagedNetwork
from regraft.models.stages import Stage
from regraft.models.weights import WeightsRecord, build_backbone


class SeveralBackbones(nn.Module):
    """Members whose features stand side by side."""

    def __init__(self, members: Sequence[StagedNetwork]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.size = max(_side(member.preprocessing) for member in members)
        for index, member in enumerate(members):
            matrix = resizing_matrix(self.size, _side(member.preprocessing), member.preprocessing.interpolation)
            self.register_buffer(f"resizing_{index}", matrix, persistent=False)

    def networks(self) -> tuple[StagedNetwork, ...]:
        """The members, in order."""
        return tuple(self.members)  # type: ignore[arg-type]  # a ModuleList forgets the type

    def inputs(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Images in 0..1, (N, C, S, S), as each member takes them: pixels in 0..255, (N, C, S_i, S_i)."""
        return [255 * _resize(values, getattr(self, f"resizing_{index}")) for index in range(len(self.members))]

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Images in 0..1, (N, C, S, S), to features (N, F)."""
        return torch.cat(
            [member(pixels) for member, pixels in zip(self.members, self.inputs(values), strict=True)], dim=1
        )

    def blocks(self) -> list[slice]:
        """Which of the features are each member's."""
        ends = torch.tensor([member.features for member in self.networks()]).cumsum(0).tolist()
        return [slice(end - member.features, end) for member, end in zip(self.networks(), ends, strict=True)]

    def stages(self) -> list[Stage]:
        """The whole as a single stage; layers have their names in this module."""
        modules: list[tuple[str, nn.Module]] = []
        parameters: list[tuple[str, nn.Parameter]] = []
        for index, member in enumerate(self.networks()):
            prefix = f"members.{index}.backbone"
            for stage in member.stages:
                modules += [(f"{prefix}.{name}", module) for name, module in stage.modules]
                parameters += [(f"{prefix}.{name}", values) for name, values in stage.parameters_outside_modules]
        shape = (sum(member.features for member in self.networks()),)
        return [Stage("backbones", self, tuple(modules), shape, parameters_outside_modules=tuple(parameters))]

    def get_config(self) -> list[dict[str, Any]]:
        """Plain values of each member, from which `members_from_config` builds it without its weights."""
        return [
            {
                "name": member.spec.name,
                "timm_name": member.spec.timm_name,
                "stages": member.parts_by_stage,
                "preprocessing": member.preprocessing.to_json(),
            }
            for member in self.networks()
        ]


def several_from_config(
    spec: BackboneSpec, config: Sequence[dict[str, Any]], pooling: Pooling, weights: WeightsRecord
) -> SeveralBackbones:
    """Build what `get_config` describes, with random weights."""
    members = []
    for index, (member, one) in enumerate(zip(spec.members, config, strict=True)):
        preprocessing = Preprocessing.from_json(one["preprocessing"])
        network, _ = build_backbone(member, "none", preprocessing.size, preprocessing.channels)
        record = weights.members[index] if weights.members else weights
        members.append(
            StagedNetwork(
                member, network, preprocessing, pooling=pooling, weights=record,
                head_stages=one["stages"],
            )
        )  # fmt: skip
    return SeveralBackbones(members)


def preprocessing_of(backbone: SeveralBackbones) -> Preprocessing:
    """The preprocessing that all members share: the largest size, and values from 0 to 1."""
    largest = max((member.preprocessing for member in backbone.networks()), key=_side)
    return replace(largest, mean=(0.0,) * largest.channels, std=(1.0,) * largest.channels)


def _side(preprocessing: Preprocessing) -> int:
    """Side of the input, which is a square for each of several backbones."""
    height, width = preprocessing.shape
    assert height == width
    return height


def resizing_matrix(before: int, after: int, interpolation: str) -> torch.Tensor | None:
    """The matrix (after, before) whose product with a column of pixels resizes it, antialiased; None for equal sizes.

    As PyTorch interpolates; what it has no antialiasing for (nearest, lanczos) is interpolated bicubically.
    """
    if before == after:
        return None
    mode = interpolation if interpolation in ("bilinear", "bicubic") else "bicubic"
    columns = torch.eye(before)[None, None]
    resized = functional.interpolate(columns, size=(after, before), mode=mode, antialias=True, align_corners=False)
    return resized[0, 0].contiguous()


def _resize(values: torch.Tensor, matrix: torch.Tensor | None) -> torch.Tensor:
    if matrix is None:
        return values
    if torch.is_autocast_enabled(values.device.type):  # bfloat16 has too few digits for pixels
        with torch.autocast(values.device.type, enabled=False):
            return _product(values.float(), matrix)
    return _product(values, matrix)


def _product(values: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Resize both axes; the interpolation may leave 0..1, which pixels do not."""
    return (matrix @ (values @ matrix.T)).clamp(0, 1)
