"""A pretrained network that is cut into stages, and what a head reads of it.

Input: uint8 pixels (N, C, S, S). Output: features (N, F). Normalization is part of the network. `activations` runs the
stages below a freeze boundary, `forward_tail` those above it. The head may read several stages: the pooled outputs of
lower stages (the taps) are passed on beside the activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

from regraft.data.preprocessing import Preprocessing
from regraft.models.options import Pooling
from regraft.models.registry import BackboneSpec
from regraft.models.stages import Stage, split_stages
from regraft.models.taps import HeadStages, TapPart, Taps, channels_of, choose_taps, find_taps, read_tap, token_layout
from regraft.models.weights import WeightsRecord


class StageOutput(NamedTuple):
    """Activations at a boundary: the last stage's output (N, ...), and taps (N, L), pooled outputs of lower stages."""

    values: torch.Tensor
    taps: torch.Tensor

    def to(self, device: torch.device) -> StageOutput:
        """Copy both tensors to a device."""
        return StageOutput(self.values.to(device, non_blocking=True), self.taps.to(device, non_blocking=True))


class StagedNetwork(nn.Module):
    """A backbone in stages, with its normalization and the taps that a head reads.

    Attributes:
        spec: Registry entry of the backbone.
        preprocessing: Conversion of an image file to the input.
        stages: Stages of the backbone, in order.
        taps: Indices of the stages that the head reads in addition to the last one.
        tap_parts: What the head reads of each of them.
        tokens: Layout of a transformer's tokens; None for other networks.
        weights: Source of the pretrained weights.
        channels_last_maps: Whether the maps of the backbone are (N, H, W, C).
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        spec: BackboneSpec,
        backbone: nn.Module,
        preprocessing: Preprocessing,
        *,
        pooling: Pooling = "avg",
        head_stages: HeadStages | Mapping[str, Sequence[TapPart]] = "last",
        weights: WeightsRecord | None = None,
        stages: Sequence[Stage] = (),
    ) -> None:
        """Split the backbone into stages, unless its stages are given.

        `head_stages` says which stages the head reads, as `choose_taps` has it, or what it reads of each by its name.
        """
        super().__init__()
        self.spec, self.preprocessing = spec, preprocessing
        self.pooling: Pooling = pooling
        self.weights = weights or WeightsRecord("none")
        self.backbone = backbone
        self.stages: list[Stage] = list(stages) or split_stages(
            backbone, preprocessing.shape, pooling=pooling, channels=preprocessing.channels
        )
        self.tokens = token_layout(backbone)
        if isinstance(head_stages, str):
            self.tap_parts: Taps = choose_taps(backbone, self.stages, head_stages, pooling)
        else:
            self.tap_parts = find_taps(head_stages, self.stages, self.tokens)
        self.taps = tuple(self.tap_parts)
        self.channels_last_maps = str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC")
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, -1, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, -1, 1, 1) * 255, persistent=False)

    @property
    def features(self) -> int:
        """F, features that the head reads."""
        return self.stages[-1].shape[0] + self.taps_below(len(self.stages))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (N, C, S, S), uint8 or float in 0..255, to features (N, F)."""
        return self.forward_tail(self.activations(pixels, len(self.stages)), len(self.stages))

    def activations(self, pixels: torch.Tensor, boundary: int) -> StageOutput:
        """Normalize the pixels and run the stages below `boundary`."""
        values = ((pixels.float() - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.run_stages(StageOutput(values, values.new_empty(values.shape[0], 0)), 0, boundary)

    def run_stages(self, inputs: StageOutput, first: int, last: int) -> StageOutput:
        """Run the stages `first` to `last` - 1 on the activations at `first`."""
        for index in range(first, last):
            inputs = self.append_taps(index, self.stages[index].forward(inputs.values), inputs.taps)
        return inputs

    def append_taps(self, index: int, values: torch.Tensor, taps: torch.Tensor) -> StageOutput:
        """Combine the output of stage `index` with the taps, to which it is added if the head reads this stage."""
        if index not in self.tap_parts:
            return StageOutput(values, taps)
        parts, channels_last = self.tap_parts[index], self.channels_last_maps
        tap = read_tap(values, parts, tokens=self.tokens, channels_last=channels_last)
        return StageOutput(values, torch.cat([taps, tap], dim=1))

    def forward_tail(self, inputs: StageOutput, boundary: int) -> torch.Tensor:
        """Run the stages from `boundary` on without the head: features (N, F), those of the last stage first."""
        values, taps = self.run_stages(inputs, boundary, len(self.stages))
        return torch.cat([values, taps], dim=1) if self.taps else values

    def taps_below(self, boundary: int) -> int:
        """Number L of features that the head reads from the stages below a boundary, except the last stage."""
        return sum(
            len(parts) * channels_of(self.stages[index], channels_last=self.channels_last_maps)
            for index, parts in self.tap_parts.items()
            if index < boundary
        )

    @property
    def head_stages(self) -> HeadStages:
        """The choice of stages that gives these taps."""
        choices: tuple[HeadStages, ...] = ("last", "all", "upper")
        taps = {name: choose_taps(self.backbone, self.stages, name, self.pooling) for name in choices}
        return next((name for name in choices if taps[name] == self.tap_parts), "upper")

    @property
    def parts_by_stage(self) -> dict[str, list[TapPart]]:
        """What the head reads of each tapped stage, by its name."""
        return {self.stages[index].name: list(parts) for index, parts in self.tap_parts.items()}

    @property
    def positions(self) -> tuple[int, int] | None:
        """Number of positions or patches and of their channels, if attention pools them; else None."""
        if self.pooling != "attention":
            return None
        channels = channels_of(self.stages[-2], channels_last=self.channels_last_maps)
        return self.stages[-1].shape[0] // channels, channels
