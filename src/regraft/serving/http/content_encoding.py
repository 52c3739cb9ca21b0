"""Unpack compressed request bodies (Content-Encoding) piece by piece, so that their size can be limited."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from starlette.requests import Request

from regraft.serving.http.problem_details import Problem, printable

_ENCODINGS = ("gzip", "x-gzip", "deflate")
#: Size of a piece, and zlib's parameter for data in the format of gzip or zlib.
_PIECE_BYTES, _GZIP_OR_ZLIB = 2**20, 47


class Unpacker:
    """Unpacks the body of one request."""

    def __init__(self, request: Request) -> None:
        """Raise `Problem` 415 for an encoding that is not supported, and 501 for such a transfer encoding."""
        given = ", ".join(request.headers.getlist("content-encoding")).strip().lower()
        transfer = request.headers.get("transfer-encoding", "chunked").strip().lower()
        if transfer != "chunked":
            raise Problem(501, f"Received the transfer encoding {printable(transfer)!r}; expected chunked.")
        if given not in ("", "identity", *_ENCODINGS):
            text = f"Received the content encoding {printable(given)!r}; expected gzip, deflate or none."
            raise Problem(415, text, headers={"Accept-Encoding": "gzip, deflate"})
        self._name = given
        self._stream = zlib.decompressobj(_GZIP_OR_ZLIB) if given in _ENCODINGS else None

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield the content of the next part of the body; raises `Problem` 400 if it is damaged."""
        stream = self._stream
        if stream is None:
            yield data
            return
        try:
            while True:
                piece = stream.decompress(data, _PIECE_BYTES)
                if stream.unused_data or (stream.eof and not piece and data):
                    raise zlib.error("there are more bytes after the end")
                yield piece
                data = stream.unconsumed_tail
                if len(piece) < _PIECE_BYTES:
                    return
        except zlib.error as error:
            raise self._damaged(str(error)) from None

    def finish(self) -> None:
        """Raise `Problem` 400 if the body ends too early."""
        if self._stream is not None and not self._stream.eof:
            raise self._damaged("it ends too early")

    def _damaged(self, reason: str) -> Problem:
        return Problem(400, f"The body is not {self._name} data: {printable(reason)}.", name="not-compressed")
