"""The settings of experiment tracking, which change no result of a training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from regraft.option_errors import usage_errors

TrackerName = Literal["tensorboard", "wandb", "mlflow"]


def _split_names(value: Any) -> Any:
    """Return `"a"`, `"a,b"` or `["a", "b", "a"]` as distinct names in order."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)):
        return value
    return tuple(dict.fromkeys(name.strip() if isinstance(name, str) else name for name in names if name != ""))


@usage_errors
@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class TrackingOptions:
    """Where a training is tracked."""

    to: Annotated[
        tuple[TrackerName, ...],
        BeforeValidator(_split_names),
        Field(description="in addition to the run's folder: tensorboard, wandb, mlflow, or a list of several"),
    ] = ()
