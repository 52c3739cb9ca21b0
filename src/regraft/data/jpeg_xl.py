"""Open JPEG XL files with the plugin of the extra `jxl`, after their size is known to be allowed.

The plugin decodes the whole image when it opens a file, so that a file of a few bytes could fill the memory.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from regraft.errors import ImageError, ImageErrorCode, MissingExtraError

_CODESTREAM, _CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
#: Bytes in which the size is.
_LENGTH = 16
#: Number of bits of a side of the image, minus 1, by a selector of 2 bits.
_SIDE_BITS = (9, 13, 18, 30)
#: Width by height, as a fraction, by the ratio in the header; 0: the width follows.
_RATIOS = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def is_jpeg_xl(head: bytes) -> bool:
    """Whether a file that begins with these bytes, at least 12, is JPEG XL."""
    return head.startswith((_CODESTREAM, _CONTAINER))


def open_jpeg_xl(source: Path | str | bytes, max_pixels: int) -> Image.Image | None:
    """Decode a JPEG XL file; None if it is no such file or its header is damaged.

    Raises `ImageError` for an image of more than `max_pixels`, and if the extra is not installed, and
    `UnidentifiedImageError` for a damaged one.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        head = file.read(len(_CONTAINER))
        if not is_jpeg_xl(head) or (size := _size(file)) is None:
            return None
        name = "" if isinstance(source, bytes) else str(source)
        if size[0] * size[1] > max_pixels:
            raise too_large(*size, max_pixels, name)
        try:
            from pillow_jxl import JpegXLImagePlugin
        except ImportError as error:
            reason = str(MissingExtraError("a JPEG XL image", "jxl"))
            raise ImageError(reason, name, ImageErrorCode.MISSING_EXTRA) from error
        JpegXLImagePlugin.DECODE_THREADS = 0  # images are decoded beside one another
        file.seek(0)
        content = file.read()
    try:
        return Image.open(io.BytesIO(content), formats=["JXL"])
    except BaseException as error:
        is_panic = type(error).__module__.startswith("pyo3")  # of Rust, which is no Exception
        if is_panic or (isinstance(error, Exception) and not isinstance(error, MemoryError)):
            raise UnidentifiedImageError("damaged JPEG XL") from error  # the plugin says how to build its library
        raise


def too_large(width: int, height: int, max_pixels: int, name: str) -> ImageError:
    """The error for an image of more pixels than allowed."""
    return ImageError(f"{width} x {height} pixels, more than {max_pixels:,} allowed", name, ImageErrorCode.TOO_LARGE)


def _size(file: BinaryIO) -> tuple[int, int] | None:
    """Width and height by the header of the codestream (ISO/IEC 18181-1, `SizeHeader`); None if it is damaged."""
    file.seek(0)
    head = file.read(_LENGTH)
    if not head.startswith(_CODESTREAM):
        if not _seek_codestream(file):
            return None
        head = file.read(_LENGTH)
    if len(head) < 3 or not head.startswith(_CODESTREAM):
        return None
    bits = int.from_bytes(head[2:].ljust(_LENGTH, b"\0"), "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & (1 << count) - 1, bits >> count
        return value

    is_small = take(1)

    def take_side() -> int:
        return 8 * (take(5) + 1) if is_small else take(_SIDE_BITS[take(2)]) + 1

    height = take_side()
    over, under = _RATIOS[take(3)]
    return (height * over // under if over else take_side()), height


def _seek_codestream(file: BinaryIO) -> bool:
    """Move to the codestream in a container of boxes (ISO/IEC 18181-2); False if there is none."""
    end = file.seek(0, os.SEEK_END)
    start = 0
    while start + 8 <= end:
        file.seek(start)
        length, kind = int.from_bytes(file.read(4), "big"), file.read(4)
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        if kind == b"jxlp":
            file.seek(4, os.SEEK_CUR)  # the number of the part
        if kind in (b"jxlc", b"jxlp"):
            return True
        if length < 8:  # 0: the box reaches to the end of the file
            return False
        start += length
    return False
