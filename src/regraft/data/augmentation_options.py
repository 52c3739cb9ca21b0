"""Options of the augmentation of training images; `augmentation` applies them."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from regraft.errors import check_names
from regraft.option_errors import usage_errors

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
