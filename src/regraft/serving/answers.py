"""What answers look like: one description for the responses and for the OpenAPI document."""

from __future__ import annotations

import base64
import io
from functools import cache
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from regraft.serving.service import Outcome, ServedModel

#: How much of the image the strongest evidence hides, and from which share of it on colour begins.
_OPAQUE, _LEAST = 0.72, 0.1


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ClassProbability(_Value):
    """A class with its probability."""

    label: str
    probability: float = Field(ge=0, le=1, description="calibrated on the validation images")


class HeatMap(_Value):
    """Where the evidence for a class lies."""

    label: str = Field(description="whose evidence")
    method: str = Field(description="how it was found", examples=["gradcam"])
    width: int = Field(ge=1, description="of both pictures, in pixels")
    height: int = Field(ge=1)
    image: str = Field(description="the upright image, JPEG in base64")
    heat: str = Field(description="to be laid over it, PNG with transparency in base64")


class ImageAnswer(_Value):
    """The answer for one image; either `error`, or the rest."""

    name: str | None = Field(default=None, description="the file's name, where one was sent")
    error: str | None = Field(default=None, description="why it could not be read")
    label: str | None = Field(default=None, description="the likeliest class; null where the image is unknown")
    confidence: float | None = Field(default=None, ge=0, le=1, description="probability of the likeliest class")
    familiarity: float | None = Field(
        default=None, ge=0, le=1, description="share of the validation images that were at least as strange"
    )
    sure: bool | None = Field(default=None, description="false: better said as `not sure`")
    unknown: bool | None = Field(default=None, description="true: it shows something else")
    top: list[ClassProbability] | None = Field(default=None, description="the likeliest classes, best first")
    heat_map: HeatMap | None = None


class PredictAnswer(_Value):
    """The answers, one an image, in the order of the request."""

    model: str
    version: str
    images: list[ImageAnswer]


class Fact(_Value):
    """A line of what is told of a model."""

    title: str
    text: str


class ModelDescription(_Value):
    """A model that is served."""

    name: str
    version: str = Field(description="the first digits of the SHA-256 of its weights")
    engine: str = Field(description="what runs it", examples=["torch"])
    classes: list[str]
    image_size: int = Field(description="side in pixels of what the network reads")
    explains: bool = Field(description="whether there are heat maps")
    sure_from: float | None = Field(description="confidence from which an answer is sure")
    unknown_below: float | None = Field(description="familiarity at or below which an image is unknown")
    facts: list[Fact]
    has_card: bool


class ModelsAnswer(_Value):
    """All models; the first is the one that answers where none is named."""

    models: list[ModelDescription]
    images: int = Field(description="of one request at most")
    body_bytes: int = Field(description="of one request at most")


class Fault(_Value):
    """One parameter that is not as it should be."""

    where: str
    what: str


class ProblemBody(BaseModel):
    """An error, RFC 9457."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(ge=400, le=599)
    detail: str = Field(description="what was received, what was expected, what to do")
    request_id: str = Field(description="as in the header X-Request-ID and in the log")
    errors: list[Fault] | None = None
    images: list[ImageAnswer] | None = Field(default=None, description="where not one image could be read: why")
    error: str | None = Field(default=None, description="the detail again, under /v2")


def describe(outcome: Outcome, model: ServedModel, name: str | None, count: int) -> dict[str, Any]:
    """One image's answer as plain values, the fields of `ImageAnswer` that it has.

    Args:
        outcome: What came of it.
        model: Which answered.
        name: Of the file.
        count: Classes to name.
    """
    value: dict[str, Any] = {} if name is None else {"name": name}
    value |= model.doubt.to_json(outcome.prediction, min(count, len(model.engine.classes)))
    if outcome.heat is not None:
        value["heat_map"] = _heat_map(outcome, model)
    return value


def _heat_map(outcome: Outcome, model: ServedModel) -> dict[str, Any]:
    assert outcome.heat is not None
    with Image.open(io.BytesIO(outcome.picture)) as image:
        width, height = image.size
    heat = np.clip(model.engine.preprocessing.laid_back(outcome.heat, width, height), 0, 1)
    return {
        "label": outcome.prediction.label,
        "method": "gradcam",
        "width": width,
        "height": height,
        "image": base64.b64encode(outcome.picture).decode(),
        "heat": base64.b64encode(_coloured(heat)).decode(),
    }


def _coloured(heat: np.ndarray) -> bytes:
    """A map in [0, 1], (H, W), as a PNG: the more evidence, the brighter and the less transparent."""
    share = np.clip((heat - _LEAST) / (1 - _LEAST), 0, 1)
    opacity = np.rint(255 * _OPAQUE * np.sqrt(share)).astype(np.uint8)
    file = io.BytesIO()
    colours = _colours()[np.rint(255 * heat).astype(np.uint8)]
    Image.fromarray(np.dstack([colours, opacity]), "RGBA").save(file, "PNG", compress_level=1)
    return file.getvalue()


@cache
def _colours() -> np.ndarray:
    """Even in lightness, and readable with any colour vision: matplotlib's inferno, uint8 (256, 3)."""
    import matplotlib

    return np.asarray(np.rint(matplotlib.colormaps["inferno"](np.arange(256))[:, :3] * 255), np.uint8)
