"""The addresses of the server, as an ASGI application with its OpenAPI document."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from regraft.serving.http import inference_protocol, static
from regraft.serving.http.middleware import Middleware
from regraft.serving.http.openapi import PREDICT_STATUSES, describe_api, problems
from regraft.serving.http.problem_details import Problem, on_http_exception, on_invalid, on_problem
from regraft.serving.http.request_body import check_count
from regraft.serving.http.schemas import ModelsAnswer, PredictAnswer, describe
from regraft.serving.limits import MAX_CLASSES
from regraft.serving.metrics import CONTENT_TYPE
from regraft.serving.service import Service, service_of

#: First parts of the paths of all addresses.
ADDRESSES = frozenset(("predict", "models", "metrics", "docs", "openapi.json", "page", "v2"))


class PredictQuery(BaseModel):
    """Query parameters of `/predict`."""

    model_config = ConfigDict(extra="forbid")

    top_k: int = Field(default=3, ge=1, le=MAX_CLASSES, description="number of classes, most likely first")
    explain: bool = Field(default=False, description="add heat maps for the most likely class, or for each label")
    model: str | None = Field(default=None, max_length=200, description="name of a model; default: the first")


def create_app(
    service: Service, *, token: str | None = None, root_path: str = "", allow_origins: Sequence[str] = ()
) -> ASGIApp:
    """Create the application; with a token, only the page and the health checks work without it.

    It answers at its addresses and at the same ones after the root path, so a proxy can keep or remove that prefix.
    """
    # FastAPI has neither a document nor pages of its own without the URL.
    app = FastAPI(title="regraft", version=version("regraft"), openapi_url=None, redirect_slashes=False)
    app.state.service = service
    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.include_router(_router())
    app.include_router(inference_protocol.router())
    app.include_router(static.router(root_path))
    public = static.PUBLIC | inference_protocol.PUBLIC
    document = describe_api(app, public, images=service.limits.images, needs_token=token is not None)
    if root_path:
        document["servers"] = [{"url": root_path}]

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(document)

    app.openapi = lambda: document  # type: ignore[method-assign]  # FastAPI's documented way
    return Middleware(app, service, token, public, root_path, allow_origins)


def _router() -> APIRouter:
    router = APIRouter()

    @router.post(
        "/predict",
        tags=["predict"],
        summary="Classify images",
        response_model=PredictAnswer,
        response_model_exclude_unset=True,
        responses=problems(*PREDICT_STATUSES),
    )
    async def predict(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
        """One image or many, as a form with files, as the body itself, or as base64 in JSON.

        An image that cannot be read gets an `error`, and the others get predictions. If none can be read, the status
        is 422.
        """
        service = service_of(request)
        model = service.find(query.model)
        service.check_capacity()  # before the body is received
        async with service.bodies.body(request) as body:
            uploads = await service.bodies.images(request.headers.get("content-type", ""), body)
            del body
            check_count(len(uploads), service.limits)
            request.state.images = len(uploads)
            answers = await service.predict(model, uploads, explain=query.explain)
        pairs = zip(answers, uploads, strict=True)
        images = [describe(answer, model, upload.name, query.top_k) for answer, upload in pairs]
        if all("error" in image for image in images):
            many = f"No image can be read; the first of {len(images)}"
            start = "The image cannot be read" if len(images) == 1 else many
            raise Problem(422, f"{start}: {images[0]['error']}.", name="unreadable", images=images)
        return JSONResponse({"model": model.name, "version": model.version, "images": images})

    @router.get(
        "/models",
        tags=["models"],
        summary="List the models",
        response_model=ModelsAnswer,
        responses=problems(401, 403, 503),
    )
    async def models(request: Request) -> Response:
        """Classes, thresholds and facts of each model."""
        service = service_of(request)
        service.check_ready()
        limits: dict[str, Any] = {"images": service.limits.images, "body_bytes": service.limits.body_bytes}
        return JSONResponse({"models": service.describe(), **limits})

    markdown = _text("Markdown", "text/markdown") | problems(401, 403, 404, 503)

    @router.get(
        "/models/{name}/card", tags=["models"], summary="The model card", response_class=Response, responses=markdown
    )
    async def card(request: Request, name: str) -> Response:
        """Intended use, training data and accuracy of the model."""
        model = service_of(request).find(name)
        if not model.card:
            raise Problem(404, f"{model.name} has no model card.", name="no-card")
        return Response(model.card, media_type="text/markdown; charset=utf-8")

    plain = _text("Prometheus' text format", "text/plain") | problems(401, 403)

    @router.get(
        "/metrics", tags=["operation"], summary="Metrics for Prometheus", response_class=Response, responses=plain
    )
    async def metrics(request: Request) -> Response:
        """Requests, latency, batches, queue and rejections."""
        return Response(service_of(request).metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    return router


def _text(description: str, media_type: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": description, "content": {media_type: {"schema": {"type": "string"}}}}}
