"""The Open Inference Protocol, version 2 (https://github.com/kserve/open-inference-protocol), over HTTP.

Input: requests under `/v2`; their one tensor is `images`: BYTES, image files in base64. Output: `probabilities` (FP64),
`label` (BYTES) and, if the model detects out-of-distribution images, `ood_p_value` (FP64). Of an image with any number
of labels `label` has all of them, with `|` between, and `indicators` (BOOL) says whether it has each class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from regraft.models.inference import Prediction, half_width_for
from regraft.serving.batching import Answer
from regraft.serving.http import schemas
from regraft.serving.http.openapi import PREDICT_STATUSES, problems
from regraft.serving.http.problem_details import Problem, printable
from regraft.serving.http.request_body import Upload, check_count, from_base64, parse_json
from regraft.serving.service import ServedModel, service_of

PUBLIC = frozenset(("/v2/health/live", "/v2/health/ready"))


def router() -> APIRouter:
    """The addresses."""
    routes = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

    @routes.get("", summary="Server metadata", response_model=schemas.ServerMetadata, responses=problems(401, 403))
    async def server() -> Response:
        return JSONResponse({"name": "regraft", "version": version("regraft"), "extensions": []})

    @routes.get("/health/live", summary="Is the server running?", response_model=schemas.Live)
    async def live() -> Response:
        return JSONResponse({"live": True})

    busy = problems(503)

    @routes.get("/health/ready", summary="Does it accept requests?", response_model=schemas.Ready, responses=busy)
    async def ready(request: Request) -> Response:
        service_of(request).check_ready()
        return JSONResponse({"ready": True})

    def add(path: str, function: Callable[..., Any], method: str = "GET", **options: Any) -> None:
        """Add the address of a model and that of its version."""
        for prefix, suffix in (("/models/{name}", ""), ("/models/{name}/versions/{version}", "_version")):
            options["operation_id"] = function.__name__ + suffix
            routes.add_api_route(prefix + path, function, methods=[method], **options)

    errors = problems(401, 403, 404, 503)
    add("", model_metadata, summary="Model metadata", response_model=schemas.ModelMetadata, responses=errors)
    add("/ready", model_ready, summary="Is the model ready?", response_model=schemas.ModelReady, responses=errors)
    infer: dict[str, Any] = {"response_model": schemas.InferAnswer, "responses": problems(*PREDICT_STATUSES)}
    add("/infer", predict_batch, method="POST", summary="Inference", **infer)
    return routes


async def model_metadata(request: Request) -> Response:
    """Versions, inputs and outputs of the model."""
    model = _model(request)
    classes = len(model.engine.classes)
    outputs = [_tensor("probabilities", "FP64", -1, classes), _tensor("label", "BYTES", -1)]
    if model.engine.task == "regression":
        outputs = [_tensor("value", "FP64", -1)]
        if half_width_for(model.engine.model, None) is not None:
            outputs.append(_tensor("interval", "FP64", -1, 2))
    if model.engine.thresholds:
        outputs.append(_tensor("indicators", "BOOL", -1, classes))
    if model.engine.has_ood:
        outputs.append(_tensor("ood_p_value", "FP64", -1))
    about = {"name": model.name, "versions": [model.version], "platform": f"regraft_{model.engine.name}"}
    meaning = {"task": model.engine.task, "ordered": model.engine.ordered}
    return JSONResponse(
        {**about, "inputs": [_tensor("images", "BYTES", -1)], "outputs": outputs, "parameters": meaning}
    )


async def model_ready(request: Request) -> Response:
    """Whether the model accepts requests."""
    return JSONResponse({"name": _model(request).name, "ready": True})


async def predict_batch(request: Request) -> Response:
    """Image files in base64 as one tensor of BYTES; if one of them cannot be read, the request fails."""
    service, model = service_of(request), _model(request)
    service.check_capacity()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" or "inference-header-content-length" in request.headers:
        raise Problem(415, f"Received the type {printable(kind)!r}; expected application/json, without binary tensors.")
    async with service.bodies.body(request) as body:
        question = _validate(parse_json(body))
        data = question.inputs[0].data
        check_count(len(data), service.limits)
        uploads = [Upload(from_base64(text, f"inputs[0].data[{i}]")) for i, text in enumerate(data)]
        request.state.images = len(uploads)
        answers = await service.predict(model, uploads)
    return JSONResponse(_answer(question, model, answers))


def _tensor(name: str, datatype: str, *shape: int, **data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape), **data}


def _model(request: Request) -> ServedModel:
    return service_of(request).find(request.path_params["name"], request.path_params.get("version"))


def _validate(value: Any) -> schemas.InferRequest:
    try:
        question = schemas.InferRequest.model_validate(value)
    except ValidationError as error:
        errors = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5])
        raise Problem(422, f"The body is not an inference request: {errors}.") from None
    given = question.inputs[0]
    if given.shape != [len(given.data)]:
        raise Problem(422, f"Received the shape {given.shape} with {len(given.data)} values; expected equal numbers.")
    return question


def _numbers(predictions: Sequence[Prediction], classes: Sequence[str]) -> list[dict[str, Any]]:
    """The outputs of a model that gives images numbers."""
    values, count = [one.value for one in predictions], len(predictions)
    intervals = [bound for one in predictions for bound in one.interval or ()]
    tensors = [_tensor("value", "FP64", count, data=values)]
    return [*tensors, _tensor("interval", "FP64", count, 2, data=intervals)] if intervals else tensors


def _classes(predictions: Sequence[Prediction], classes: Sequence[str]) -> list[dict[str, Any]]:
    """The outputs of a model that gives images classes."""
    probabilities = [float(p) for prediction in predictions for p in prediction.probabilities]
    count = len(predictions)
    return [
        _tensor("probabilities", "FP64", count, len(classes), data=probabilities),
        _tensor("label", "BYTES", count, data=[prediction.label for prediction in predictions]),
    ]


def _indicators(predictions: Sequence[Prediction], classes: Sequence[str]) -> dict[str, Any]:
    """Whether each image has each class."""
    given = [set(prediction.labels) for prediction in predictions]
    data = [name in labels for labels in given for name in classes]
    return _tensor("indicators", "BOOL", len(predictions), len(classes), data=data)


def _answer(question: schemas.InferRequest, model: ServedModel, answers: list[Answer]) -> dict[str, Any]:
    predictions, count = [answer.prediction for answer in answers], len(answers)
    for i, prediction in enumerate(predictions):
        if prediction.error is not None:
            raise Problem(422, f"inputs[0].data[{i}] cannot be read: {prediction.error}.", name="unreadable")
    tensors = (_numbers if model.engine.task == "regression" else _classes)(predictions, model.engine.classes)
    asked = [output.name for output in question.outputs]
    has_indicators = "indicators" in asked if asked else bool(model.engine.thresholds)
    if has_indicators and model.engine.task != "regression":
        tensors.append(_indicators(predictions, model.engine.classes))
    if model.engine.has_ood:
        tensors.append(_tensor("ood_p_value", "FP64", count, data=[one.ood_p_value for one in predictions]))
    outputs = {tensor["name"]: tensor for tensor in tensors}
    wanted = asked or list(outputs)
    if missing := [name for name in wanted if name not in outputs]:
        raise Problem(404, f"{model.name} has no output {missing[0]}.")
    own = {"id": question.id} if question.id else {}
    tensors = [outputs[name] for name in wanted]
    return {"model_name": model.name, "model_version": model.version, "outputs": tensors, **own}
