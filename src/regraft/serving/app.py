"""The addresses of the server.

Enters: a `Service`. Leaves: an ASGI application with its OpenAPI document.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from regraft.serving import inference_protocol, pages
from regraft.serving.answers import ModelsAnswer, PredictAnswer, describe
from regraft.serving.guard import Guard
from regraft.serving.intake import check_count
from regraft.serving.limits import MOST_CLASSES
from regraft.serving.metrics import CONTENT_TYPE
from regraft.serving.openapi import (
    METRICS_SAMPLES,
    MODELS_SAMPLES,
    PREDICT_SAMPLES,
    describe_api,
    predict_body,
    problems,
)
from regraft.serving.problems import Problem, on_http_exception, on_invalid, on_problem
from regraft.serving.service import Service


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
    app.include_router(_router(service.limits.images))
    app.include_router(inference_protocol.router(service.limits.images))
    app.include_router(pages.router())
    document = describe_api(app, pages.PUBLIC | inference_protocol.PUBLIC, needs_token=token is not None)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(document)

    app.openapi = lambda: document  # type: ignore[method-assign]  # FastAPI's way to say so
    return Guard(app, service, token, pages.PUBLIC | inference_protocol.PUBLIC)


def _router(images: int) -> APIRouter:
    router = APIRouter()

    @router.post(
        "/predict",
        tags=["predict"],
        summary="What is on these images?",
        response_model=PredictAnswer,
        response_model_exclude_unset=True,
        responses=problems(400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504),
        openapi_extra={"requestBody": predict_body(images), "x-codeSamples": PREDICT_SAMPLES},
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
        openapi_extra={"x-codeSamples": MODELS_SAMPLES},
    )
    async def models(request: Request) -> Response:
        """Classes, thresholds and what is known of each."""
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
        openapi_extra={"x-codeSamples": METRICS_SAMPLES},
    )
    async def metrics(request: Request) -> Response:
        """Requests, latency, batches, queue and rejections."""
        return Response(_service(request).metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    return router


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service
