"""Damage bytes as a bad disk, a broken transfer or an attacker does."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

_PNG = b"\x89PNG\r\n\x1a\n"
_SIZES = (0, 1, 0x7F, 0x7FFF, 0x8000, 0xFFFF, 30_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_VALUES = (None, True, -1, 0, 1e308, 10**12, "", "x" * 1000, "../..", [], {}, [[]], float("nan"))


def damage(draw: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """A damaged copy of some bytes, which differs; `others` are contents from which a part may come."""
    while (damaged := _damage_once(draw, content, others)) == content:
        pass
    return damaged


def _damage_once(draw: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    data, length = bytearray(content), len(content)
    start, end = sorted((draw.randrange(length), draw.randrange(length)))
    kind = draw.choice(("bits", "bits", "bytes", "cut", "splice", "sizes", "sizes", "removed", "repeated"))
    if kind == "bits":
        for _ in range(draw.randint(1, 20)):
            data[draw.randrange(length)] ^= 1 << draw.randrange(8)
    elif kind == "bytes":
        data[start:end] = draw.randbytes(end - start)
    elif kind == "cut":
        del data[start:]
    elif kind == "splice":
        other = draw.choice(others)
        data[start:] = other[draw.randrange(len(other)) :]
    elif kind == "sizes":  # numbers of a header that are too large, or nothing
        for _ in range(draw.randint(1, 3)):
            form, place = draw.choice(("<I", ">I", "<H", ">H")), draw.randrange(min(length, 256))
            number = struct.pack(form, draw.choice(_SIZES) % 2 ** (8 * struct.calcsize(form)))
            data[place : place + len(number)] = number
    elif kind == "removed":
        del data[start:end]
    else:
        data[end:end] = data[start:end]
    return _with_checksums(bytes(data)) if draw.random() < 0.5 else bytes(data)


def _with_checksums(content: bytes) -> bytes:
    """The checksums of a PNG file as a decoder expects them, so that it reads what the damage has changed."""
    if not content.startswith(_PNG):
        return content
    data, place = bytearray(content), len(_PNG)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        if place + 12 + length > len(data):
            break
        data[place + 8 + length : place + 12 + length] = struct.pack(">I", zlib.crc32(data[place + 4 :][: 4 + length]))
        place += 12 + length
    return bytes(data)


def damage_json(draw: random.Random, content: bytes) -> bytes:
    """JSON in which a value is another one, or is missing."""
    value = json.loads(content)
    holder, key = draw.choice(list(_places(value)))
    if draw.random() < 0.2:
        del holder[key]
    else:
        holder[key] = draw.choice(_VALUES)
    return json.dumps(value, indent=2).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every value within a JSON value: what holds it, and its key or index."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])
