"""The page for people, and that of the addresses: files of this package and nothing else.

Enters: a request for one of these files. Leaves: the file, which was read when the server started.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import Response

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
#: Addresses of the pages, and the file of each.
_PAGES = {"/": "index.html", "/docs": "docs.html"}


@cache
def page_files() -> dict[str, bytes]:
    """The files of the pages by their names."""
    folder = files("regraft.serving") / "page"
    return {item.name: item.read_bytes() for item in folder.iterdir() if item.name.rpartition(".")[2] in _TYPES}


PUBLIC = frozenset(("/", "/docs", "/openapi.json", *(f"/page/{name}" for name in page_files())))


def router() -> APIRouter:
    """Their addresses."""
    found = APIRouter(include_in_schema=False)
    for path, name in {**_PAGES, **{f"/page/{name}": name for name in page_files()}}.items():
        content = page_files()[name]
        _add(found, path, content, _TYPES[name.rpartition(".")[2]])
    return found


def _add(found: APIRouter, path: str, content: bytes, kind: str) -> None:
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache", "Content-Type": kind}

    async def page(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return Response(content, headers=headers)

    found.add_api_route(path, page, methods=["GET", "HEAD"])
