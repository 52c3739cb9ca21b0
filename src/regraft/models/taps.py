"""What a head reads of the stages below the last, its taps: parts of their outputs, each averaged to a vector.

Input: a timm network and its stages. Output: the tapped stages with the parts that are read, and their values (N, L).
A transformer's class token, registers and patches are different things, so they are read one by one; of a map the mean
and the maximum are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from regraft.models.options import Pooling
from regraft.models.stages import Stage, ends_of_resolutions, is_transformer

#: The class token; the mean of the registers, of the patch tokens; mean and maximum over all positions or tokens.
TapPart = Literal["class", "registers", "patches", "mean", "max"]
HeadStages = Literal["upper", "all", "last"]
#: Tapped stages by index, rising, and what is read of each.
Taps = Mapping[int, tuple[TapPart, ...]]


@dataclass(frozen=True)
class TokenLayout:
    """The tokens of a transformer: a class token or none, registers, then a square of patches.

    `pooled` is the part that the network's own pooling returns; None if it is another function of the tokens.
    """

    class_token: bool
    registers: int
    patch_size: int  # pixels a side
    pooled: TapPart | None

    @property
    def prefix(self) -> int:
        """Number of tokens before the patches."""
        return int(self.class_token) + self.registers

    @property
    def parts(self) -> tuple[TapPart, ...]:
        """What `slice_of` finds."""
        prefix: list[TapPart] = ["class"] if self.class_token else []
        prefix += ["registers"] if self.registers else []
        return (*prefix, "patches")

    def slice_of(self, part: TapPart) -> slice:
        """The tokens of a part."""
        if part == "class":
            return slice(1)
        return slice(int(self.class_token), self.prefix) if part == "registers" else slice(self.prefix, None)


def token_layout(backbone: Any) -> TokenLayout | None:
    """The layout of a ViT or EVA; None for other networks."""
    if not is_transformer(backbone):
        return None
    has_class, pool = backbone.cls_token is not None, backbone.global_pool
    pooled: dict[str, TapPart] = {"token": "class", "avg": "patches" if backbone.num_prefix_tokens else "mean"}
    return TokenLayout(
        class_token=has_class,
        registers=backbone.num_prefix_tokens - has_class,
        patch_size=backbone.patch_embed.patch_size[0],
        pooled=pooled.get(pool) if getattr(backbone, "attn_pool", None) is None else None,
    )


def choose_taps(
    backbone: Any, stages: Sequence[Stage], wanted: HeadStages, pooling: Pooling
) -> dict[int, tuple[TapPart, ...]]:
    """The stages that the head reads in addition to the last, and what it reads of each.

    `upper`: of a network of maps, the last stages before a change of shape, at most four and none from the lowest
    third; of a transformer, the blocks at 1/2, 2/3 and 5/6 of its depth, and what the pooling leaves out of the last.
    `all`: every stage before a change of shape, or every block, whose registers are read, too. `last`: none. Empty if
    the network is a single stage.
    """
    body = [index for index, stage in enumerate(stages[:-1]) if len(stage.shape) > 1]
    if wanted == "last" or len(body) < 2:
        return {}
    ends, layout = ends_of_resolutions(stages), token_layout(backbone)
    if not ends and len(body) >= 6:
        ends = body[1:-1] if wanted == "all" else [body[len(body) * sixths // 6] for sixths in (3, 4, 5)]
    elif wanted == "upper":
        ends = [index for index in ends if index >= body[len(body) // 3]][-4:]
    if layout is None or not layout.prefix:
        return {index: ("mean", "max") for index in ends}
    parts: list[TapPart] = ["class"] if layout.class_token else []
    parts += ["registers"] if layout.registers and wanted == "all" else []
    parts.append("patches")
    taps = {index: tuple(parts) for index in ends}
    pooled = layout.pooled if pooling == "avg" else None
    rest = tuple(part for part in parts if part != pooled)
    return taps | {body[-1]: rest} if rest and pooling != "flatten" else taps  # flatten reads all tokens


def find_taps(
    named: Mapping[str, Sequence[TapPart]], stages: Sequence[Stage], tokens: TokenLayout | None
) -> dict[int, tuple[TapPart, ...]]:
    """Taps by the names of their stages. Raises `ValueError` if there is no such stage, or it has no such part."""
    parts = ["mean", "max", *(tokens.parts if tokens else ())]
    if wrong := {str(part) for own in named.values() for part in own} - set(parts):
        raise ValueError(f"the head reads {', '.join(sorted(wrong))} of stages that have {', '.join(parts)}")
    if absent := set(named) - {stage.name for stage in stages}:
        raise ValueError(f"the head reads the stages {', '.join(sorted(absent))}, which the backbone does not have")
    return {index: tuple(named[stage.name]) for index, stage in enumerate(stages) if stage.name in named}


def channels_of(stage: Stage, *, channels_last: bool) -> int:
    """Number of channels of a stage's map, or of its tokens."""
    return stage.shape[0 if len(stage.shape) == 3 and not channels_last else -1]


def read_tap(
    values: torch.Tensor, parts: Sequence[TapPart], *, tokens: TokenLayout | None, channels_last: bool
) -> torch.Tensor:
    """Parts of a stage's output side by side, (N, L)."""
    axes = (2, 3) if values.ndim == 4 and not channels_last else tuple(range(1, values.ndim - 1))
    read: list[torch.Tensor] = []
    for part in parts:
        if part == "mean":
            read.append(values.mean(axes))
        elif part == "max":
            read.append(values.amax(axes))
        else:
            assert tokens is not None
            read.append(values[:, tokens.slice_of(part)].mean(1))
    return torch.cat(read, dim=1)
