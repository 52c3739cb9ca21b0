"""The addresses of the server.

Enters: a `Service`. Leaves: an ASGI application with its OpenAPI document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from regraft.serving import inference_protocol, pages
from regraft.serving.answers import ModelsAnswer, PredictAnswer, ProblemBody, describe
from regraft.serving.examples import TINY_PNG
from regraft.serving.guard import Guard
from regraft.serving.intake import check_count
from regraft.serving.limits import MOST_CLASSES
from regraft.serving.metrics import CONTENT_TYPE
from regraft.serving.problems import MEDIA_TYPE, Problem, on_http_exception, on_invalid, on_problem
from regraft.serving.service import Service

#: What a status means, for the document.
MEANINGS: Mapping[int, str] = {
    400: "The body is not what its type says.",
    401: "The token is missing or wrong.",
    404: "There is no such model.",
    408: "The body came too slowly.",
    413: "The body is too large, or has too many images.",
    415: "The body's type is not one that is read.",
    422: "A parameter is wrong, or not one image could be read.",
    429: "The queue is full; the header Retry-After says when to try again.",
    500: "The server failed; its log says why.",
    503: "The server is starting or ending, or holds too many bytes.",
    504: "There was no answer in time.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The responses of errors, for the document."""
    schema = {"$ref": "#/components/schemas/ProblemBody"}
    return {
        status: {"description": MEANINGS[status], "content": {MEDIA_TYPE: {"schema": schema}}} for status in statuses
    }


class PredictQuery(BaseModel):
    """What may stand behind the question mark of `/predict`."""

    model_config = ConfigDict(extra="forbid")

    top_k: int = Field(default=3, ge=1, le=MOST_CLASSES, description="classes to name, the likeliest first")
    explain: bool = Field(default=False, description="add a heat map of the evidence for the likeliest class")
    model: str | None = Field(default=None, max_length=200, description="which model; default: the first")


def create_app(service: Service, *, token: str | None = None, title: str = "regraft") -> ASGIApp:
    """The application.

    Args:
        service: What answers; `server.serve` starts and stops it.
        token: Who asks must send it, unless for the page's own files and whether the server is up; None: nobody must.
        title: Of the document.
    """
    app = FastAPI(
        title=title,
        version=version("regraft"),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.include_router(_router())
    app.include_router(inference_protocol.router(problems))
    app.include_router(pages.router())
    document = _document(app, token is not None)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(document)

    app.openapi = lambda: document  # type: ignore[method-assign]  # FastAPI's way to say so
    return Guard(app, service, token, pages.PUBLIC | inference_protocol.PUBLIC)


def _router() -> APIRouter:
    router = APIRouter()

    @router.post(
        "/predict",
        tags=["predict"],
        summary="What is on these images?",
        response_model=PredictAnswer,
        response_model_exclude_unset=True,
        responses=problems(400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504),
        openapi_extra={"requestBody": _PREDICT_BODY},
    )
    async def predict(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
        """One image or many, as a form with files, as the body itself, or as base64 in JSON.

        A bad image gets an `error` and the others their answers; if not one can be read, the status is 422.
        """
        service = _service(request)
        model = service.find(query.model)
        service.check_room()  # before a body is received in vain
        async with service.intake.body(request) as body:
            uploads = await service.intake.images(request.headers.get("content-type", ""), body)
            del body
            check_count(len(uploads), service.limits)
            request.state.images = len(uploads)
            outcomes = await service.predict(model, uploads, explain=query.explain)
        images = [
            describe(outcome, model, upload.name, query.top_k)
            for outcome, upload in zip(outcomes, uploads, strict=True)
        ]
        if all("error" in image for image in images):
            what = f"The image cannot be read: {images[0]['error']}." if len(images) == 1 else (
                f"Not one of {len(images)} images can be read; the first: {images[0]['error']}."
            )  # fmt: skip
            raise Problem(422, what, name="unreadable", images=images)
        return JSONResponse({"model": model.name, "version": model.version, "images": images})

    @router.get(
        "/models",
        tags=["models"],
        summary="Which models are here?",
        response_model=ModelsAnswer,
        responses=problems(401, 503),
    )
    async def models(request: Request) -> Response:
        """Classes, thresholds and what is known of each; empty while the server is starting."""
        service = _service(request)
        service.check_ready()
        return JSONResponse(
            {
                "models": service.describe(),
                "images": service.limits.images,
                "body_bytes": service.limits.body_bytes,
            }
        )

    @router.get(
        "/models/{name}/card",
        tags=["models"],
        summary="The model card",
        response_class=Response,
        responses={
            200: {"description": "Markdown", "content": {"text/markdown": {"schema": {"type": "string"}}}},
            **problems(401, 404, 503),
        },
    )
    async def card(request: Request, name: str) -> Response:
        """What the model is for, what it learnt from, and how good it is."""
        model = _service(request).find(name)
        if not model.card:
            raise Problem(404, f"{model.name} has no model card.", name="no-card")
        return Response(model.card, media_type="text/markdown; charset=utf-8")

    @router.get(
        "/metrics",
        tags=["operation"],
        summary="For Prometheus",
        response_class=Response,
        responses={
            200: {"description": "Prometheus' text format", "content": {"text/plain": {"schema": {"type": "string"}}}},
            **problems(401),
        },
    )
    async def metrics(request: Request) -> Response:
        """Requests, latency, batches, queue and rejections."""
        return Response(_service(request).metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    return router


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


_BASE64 = {"type": "string", "format": "image-base64", "minLength": 4, "pattern": "^[A-Za-z0-9+/]+={0,2}$"}
_BINARY = {"type": "string", "format": "binary"}
_PREDICT_BODY: Mapping[str, Any] = {
    "required": True,
    "description": "JPEG, PNG, WebP, BMP, GIF, TIFF or PNM, of any mode and orientation.",
    "content": {
        "application/json": {
            "schema": {
                "oneOf": [
                    {
                        "type": "object",
                        "required": ["image"],
                        "additionalProperties": False,
                        "properties": {"image": _BASE64},
                    },
                    {
                        "type": "object",
                        "required": ["images"],
                        "additionalProperties": False,
                        "properties": {"images": {"type": "array", "items": _BASE64, "minItems": 1, "maxItems": 32}},
                    },
                ]
            },
            "examples": {
                "one": {"summary": "one image", "value": {"image": TINY_PNG}},
                "many": {"summary": "several", "value": {"images": [TINY_PNG, TINY_PNG]}},
            },
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "additionalProperties": False,
                "properties": {"image": {"type": "array", "items": _BINARY, "minItems": 1, "maxItems": 32}},
            },
        },
        "image/*": {"schema": _BINARY},
        "application/octet-stream": {"schema": _BINARY},
    },
}


def _document(app: FastAPI, needs_token: bool) -> dict[str, Any]:
    value = get_openapi(
        title=app.title,
        version=app.version,
        description=(
            "Image classification. `/predict` answers as `regraft predict` does; `/v2` is the Open Inference Protocol. "
            "Every error is a problem body of RFC 9457."
        ),
        routes=app.routes,
    )
    schemas = value.setdefault("components", {}).setdefault("schemas", {})
    schemas["ProblemBody"] = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= schemas["ProblemBody"].pop("$defs", {})
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which are never sent
        schemas.pop(name, None)
    operations: Sequence[dict[str, Any]] = [
        operation for path in value["paths"].values() for operation in path.values()
    ]
    for operation in operations:
        operation.setdefault("parameters", []).append(
            {
                "name": "X-Request-ID",
                "in": "header",
                "required": False,
                "description": "comes back in the answer and stands in the log",
                "schema": {"type": "string"},
            }
        )
    if needs_token:
        value["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, item in value["paths"].items():
            if path not in pages.PUBLIC | inference_protocol.PUBLIC:
                for operation in item.values():
                    operation["security"] = [{"token": []}]
    return value
