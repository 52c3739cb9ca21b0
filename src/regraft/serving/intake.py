"""From a request's body to image files.

Enters: a request. Leaves: the bytes of its images. Bytes are counted while they come, so that no more is ever held than
is allowed; nothing is written to disk, and nothing is fetched from anywhere.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from regraft.serving.limits import Limits
from regraft.serving.problems import Problem, printable

#: Bodies from this size on are taken apart in a thread, so that other requests go on.
_LARGE = 128 * 1024
#: Headers of one part of a form, in bytes, and the characters of its name that are kept.
_PART_HEADERS, _NAME = 8192, 255
_CLOSE = {"Connection": "close"}

TYPES = "multipart/form-data with files named image, application/json, image/* or application/octet-stream"


@dataclass(frozen=True)
class Upload:
    """One image file as it was sent.

    Attributes:
        data: Its bytes.
        name: Its name, if it had one; nothing is looked up by it.
    """

    data: bytes
    name: str | None = None


class Intake:
    """Receives bodies within limits.

    Args:
        limits: Of bytes, images and time.
        on_buffered: Called with the number of bytes that are held now.
    """

    def __init__(self, limits: Limits, on_buffered: Callable[[int], None]) -> None:
        """Nothing is held."""
        self.limits, self._on_buffered = limits, on_buffered
        self._buffered = 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body; its bytes count as held until the block ends.

        Raises:
            Problem: Too large (413), too slow (408), or too much is held already (503).
        """
        told = request.headers.get("content-length", "")
        if told.isdigit() and int(told) > self.limits.body_bytes:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        try:
            try:
                async with asyncio.timeout(self.limits.body_seconds):
                    async for part in request.stream():
                        size += len(part)
                        self._hold(len(part))
                        if size > self.limits.body_bytes:
                            raise self._too_large()
                        if self._buffered > self.limits.buffered_bytes:
                            raise Problem(
                                503,
                                "The server holds as many bytes of requests as it may. Try again soon.",
                                name="buffer-full",
                                headers={"Retry-After": "1", **_CLOSE},
                            )
                        parts.append(part)
            except TimeoutError:
                raise Problem(
                    408,
                    f"The body did not arrive within {self.limits.body_seconds:g} s. Send it faster, or in parts.",
                    headers=_CLOSE,
                ) from None
            except ClientDisconnect:
                raise Problem(
                    400, "The connection was closed before the body was complete.", name="disconnect"
                ) from None
            whole = b"".join(parts)
            parts.clear()
            yield whole
        finally:
            self._hold(-size)

    async def images(self, content_type: str, body: bytes) -> list[Upload]:
        """The image files in a body.

        Raises:
            Problem: The type is none of `TYPES` (415), or the body is not what its type says (400, 413, 422).
        """
        kind, options = parse_options_header(content_type.encode("latin-1"))
        if kind == b"multipart/form-data":
            found = await _apart(_from_form, body, options.get(b"boundary", b""), self.limits)
        elif kind == b"application/json":
            found = await _apart(_from_json, body, self.limits)
        elif kind.startswith(b"image/") or kind == b"application/octet-stream":
            found = [Upload(body)]
        else:
            given = f"the type {printable(content_type)!r}" if content_type else "a body without a type"
            raise Problem(415, f"Received {given}; expected {TYPES}.", headers={"Accept-Post": _ACCEPT})
        return found

    def _hold(self, size: int) -> None:
        self._buffered += size
        self._on_buffered(self._buffered)

    def _too_large(self) -> Problem:
        return Problem(
            413,
            f"The body has more than the {self.limits.body_bytes:,} bytes allowed. Send fewer or smaller images.",
            headers=_CLOSE,
        )


_ACCEPT = "multipart/form-data, application/json, image/*, application/octet-stream"


async def _apart(function: Callable[..., list[Upload]], body: bytes, *rest: Any) -> list[Upload]:
    if len(body) < _LARGE:
        return function(body, *rest)
    return await asyncio.to_thread(function, body, *rest)


def parse_json(body: bytes) -> Any:
    """A JSON document.

    Raises:
        Problem: It is none (400).
    """

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON")

    try:
        return json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else printable(str(error))
        raise Problem(400, f"The body is not a JSON document: {why}.", name="not-json") from None


def from_base64(text: Any, where: str) -> bytes:
    """The bytes that a text stands for.

    Raises:
        Problem: It is no text, or not in base64 (422).
    """
    try:
        if not isinstance(text, str):
            raise ValueError("it is not a string")
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error) as error:
        why = "it has other characters" if isinstance(error, UnicodeEncodeError) else str(error)
        raise Problem(
            422,
            f"{where} is not an image file in base64 (RFC 4648, section 4, without line ends): {why}.",
            name="not-base64",
        ) from None


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
    """Refuse more images than one request may have.

    Raises:
        Problem: They are too many (422).
    """
    if count > limits.images:
        raise Problem(
            422,
            f"Received {count} images; expected {limits.images} at most. Send several requests.",
            name="too-many-images",
        )


def _from_form(body: bytes, boundary: bytes, limits: Limits) -> list[Upload]:
    reader = _FormReader(limits)
    try:
        if not boundary:
            raise FormParserError("its type names no boundary")
        parser = MultipartParser(boundary, reader.callbacks())  # type: ignore[arg-type]  # as its documentation has them
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError, AssertionError) as error:
        raise Problem(
            400, f"The body is not a form of several parts: {printable(str(error))}.", name="not-a-form"
        ) from None
    if not reader.ended:
        raise Problem(400, "The form ends before its last boundary.", name="not-a-form")
    if not reader.found:
        raise Problem(422, "The form holds no image; expected files named image.")
    return reader.found


class _FormReader:
    """Collects the files of a form, all of which must be named image (or images)."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.found, self.ended = limits, list[Upload](), False
        self._field, self._value, self._data = bytearray(), bytearray(), bytearray()
        self._disposition = b""
        self._size = 0

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._begin, "on_header_field": self._on_field, "on_header_value": self._on_value,
            "on_header_end": self._on_header, "on_part_data": self._on_data, "on_part_end": self._end,
            "on_end": self._finish,
        }  # fmt: skip

    def _begin(self) -> None:
        check_count(len(self.found) + 1, self.limits)
        self._data, self._disposition, self._size = bytearray(), b"", 0

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def _on_header(self) -> None:
        if bytes(self._field).lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._field, self._value = bytearray(), bytearray()

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def _end(self) -> None:
        _, options = parse_options_header(self._disposition)
        field = options.get(b"name", b"")
        if field not in (b"image", b"images"):
            named = printable(field.decode("utf-8", "replace"))
            raise Problem(422, f"The form has a part named {named!r}; expected parts named image.")
        name = options.get(b"filename", b"").decode("utf-8", "replace")
        name = printable(os.path.basename(name.replace("\\", "/")))[:_NAME]
        self.found.append(Upload(bytes(self._data), name or None))

    def _finish(self) -> None:
        self.ended = True

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > _PART_HEADERS:
            raise Problem(
                400, f"A part of the form has more than {_PART_HEADERS:,} bytes of headers.", name="not-a-form"
            )
