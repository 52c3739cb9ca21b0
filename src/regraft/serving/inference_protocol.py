"""The Open Inference Protocol, version 2 (https://github.com/kserve/open-inference-protocol), over HTTP.

Enters: a `Service`. Leaves: its addresses under `/v2`. The one input is `images`: BYTES, image files in base64; the
outputs are `probabilities` (FP64), `label` (BYTES) and, where the model knows it, `familiarity` (FP64).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from regraft.serving.intake import Upload, check_count, from_base64, parse_json
from regraft.serving.openapi import INFER_SAMPLES, infer_body, problems
from regraft.serving.problems import Problem, printable
from regraft.serving.service import Outcome, ServedModel, Service

PUBLIC = frozenset(("/v2/health/live", "/v2/health/ready"))
_INPUT, _OUTPUTS = "images", ("probabilities", "label", "familiarity")


class Live(BaseModel):
    """Whether the server runs."""

    live: bool


class Ready(BaseModel):
    """Whether it takes requests."""

    ready: bool


class ServerMetadata(BaseModel):
    """What the server is."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """What goes in or comes out."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """What a model is."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(BaseModel):
    """Whether a model takes requests."""

    name: str
    ready: bool


class Tensor(BaseModel):
    """Numbers or texts in row-major order."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float] | list[str]


class InferAnswer(BaseModel):
    """The answer of a model."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[Tensor]


def _whole(value: Any) -> Any:
    """2.0 is an integer in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    shape: list[Annotated[int, BeforeValidator(_whole)]]
    datatype: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    data: list[str] = Field(min_length=1)


class _Output(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class _Question(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    id: str = Field(default="", max_length=200)
    parameters: dict[str, Any] = Field(default_factory=dict)
    inputs: list[_Input] = Field(min_length=1, max_length=1)
    outputs: list[_Output] = Field(default_factory=list)


def router(images: int) -> APIRouter:
    """The addresses; `images` of one request at most."""
    found = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

    @found.get("", summary="Server metadata", response_model=ServerMetadata, responses=problems(401))
    async def server() -> Response:
        return JSONResponse({"name": "regraft", "version": version("regraft"), "extensions": []})

    @found.get("/health/live", summary="Is the server running?", response_model=Live)
    async def live() -> Response:
        return JSONResponse({"live": True})

    @found.get("/health/ready", summary="Does it take requests?", response_model=Ready, responses=problems(503))
    async def ready(request: Request) -> Response:
        _service(request).check_ready()
        return JSONResponse({"ready": True})

    def both(path: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """At the model's address and at that of its version."""
        method = options.pop("method", "GET")

        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            for prefix, which in (("/models/{name}", ""), ("/models/{name}/versions/{version}", "_version")):
                found.add_api_route(
                    prefix + path, function, methods=[method], operation_id=function.__name__ + which, **options
                )
            return function

        return add

    @both("", summary="Model metadata", response_model=ModelMetadata, responses=problems(401, 404, 503))
    async def model_metadata(request: Request) -> Response:
        return JSONResponse(_metadata(_model(request)))

    @both("/ready", summary="Is the model ready?", response_model=ModelReady, responses=problems(401, 404, 503))
    async def model_ready(request: Request) -> Response:
        return JSONResponse({"name": _model(request).name, "ready": True})

    @both(
        "/infer",
        method="POST",
        summary="Inference",
        response_model=InferAnswer,
        responses=problems(400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504),
        openapi_extra={"requestBody": infer_body(images), "x-codeSamples": INFER_SAMPLES},
    )
    async def infer(request: Request) -> Response:
        """Image files in base64 as one tensor of BYTES; if one of them cannot be read, the request fails."""
        service, model = _service(request), _model(request)
        service.check_room()
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" or "inference-header-content-length" in request.headers:
            raise Problem(
                415, f"Received the type {printable(kind)!r}; expected application/json, without binary tensors."
            )
        async with service.intake.body(request) as body:
            question = _question(parse_json(body))
            given = question.inputs[0]
            check_count(len(given.data), service.limits)
            uploads = [Upload(from_base64(text, f"inputs[0].data[{i}]")) for i, text in enumerate(given.data)]
            request.state.images = len(uploads)
            outcomes = await service.predict(model, uploads)
        return JSONResponse(_answer(question, model, outcomes))

    return found


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _model(request: Request) -> ServedModel:
    return _service(request).find(request.path_params["name"], request.path_params.get("version"))


def _metadata(model: ServedModel) -> dict[str, Any]:
    outputs = [
        {"name": "probabilities", "datatype": "FP64", "shape": [-1, len(model.engine.classes)]},
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
    ]
    if model.engine.knows_familiarity:
        outputs.append({"name": "familiarity", "datatype": "FP64", "shape": [-1]})
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": f"regraft_{model.engine.name}",
        "inputs": [{"name": _INPUT, "datatype": "BYTES", "shape": [-1]}],
        "outputs": outputs,
    }


def _question(value: Any) -> _Question:
    try:
        question = _Question.model_validate(value)
    except ValueError as error:
        faults = error.errors() if hasattr(error, "errors") else []
        told = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults[:5])
        raise Problem(422, f"The body is no inference request: {told or error}.") from None
    given = question.inputs[0]
    if given.name != _INPUT or given.datatype != "BYTES" or given.shape != [len(given.data)]:
        raise Problem(
            422,
            f"Received the input {given.name!r} of {given.datatype} and shape {given.shape[:8]} with {len(given.data)} "
            f"values; expected {_INPUT!r} of BYTES and shape [{len(given.data)}].",
        )
    for output in question.outputs:
        if output.name not in _OUTPUTS:
            raise Problem(422, f"There is no output {output.name!r}; there is {', '.join(_OUTPUTS)}.")
    return question


def _answer(question: _Question, model: ServedModel, outcomes: list[Outcome]) -> dict[str, Any]:
    for i, outcome in enumerate(outcomes):
        if outcome.prediction.error is not None:
            raise Problem(422, f"inputs[0].data[{i}] cannot be read: {outcome.prediction.error}.", name="unreadable")
    answers, count = [outcome.prediction for outcome in outcomes], len(outcomes)
    made: Mapping[str, dict[str, Any]] = {
        "probabilities": {
            "datatype": "FP64",
            "shape": [count, len(model.engine.classes)],
            "data": [float(p) for answer in answers for p in answer.probabilities],
        },
        "label": {"datatype": "BYTES", "shape": [count], "data": [answer.label for answer in answers]},
    }
    if model.engine.knows_familiarity:
        data = [answer.familiarity for answer in answers]
        made = {**made, "familiarity": {"datatype": "FP64", "shape": [count], "data": data}}
    wanted = [output.name for output in question.outputs] or list(made)
    if missing := [name for name in wanted if name not in made]:
        raise Problem(422, f"{model.name} does not know {missing[0]}.")
    value: dict[str, Any] = {
        "model_name": model.name,
        "model_version": model.version,
        "outputs": [{"name": name, **made[name]} for name in wanted],
    }
    if question.id:
        value["id"] = question.id
    return value
