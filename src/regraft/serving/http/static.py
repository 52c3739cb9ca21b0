"""The web page and the page of the API, from files of this package that are read once."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import Response

_TYPES = {
    "html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}  # fmt: skip


@cache
def page_files() -> dict[str, bytes]:
    """The files by name."""
    folder = files("regraft.serving") / "page"
    return {item.name: item.read_bytes() for item in folder.iterdir() if item.name.rpartition(".")[2] in _TYPES}


#: File name by address.
_ADDRESSES = {"/": "index.html", "/docs": "docs.html", **{f"/page/{name}": name for name in page_files()}}
PUBLIC = frozenset(("/openapi.json", *_ADDRESSES))


def router(root_path: str) -> APIRouter:
    """The addresses of the files; links of the pages are relative, or begin with the root path if there is one."""
    routes = APIRouter(include_in_schema=False)
    for address, name in _ADDRESSES.items():
        content, kind = page_files()[name], name.rpartition(".")[2]
        if root_path and kind == "html":  # the browser may be at the root path without a slash at its end
            content = re.sub(rb'(href|src)="(?:\./)?(?!#)', rf'\1="{root_path}/'.encode(), content)
        _add(routes, address, content, _TYPES[kind])
    return routes


def _add(routes: APIRouter, address: str, content: bytes, kind: str) -> None:
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache", "Content-Type": kind}

    async def page(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return Response(content, headers=headers)

    routes.add_api_route(address, page, methods=["GET"])
