"""The JSON of requests and responses, as values and as schemas for the OpenAPI document."""

from __future__ import annotations

import base64
import io
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from regraft.data.labels import Task
from regraft.serving.batching import Answer
from regraft.serving.service import ServedModel

#: Largest opacity of a heat map, and the value in [0, 1] from which on it is visible.
_MAX_OPACITY, _MIN_HEAT = 0.72, 0.1


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ClassProbability(_Value):
    """A class and its probability."""

    label: str
    probability: float = Field(ge=0, le=1, description="calibrated on the validation images")
    threshold: float | None = Field(
        default=None, description="probability from which on an image that may have any number of labels has this one"
    )


class LabelHeat(_Value):
    """The regions of the image that support another of its labels, or a lower number."""

    label: str
    heat: str = Field(description="the overlay, PNG with transparency in base64")


class HeatMap(_Value):
    """The regions of the image that support a class, or a higher number."""

    label: str = Field(description="the explained class; of a number `higher`, and among the others `lower`")
    method: str = Field(description="attribution method", examples=["gradcam"])
    width: int = Field(ge=1, description="width of both images in pixels")
    height: int = Field(ge=1, description="height of both images in pixels")
    image: str = Field(description="the upright image, JPEG in base64")
    heat: str = Field(description="the overlay, PNG with transparency in base64")
    others: list[LabelHeat] | None = Field(
        default=None,
        description="of an image that may have any number of labels its others, most likely first; of a number `lower`",
    )


class ImageAnswer(_Value):
    """The prediction for an image, or `error`."""

    name: str | None = Field(default=None, description="file name, if one was sent")
    error: str | None = Field(default=None, description="why the image cannot be read")
    label: str | None = Field(
        default=None,
        description="most likely class, or the node above it that is sure enough; null if the image is "
        "out-of-distribution",
    )
    confidence: float | None = Field(default=None, ge=0, le=1, description="probability of the label")
    labels: list[ClassProbability] | None = Field(
        default=None,
        description="instead of label and confidence, the labels of an image that may have any number, most likely "
        "first; null if the image is out-of-distribution",
    )
    quantity: str | None = Field(default=None, description="what a model of numbers predicts", examples=["age"])
    value: float | None = Field(default=None, description="instead of label and confidence, the number of the image")
    interval: list[float] | None = Field(
        default=None, min_length=2, max_length=2, description="prediction interval of the number; null: there is none"
    )
    ood_p_value: float | None = Field(
        default=None, ge=0, le=1, description="share of the validation images that are at least as far from training"
    )
    accepted: bool | None = Field(default=None, description="false: the confidence is below the model's threshold")
    out_of_distribution: bool | None = Field(default=None, description="true: unlike the images of the training")
    top: list[ClassProbability] | None = Field(default=None, description="most likely classes, best first")
    levels: list[ClassProbability] | None = Field(
        default=None, description="with a tree of classes: the most likely node at each step from its top to a class"
    )
    heat_map: HeatMap | None = None


class PredictAnswer(_Value):
    """The predictions in the order of the request."""

    model: str
    version: str
    images: list[ImageAnswer]


class Fact(_Value):
    """A line about a model for people."""

    title: str
    text: str


class ModelDescription(_Value):
    """A served model."""

    name: str
    version: str = Field(description="first digits of the SHA-256 of the weights")
    engine: str = Field(description="runtime", examples=["torch"])
    precision: str = Field(description="numbers that the network computes with: fp32, fp16 or int8", examples=["fp32"])
    task: Task = Field(description="one class for an image, any number of labels, or a number")
    classes: list[str] = Field(description="names of the classes; of numbers that of the quantity")
    ordered: bool = Field(description="whether the classes have an order, in which they are listed, lowest first")
    thresholds: list[float] = Field(
        description="probability from which on an image has each class, if it may have any number; else empty"
    )
    half_width: float | None = Field(description="half the prediction interval of numbers; null: there is none")
    taxonomy: dict[str, str | None] | None = Field(
        description="the parent of every class and node of a tree, null at its top; null without a tree"
    )
    image_size: int | str = Field(description="side of the network's input in pixels, or height x width: 384x128")
    explains: bool = Field(description="whether heat maps are available")
    min_confidence: float | None = Field(description="lowest confidence of an accepted prediction")
    ood_threshold: float | None = Field(description="highest p-value of an out-of-distribution image")
    facts: list[Fact]
    has_card: bool


class ModelsAnswer(_Value):
    """All models; the first is the default."""

    models: list[ModelDescription]
    images: int = Field(description="largest number of images of a request")
    body_bytes: int = Field(description="largest size of a request body in bytes")


class Live(_Value):
    """Whether the server runs."""

    live: bool


class Ready(_Value):
    """Whether the server accepts requests."""

    ready: bool


class ServerMetadata(_Value):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(_Value):
    """An input or output."""

    name: str
    datatype: str
    shape: list[int]


class ModelParameters(_Value):
    """What the outputs of a model mean."""

    task: Task = Field(description="one class for an image, any number of labels, or a number")
    ordered: bool = Field(description="whether the classes have an order, the lowest first in `probabilities`")


class ModelMetadata(_Value):
    """A model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: ModelParameters


class ModelReady(Ready):
    """Whether a model accepts requests."""

    name: str


class Tensor(TensorMetadata):
    """Numbers or strings in row-major order."""

    data: list[bool] | list[float] | list[str]


class InferAnswer(_Value):
    """The outputs of a model."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[Tensor]


def _to_int(value: Any) -> Any:
    """2.0 is an integer in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    parameters: dict[str, Any] = Field(default_factory=dict)


class InferInput(_Strict):
    """Image files in base64."""

    name: Literal["images"]
    shape: list[Annotated[int, BeforeValidator(_to_int), Field(ge=1)]] = Field(
        min_length=1, max_length=1, description="number of images"
    )
    datatype: Literal["BYTES"]
    data: list[Annotated[str, Field(json_schema_extra={"format": "image-base64"})]] = Field(min_length=1)


class InferOutput(_Strict):
    """An output that is asked for."""

    name: Literal["probabilities", "label", "indicators", "value", "interval", "ood_p_value"]


class InferRequest(_Strict):
    """Images for a model; `outputs` selects outputs, by default all."""

    id: str = Field(default="", max_length=200)
    inputs: list[InferInput] = Field(min_length=1, max_length=1)
    outputs: list[InferOutput] = Field(default_factory=list)


class Fault(_Value):
    """An invalid parameter."""

    where: str
    what: str


class ProblemBody(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(ge=400, le=599)
    detail: str = Field(description="what was received, what was expected, what to do")
    request_id: str = Field(description="as in the header X-Request-ID and in the server's log")
    errors: list[Fault] | None = None
    images: list[ImageAnswer] | None = Field(default=None, description="the reason for each image if none can be read")
    error: str | None = Field(default=None, description="the detail again, under /v2")


def describe(answer: Answer, model: ServedModel, name: str | None, count: int) -> dict[str, Any]:
    """The fields of an `ImageAnswer` that are set, with the `count` most likely classes."""
    value: dict[str, Any] = {} if name is None else {"name": name}
    value |= model.rejection_policy.to_json(answer.prediction, min(count, len(model.engine.classes)))
    if answer.heats:
        with Image.open(io.BytesIO(answer.thumbnail)) as image:
            width, height = image.size
        to_image = model.engine.preprocessing.map_to_image
        first, *others = (
            {"label": label, "heat": base64.b64encode(_overlay(np.clip(to_image(heat, width, height), 0, 1))).decode()}
            for label, heat in answer.heats.items()
        )
        value["heat_map"] = {
            **first, "method": "gradcam", "width": width, "height": height,
            "image": base64.b64encode(answer.thumbnail).decode(),
            **({"others": others} if answer.prediction.thresholds or answer.prediction.value is not None else {}),
        }  # fmt: skip
    return value


def _overlay(heat: np.ndarray) -> bytes:
    """A map in [0, 1], (H, W), as a PNG that is brighter and less transparent where the values are higher."""
    visible = np.clip((heat - _MIN_HEAT) / (1 - _MIN_HEAT), 0, 1)
    opacity = np.rint(255 * _MAX_OPACITY * np.sqrt(visible)).astype(np.uint8)
    file = io.BytesIO()
    colors = _colors()[np.rint(255 * heat).astype(np.uint8)]
    Image.fromarray(np.dstack([colors, opacity]), "RGBA").save(file, "PNG", compress_level=1)
    return file.getvalue()


@cache
def _colors() -> np.ndarray:
    """Matplotlib's inferno, which is readable with any color vision: uint8 (256, 3)."""
    import matplotlib

    return np.asarray(np.rint(matplotlib.colormaps["inferno"](np.arange(256))[:, :3] * 255), np.uint8)
