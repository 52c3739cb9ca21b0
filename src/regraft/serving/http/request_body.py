"""Read the image files out of request bodies.

Bytes are counted while they arrive, so memory stays within the limits. Nothing is written to disk or fetched from an
address.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from regraft.serving.http.content_encoding import Unpacker
from regraft.serving.http.problem_details import Problem, printable
from regraft.serving.limits import Limits

#: Bodies from this size in bytes on are parsed in a thread, so that other requests continue.
_LARGE = 128 * 1024
#: Times the limit that is received and dropped of a too large body, and the seconds that it may pause.
_DROPPED, _PAUSE = 8, 1.0
#: Number of characters of a file name that are kept.
_NAME = 255
_CLOSE = {"Connection": "close"}
_ACCEPT = "multipart/form-data, application/json, image/*, application/dicom, application/octet-stream"
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
TYPES = (
    "multipart/form-data with files named image, application/json, image/*, application/dicom or "
    "application/octet-stream"
)


@dataclass(frozen=True)
class Upload:
    """An image file that was sent; its name, if it had one, is only repeated in the answer."""

    data: bytes
    name: str | None = None


class BodyReader:
    """Receives bodies within the limits; `on_buffered` gets the number of bytes in memory when it changes."""

    def __init__(self, limits: Limits, on_buffered: Callable[[int], None]) -> None:
        self.limits, self._on_buffered = limits, on_buffered
        self.buffered = 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body, unpacked; its bytes count as buffered until the block ends.

        Raises `Problem`: incomplete or damaged (400), too slow (408), too large, also if packed (413), an unknown
        encoding (415), or too much is buffered already (503).
        """
        unpacker = Unpacker(request)
        announced = request.headers.get("content-length", "")
        parts: list[bytes] = []
        size = received = 0
        too_large = announced.isdigit() and int(announced) > self.limits.body_bytes
        try:
            try:
                async with asyncio.timeout(self.limits.body_seconds):
                    stream = request.stream()
                    while not too_large and (packed := await anext(stream, None)) is not None:
                        received += len(packed)
                        for part in unpacker.pieces(packed):
                            size += len(part)
                            self._count(len(part))
                            if too_large := max(size, received) > self.limits.body_bytes:
                                break
                            if self.buffered > self.limits.buffered_bytes:
                                text = "The server buffers as many bytes as its limit allows. Try again soon."
                                raise Problem(503, text, name="buffer-full", headers={"Retry-After": "1", **_CLOSE})
                            parts.append(part)
                            await asyncio.sleep(0)  # unpacking takes time
                if too_large:
                    raise await self._too_large(request, announced.isdigit() and received >= int(announced))
                unpacker.finish()
            except TimeoutError:
                text = f"The body did not arrive within {self.limits.body_seconds:g} s. Send less data in one request."
                raise Problem(408, text, headers=_CLOSE) from None
            except ClientDisconnect:
                text = "The connection was closed before the body was complete."
                raise Problem(400, text, name="disconnect") from None
            body = b"".join(parts)
            parts.clear()
            yield body
        finally:
            self._count(-size)

    async def images(self, content_type: str, body: bytes) -> list[Upload]:
        """The image files in a body; raises `Problem` 415 if its type is not in `TYPES`, or 400 or 422."""
        kind, options = parse_options_header(content_type.encode("latin-1"))
        if kind == b"multipart/form-data":
            return await _parse(_from_form, body, options.get(b"boundary", b""), self.limits)
        if kind == b"application/json":
            return await _parse(_from_json, body, self.limits)
        if kind.startswith(b"image/") or kind in (b"application/dicom", b"application/octet-stream"):
            return [Upload(_file(body, "the body"))]
        given = f"the type {printable(content_type)!r}" if content_type else "a body without a type"
        raise Problem(415, f"Received {given}; expected {TYPES}.", headers={"Accept-Post": _ACCEPT})

    def _count(self, size: int) -> None:
        self.buffered += size
        self._on_buffered(self.buffered)

    async def _too_large(self, request: Request, arrived: bool) -> Problem:
        """The problem, after the rest has been received and dropped: most clients read an answer only then."""
        left = 0 if arrived or "expect" in request.headers else _DROPPED * self.limits.body_bytes
        with suppress(TimeoutError):
            while left > 0 and (message := await asyncio.wait_for(request.receive(), _PAUSE)).get("more_body"):
                left -= len(message["body"])
        text = f"The body exceeds the limit of {self.limits.body_bytes:,} bytes. Send fewer or smaller images."
        return Problem(413, text, headers=_CLOSE)


async def _parse(function: Callable[..., list[Upload]], body: bytes, *arguments: Any) -> list[Upload]:
    if len(body) < _LARGE:
        return function(body, *arguments)
    return await asyncio.to_thread(function, body, *arguments)


def parse_json(body: bytes) -> Any:
    """Parse a JSON document; raises `Problem` 400."""

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is not a JSON value")

    try:
        return json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else printable(str(error))
        raise Problem(400, f"The body is not a JSON document: {why}.", name="not-json") from None


def from_base64(text: Any, where: str) -> bytes:
    """Decode the value at a place in the body; raises `Problem` 422 if it is not a string in base64.

    Both alphabets of RFC 4648, line ends, missing padding and data URLs (RFC 2397) are understood.
    """
    try:
        if not isinstance(text, str):
            raise ValueError("it is not a string")
        if _is_data_url(text):
            head, comma, text = text.partition(",")
            if not comma or not head.lower().endswith(";base64"):
                raise ValueError("it is a data URL without `;base64,`")
            text = unquote(text)
        data = text.strip().encode("ascii").translate(_STANDARD_ALPHABET, b"\r\n\t")
        if b" " in data:
            raise ValueError("it has spaces, into which `+` turns if a form is not encoded")
        return base64.b64decode(data if data.endswith(b"=") else data + b"=" * (-len(data) % 4), validate=True)
    except (ValueError, binascii.Error) as error:
        why = "it has other characters" if isinstance(error, UnicodeEncodeError) else str(error)
        detail = f"{where} is not an image file in base64 (RFC 4648), or a data URL with it: {why}."
        raise Problem(422, detail, name="not-base64") from None


def _is_data_url(text: str) -> bool:
    return text[:5].lower() == "data:"


def _file(data: bytes, where: str) -> bytes:
    """An image file; browsers also send one as the text of a data URL, with which no image file begins."""
    return from_base64(text, where) if _is_data_url(text := data.decode("latin-1")) else data


def _from_json(body: bytes, limits: Limits) -> list[Upload]:
    value = parse_json(body)
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in ("image", "images"):
        raise Problem(422, 'Expected {"image": "BASE64"} or {"images": ["BASE64", ...]} and nothing else.')
    if "image" in value:
        return [Upload(from_base64(value["image"], "image"))]
    texts = value["images"]
    if not isinstance(texts, list) or not texts:
        raise Problem(422, "images: expected a list of at least one image in base64.")
    check_count(len(texts), limits)
    return [Upload(from_base64(text, f"images[{i}]")) for i, text in enumerate(texts)]


def check_count(count: int, limits: Limits) -> None:
    """Raise `Problem` 422 if a request has more images than the limit."""
    if count > limits.images:
        text = f"Received {count} images; expected {limits.images} at most. Send several requests."
        raise Problem(422, text, name="too-many-images")


def _from_form(body: bytes, boundary: bytes, limits: Limits) -> list[Upload]:
    """The files of a form, all of which must be named image (or images)."""
    uploads: list[Upload] = []
    ends: list[bool] = []

    def add(field: bytes | None, name: bytes | None, data: bytes) -> None:
        check_count(len(uploads) + 1, limits)
        if field not in (b"image", b"images"):
            text = printable((field or b"").decode("utf-8", "replace"))
            raise Problem(422, f"The form has a part named {text!r}; expected parts named image.")
        base = os.path.basename((name or b"").decode("utf-8", "replace").replace("\\", "/"))
        uploads.append(Upload(_file(data, f"images[{len(uploads)}]"), printable(base)[:_NAME] or None))

    def on_field(field: Field) -> None:
        add(field.field_name, None, field.value or b"")

    def on_file(file: File) -> None:
        file.file_object.seek(0)
        add(file.field_name, file.file_name, file.file_object.read())

    try:
        if not boundary:
            raise FormParserError("its type names no boundary")
        # Files never leave the memory, since none is larger than the body. The parser limits the headers of a part.
        config = {"MAX_MEMORY_FILE_SIZE": len(body) + 1}
        end = partial(ends.append, True)
        parser = FormParser("multipart/form-data", on_field, on_file, end, boundary, config=config)
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError, AssertionError) as error:
        raise Problem(400, f"The body is not a multipart form: {printable(str(error))}.", name="not-a-form") from None
    if not ends:
        raise Problem(400, "The form ends before its last boundary.", name="not-a-form")
    if not uploads:
        raise Problem(422, "The form has no image; expected files named image.")
    return uploads
