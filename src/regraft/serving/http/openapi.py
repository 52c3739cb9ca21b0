"""The OpenAPI document: request bodies, errors and examples, which FastAPI does not know."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from regraft.serving.http.problem_details import MEDIA_TYPE
from regraft.serving.http.schemas import InferRequest, ProblemBody

#: A PNG of 2 x 2 pixels in base64.
TINY_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR42mM4EaABRAwQCgAljgUBQTLeRwAAAABJRU5ErkJggg=="
_HERE = "http://127.0.0.1:8000"
_REF = "#/components/schemas/{model}"

#: Description of each status.
_MEANINGS: Mapping[int, str] = {
    400: "The body does not have its type.",
    401: "The token is missing or wrong.",
    403: "A page of another site asks, or the header Host has a name that is not this machine's.",
    404: "The model, or the wanted output of it, does not exist.",
    408: "The body arrived too slowly.",
    413: "The body is too large.",
    415: "The type or encoding of the body is not supported.",
    422: "A parameter is invalid, or no image can be read.",
    429: "The queue is full. The header Retry-After says when to try again.",
    500: "The server failed. Its log has the reason.",
    503: "The server is starting or shutting down, or buffers too many bytes.",
    504: "The deadline passed.",
}
#: Errors of the addresses that predict.
PREDICT_STATUSES = (400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)
_INFER = "/v2/models/{name}/infer"


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Responses with these statuses."""
    content = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="ProblemBody")}}}
    return {status: {"description": _MEANINGS[status], "content": content} for status in statuses}


def _curl(label: str, command: str) -> dict[str, str]:
    return {"lang": "Shell", "label": label, "source": command}


_IMAGE = 'curl -H "Content-Type: image/jpeg" --data-binary @one.jpg'
_JSON = 'curl -H "Content-Type: application/json" -d'
_TENSOR = f'{{"name": "images", "shape": [1], "datatype": "BYTES", "data": ["{TINY_PNG}"]}}'
_INPUTS = f"""{_JSON} '{{"inputs": [{_TENSOR}]}}'"""
#: Examples by path.
_SAMPLES = {
    "/predict": [
        _curl("Files", f'curl -F image=@one.jpg -F image=@two.png "{_HERE}/predict?top_k=5"'),
        _curl("One image as the body", f'{_IMAGE} "{_HERE}/predict?explain=true"'),
        _curl("JSON", f"""{_JSON} '{{"image": "{TINY_PNG}"}}' {_HERE}/predict"""),
    ],
    "/models": [_curl("Models", f"curl {_HERE}/models")],
    "/metrics": [_curl("Metrics", f"curl {_HERE}/metrics")],
    _INFER: [_curl("Inference (NAME as in /models)", f"{_INPUTS} {_HERE}/v2/models/NAME/infer")],
}

_BASE64 = {"type": "string", "format": "image-base64", "description": "an image file in base64, or a data URL"}
_BINARY = {"type": "string", "format": "binary"}


def _object(required: Iterable[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "additionalProperties": False, "properties": properties}


def _array(items: Mapping[str, Any], images: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": images}


def _json(schema: Mapping[str, Any], **examples: tuple[str, Any]) -> dict[str, Any]:
    named = {name: {"summary": summary, "value": value} for name, (summary, value) in examples.items()}
    return {"application/json": {"schema": schema, "examples": named}}


def _bodies(images: int) -> dict[str, dict[str, Any]]:
    """Request bodies by path, with so many images at most."""
    schema = {"oneOf": [_object(["image"], image=_BASE64), _object(["images"], images=_array(_BASE64, images))]}
    several = {"images": [TINY_PNG] * min(2, images)}
    content = {
        **_json(schema, one=("one image", {"image": TINY_PNG}), many=("several", several)),
        "multipart/form-data": {"schema": _object(["image"], image=_array(_BINARY, images))},
        "image/*": {"schema": _BINARY},
        "application/dicom": {"schema": _BINARY},
        "application/octet-stream": {"schema": _BINARY},
    }
    description = (
        "JPEG, PNG, WebP, BMP, GIF, TIFF, PNM, AVIF, HEIC, JPEG 2000 and, where the server has the extras `jxl` and "
        "`dicom`, JPEG XL and DICOM; of any mode and orientation. A model of other bands takes TIFF and "
        "numpy files (application/octet-stream) with these. gzip and deflate are unpacked."
    )
    reference, example = {"$ref": _REF.format(model="InferRequest")}, {"id": "1", "inputs": [json.loads(_TENSOR)]}
    return {
        "/predict": {"required": True, "description": description, "content": content},
        _INFER: {"required": True, "content": _json(reference, one=("one image", example))},
    }


def describe_api(app: FastAPI, public: Iterable[str], *, images: int, needs_token: bool) -> dict[str, Any]:
    """Create the document of an application; requests have at most `images` images, `public` paths need no token."""
    description = (
        "Image classification. `/predict` gives the answers of `regraft predict`; `/v2` is the Open Inference "
        "Protocol. Errors are problem details (RFC 9457)."
    )
    value = get_openapi(title=app.title, version=app.version, description=description, routes=app.routes)
    schemas = value["components"]["schemas"]
    for model in (ProblemBody, InferRequest):
        schema = model.model_json_schema(ref_template=_REF)
        schemas |= schema.pop("$defs", {}) | {model.__name__: schema}
    tensor = schemas["InferInput"]["properties"]
    tensor["data"]["maxItems"] = tensor["shape"]["items"]["maximum"] = images
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's errors, which this server never sends
        schemas.pop(name, None)
    bodies = _bodies(images)
    for path, item in value["paths"].items():
        key = path.replace("/versions/{version}", "")
        for operation in item.values():
            operation.setdefault("parameters", []).extend(_path_parameters(path, operation))
            if key in bodies:
                operation["requestBody"] = bodies[key]
            if key in _SAMPLES:
                operation["x-codeSamples"] = _SAMPLES[key]
            _complete(operation, path in public, needs_token)
    if needs_token:
        value["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return value


def _path_parameters(path: str, operation: dict[str, Any]) -> list[dict[str, Any]]:
    """Parameters that FastAPI does not know, because the function reads them from the request."""
    known = {parameter["name"] for parameter in operation.get("parameters", [])}
    meanings = {"name": "name of the model, as in /models", "version": "version of the model"}
    return [
        {"name": name, "in": "path", "required": True, "description": meaning, "schema": {"type": "string"}}
        for name, meaning in meanings.items()
        if f"{{{name}}}" in path and name not in known
    ]


def _complete(operation: dict[str, Any], is_public: bool, needs_token: bool) -> None:
    responses = operation["responses"]
    if "application/json" in responses.get("422", {}).get("content", {}):  # FastAPI's error
        del responses["422"]
    responses["200"]["description"] = "Success."
    identifier = {"description": "identifier of the request", "schema": {"type": "string"}}
    for response in responses.values():
        response.setdefault("headers", {})["X-Request-ID"] = identifier
    for status in ("429", "503"):
        if status in responses:
            responses[status]["headers"]["Retry-After"] = {"description": "seconds", "schema": {"type": "string"}}
    text = "identifier that the response and the log repeat"
    parameter = {"name": "X-Request-ID", "in": "header", "required": False, "description": text}
    operation["parameters"].append({**parameter, "schema": {"type": "string"}})
    if needs_token and not is_public:
        operation["security"] = [{"token": []}]
    elif not needs_token:
        responses.pop("401", None)
