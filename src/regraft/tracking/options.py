"""What can be set about tracking. None of it changes a number of the training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

TrackerName = Literal["tensorboard", "wandb", "mlflow"]


def _one_or_several(value: Any) -> Any:
    """`"a"`, `"a,b"` and `["a", "b", "a"]` as distinct names in order."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)):
        return value
    return tuple(dict.fromkeys(name.strip() if isinstance(name, str) else name for name in names if name != ""))


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class TrackingOptions:
    """Where else a training is told, while it goes on."""

    to: Annotated[
        tuple[TrackerName, ...],
        BeforeValidator(_one_or_several),
        Field(description="beside the run's folder: tensorboard, wandb, mlflow, or several of them as a list"),
    ] = ()
