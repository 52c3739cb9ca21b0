"""The OpenAPI document: what FastAPI does not know of bodies, errors and examples.

Enters: the application. Leaves: the document, whose examples work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from regraft.serving.answers import ProblemBody
from regraft.serving.problems import MEDIA_TYPE

#: A PNG of 2 x 2 pixels in base64.
TINY_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR42mM4EaABRAwQCgAljgUBQTLeRwAAAABJRU5ErkJggg=="
_HERE = "http://127.0.0.1:8000"

#: What a status means.
MEANINGS: Mapping[int, str] = {
    400: "The body is not what its type says.",
    401: "The token is missing or wrong.",
    404: "There is no such model.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body's type is not one that is read.",
    422: "A parameter is wrong, or no image could be read.",
    429: "The queue is full; the header Retry-After says when to try again.",
    500: "The server failed; its log says why.",
    503: "The server is starting or ending, or holds too many bytes.",
    504: "There was no answer in time.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The responses of these errors."""
    schema = {"$ref": "#/components/schemas/ProblemBody"}
    return {
        status: {"description": MEANINGS[status], "content": {MEDIA_TYPE: {"schema": schema}}} for status in statuses
    }


def _curl(label: str, command: str) -> dict[str, str]:
    return {"lang": "Shell", "label": label, "source": command}


PREDICT_SAMPLES = [
    _curl("Files", f'curl -F image=@one.jpg -F image=@two.png "{_HERE}/predict?top_k=5"'),
    _curl(
        "One image as the body",
        f'curl -H "Content-Type: image/jpeg" --data-binary @one.jpg "{_HERE}/predict?explain=true"',
    ),
    _curl("JSON", f"""curl -H "Content-Type: application/json" -d '{{"image": "{TINY_PNG}"}}' {_HERE}/predict"""),
]
MODELS_SAMPLES = [_curl("Models", f"curl {_HERE}/models")]
METRICS_SAMPLES = [_curl("Metrics", f"curl {_HERE}/metrics")]
INFER_SAMPLES = [
    _curl(
        "Inference (NAME as in /models)",
        'curl -H "Content-Type: application/json" -d \'{"inputs": [{"name": "images", "shape": [1], "datatype": '
        f'"BYTES", "data": ["{TINY_PNG}"]}}]}}\' {_HERE}/v2/models/NAME/infer',
    )
]

_BASE64 = {"type": "string", "format": "image-base64", "description": "an image file in base64"}
_BINARY = {"type": "string", "format": "binary"}


def _object(required: Iterable[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "additionalProperties": False,
        "properties": properties,
    }


def _several(items: Mapping[str, Any], images: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": images}


def predict_body(images: int) -> dict[str, Any]:
    """Of `/predict`, with so many images at most."""
    one, many = _object(["image"], image=_BASE64), _object(["images"], images=_several(_BASE64, images))
    return {
        "required": True,
        "description": "JPEG, PNG, WebP, BMP, GIF, TIFF or PNM, of any mode and orientation.",
        "content": {
            "application/json": {
                "schema": {"oneOf": [one, many]},
                "examples": {
                    "one": {"summary": "one image", "value": {"image": TINY_PNG}},
                    "many": {"summary": "several", "value": {"images": [TINY_PNG] * min(2, images)}},
                },
            },
            "multipart/form-data": {"schema": _object(["image"], image=_several(_BINARY, images))},
            "image/*": {"schema": _BINARY},
            "application/octet-stream": {"schema": _BINARY},
        },
    }


def infer_body(images: int) -> dict[str, Any]:
    """Of `/v2/models/NAME/infer`, with so many images at most."""
    number = {"type": "integer", "minimum": 1, "maximum": images}
    tensor = _object(
        ["name", "shape", "datatype", "data"],
        name={"const": "images"},
        shape={
            "type": "array", "items": number, "minItems": 1, "maxItems": 1, "description": "the number of images",
        },
        datatype={"const": "BYTES"},
        parameters={"type": "object"},
        data=_several(_BASE64, images),
    )  # fmt: skip
    output = _object(["name"], name={"enum": ["probabilities", "label"]}, parameters={"type": "object"})
    schema = _object(
        ["inputs"],
        id={"type": "string", "maxLength": 200},
        parameters={"type": "object"},
        inputs={"type": "array", "items": tensor, "minItems": 1, "maxItems": 1},
        outputs={"type": "array", "items": output},
    )
    example = {"id": "1", "inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": [TINY_PNG]}]}
    return {
        "required": True,
        "content": {
            "application/json": {"schema": schema, "examples": {"one": {"summary": "one image", "value": example}}}
        },
    }


def describe_api(app: FastAPI, public: Iterable[str], *, needs_token: bool) -> dict[str, Any]:
    """The document.

    Args:
        app: With all its addresses.
        public: Those that need no token.
        needs_token: Whether the others do.
    """
    value = get_openapi(
        title=app.title,
        version=app.version,
        description=(
            "Image classification. `/predict` answers as `regraft predict` does; `/v2` is the Open Inference Protocol. "
            "Every error is a problem body of RFC 9457."
        ),
        routes=app.routes,
    )
    schemas = value["components"]["schemas"]
    schemas["ProblemBody"] = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= schemas["ProblemBody"].pop("$defs", {})
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which are never sent
        schemas.pop(name, None)
    for path, item in value["paths"].items():
        for operation in item.values():
            operation.setdefault("parameters", []).extend(_in_path(path, operation))
            _complete(operation, path in public, needs_token)
    if needs_token:
        value["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return value


def _in_path(path: str, operation: dict[str, Any]) -> list[dict[str, Any]]:
    """What FastAPI does not tell of a path, as the function looks for it in the request."""
    told = {parameter["name"] for parameter in operation.get("parameters", [])}
    meanings = {"name": "of the model, as in /models", "version": "of the model"}
    return [
        {"name": name, "in": "path", "required": True, "description": meaning, "schema": {"type": "string"}}
        for name, meaning in meanings.items()
        if f"{{{name}}}" in path and name not in told
    ]


def _complete(operation: dict[str, Any], is_public: bool, needs_token: bool) -> None:
    responses = operation["responses"]
    if "application/json" in responses.get("422", {}).get("content", {}):  # FastAPI's own
        del responses["422"]
    responses["200"]["description"] = "The answer."
    identifier = {"description": "that of the request", "schema": {"type": "string"}}
    for response in responses.values():
        response.setdefault("headers", {})["X-Request-ID"] = identifier
    for status in ("429", "503"):
        if status in responses:
            responses[status]["headers"]["Retry-After"] = {"description": "seconds", "schema": {"type": "string"}}
    operation.setdefault("parameters", []).append({
        "name": "X-Request-ID",
        "in": "header",
        "required": False,
        "description": "comes back in the answer and stands in the log",
        "schema": {"type": "string"},
    })  # fmt: skip
    if needs_token and not is_public:
        operation["security"] = [{"token": []}]
    elif not needs_token:
        responses.pop("401", None)
