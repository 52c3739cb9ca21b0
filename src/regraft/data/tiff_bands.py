"""Read all bands of a TIFF or GeoTIFF file, of any number and of 8 to 64 bits; Pillow itself reads at most four.

Output: values (H, W, C) as they are stored, and the value that stands for no data, if any. This module needs NumPy and
Pillow alone, so that a script beside an exported model can contain its source.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, TiffImagePlugin

from regraft.data.array_files import TooManyValuesError
from regraft.data.rgb import UnsupportedImageError

#: Tags.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _FILL_ORDER, _SAMPLES, _PLANES = 256, 257, 258, 259, 266, 277, 284
_STRIPS, _ORIENTATION, _ROWS, _STRIP_BYTES, _PREDICTOR = 273, 274, 278, 279, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _SAMPLE_FORMAT, _NODATA = 322, 323, 324, 325, 339, 42113
_KINDS = {1: "u", 2: "i", 3: "f"}
_PLAIN, _DEFLATE = 1, (8, 32946)
#: What libtiff, which is part of Pillow, decompresses here: LZW, PackBits, LZMA and Zstandard.
_BY_LIBTIFF = (5, 32773, 34925, 50000)


def is_tiff(head: bytes) -> bool:
    """Whether a file that begins with these bytes, at least 132, is TIFF, classic or big.

    A DICOM file may begin as a TIFF does.
    """
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") and head[128:132] != b"DICM"


def has_wide_planes(image: Image.Image) -> bool:
    """Whether a TIFF that Pillow has opened has separate planes of more than 8 bits, which Pillow does not decode."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(_PLANES) == 2 and tags.get(_SAMPLES, 1) > 1 and max(tags.get(_BITS, (8,))) > 8


def has_several_samples(file: BinaryIO) -> bool:
    """Whether a TIFF has several bands in its first page; False if it is damaged."""
    try:
        return int(_one(next(_pages(file)), _SAMPLES, 1)) > 1
    except UnsupportedImageError:
        raise
    except Exception:  # Pillow raises nearly every exception type on malicious bytes
        return False


def read_tiff(file: BinaryIO, max_values: int) -> tuple[np.ndarray, float | None, int]:
    """Read the bands of the first page; of a page with one band, those of all pages that are like it.

    Returns them with the value for no data and the EXIF orientation.

    Raises `UnsupportedImageError` for more than `max_values` values, and for bands, numbers and compressions that are
    not read, and `ValueError` or others for damaged files.
    """
    file.seek(0)
    order, pages = "<>"[file.read(1) == b"M"], _pages(file)
    first = next(pages)
    width, height, samples = (int(_one(first, tag, 1)) for tag in (_WIDTH, _HEIGHT, _SAMPLES))
    dtype = _dtype(first, order)
    alike = [first]
    if samples == 1:
        same = (_WIDTH, _HEIGHT, _SAMPLES, _BITS, _SAMPLE_FORMAT)
        alike += [page for page in pages if all(page.get(tag) == first.get(tag) for tag in same)]
    bands = samples * len(alike)
    if width * height * bands > max_values:
        raise TooManyValuesError(f"{width} x {height} pixels of {bands} bands, more than {max_values:,} values allowed")
    nodata = _nodata(first, dtype)
    values = np.zeros((height, width, bands), dtype.newbyteorder("="))  # takes no memory before it is written
    for index, page in enumerate(alike):
        _read_page(file, page, dtype, values[:, :, index : index + 1] if len(alike) > 1 else values, nodata or 0)
    return values, nodata, int(_one(first, _ORIENTATION, 1))


def _pages(file: BinaryIO) -> Iterator[Any]:
    """The tags of each page."""
    file.seek(0)
    header = file.read(8)
    if header[:4] == b"MM\0+":
        raise UnsupportedImageError("a big TIFF of big-endian numbers. Save it with little-endian ones.")
    header += file.read(8) if 43 in header[2:4] else b""
    tags = TiffImagePlugin.ImageFileDirectory_v2(header)
    seen, place = set[int](), tags.next
    while place and place not in seen:  # a damaged file may have a circle of pages
        seen.add(place)
        file.seek(place)
        tags = TiffImagePlugin.ImageFileDirectory_v2(header)
        tags.load(file)
        yield tags
        place = tags.next


def _one(tags: Any, tag: int, default: Any) -> Any:
    """The first value of a tag."""
    value = tags.get(tag, default)
    return value[0] if isinstance(value, tuple) else value


def _dtype(tags: Any, order: str) -> np.dtype[Any]:
    bits, formats = (set(tags.get(tag, (default,))) for tag, default in ((_BITS, 8), (_SAMPLE_FORMAT, 1)))
    kind, size = _KINDS.get(min(formats)), min(bits)
    if len(bits) > 1 or len(formats) > 1 or kind is None or size not in (8, 16, 32, 64) or (kind, size) == ("f", 8):
        text = " and ".join(map(str, sorted(bits)))
        raise UnsupportedImageError(
            f"a TIFF with bands of {text} bits of the sample format {min(formats)}. Expected bands of one type: "
            "integers of 8, 16, 32 or 64 bits, or floats of 16, 32 or 64 bits."
        )
    return np.dtype(f"{order}{kind}{size // 8}")


def _nodata(tags: Any, dtype: np.dtype[Any]) -> float | None:
    """GDAL's value for no data; None if there is none, no value can be it, or it is NaN, which needs no mark."""
    try:
        nodata = float(str(_one(tags, _NODATA, "")).strip("\0 "))
    except ValueError:
        return None
    if dtype.kind in "ui" and not (nodata.is_integer() and np.iinfo(dtype).min <= nodata <= np.iinfo(dtype).max):
        return None  # such as -9999 in bands of 8 bits, where it would be another number
    return None if math.isnan(nodata) else nodata


def _read_page(file: BinaryIO, tags: Any, dtype: np.dtype[Any], values: np.ndarray, missing: float) -> None:
    """Decode the strips or tiles of a page into its values (H, W, C); those that a sparse file lacks are `missing`."""
    height, width, bands = values.shape
    compression, predictor = int(_one(tags, _COMPRESSION, _PLAIN)), int(_one(tags, _PREDICTOR, 1))
    if compression not in (_PLAIN, *_DEFLATE, *_BY_LIBTIFF) or _one(tags, _FILL_ORDER, 1) != 1:
        raise UnsupportedImageError(
            f"a TIFF with {bands} bands in the compression {compression}. Save it without compression, or with deflate,"
            " LZW or Zstandard."
        )
    is_tiled = _TILES in tags
    across, down = (width, _one(tags, _ROWS, height)) if not is_tiled else (tags[_TILE_WIDTH], tags[_TILE_HEIGHT])
    across, down = int(across), min(int(down), height) if not is_tiled else int(down)
    planes = bands if _one(tags, _PLANES, 1) == 2 else 1
    offsets = _list(tags[_TILES if is_tiled else _STRIPS])
    counts = _list(tags[_TILE_BYTES if is_tiled else _STRIP_BYTES])
    if across * down * bands > 16 * max(values.size, 2**20):
        raise ValueError("tiles that are much larger than the image")
    tops, lefts = range(0, height, down), range(0, width, across)
    if not planes * len(tops) * len(lefts) == len(offsets) == len(counts):  # a tiny file may claim any size
        raise ValueError("the number of strips or tiles is not that of the size")
    samples = bands // planes
    for (plane, top, left), offset, count in zip(product(range(planes), tops, lefts), offsets, counts, strict=True):
        rows = down if is_tiled else min(down, height - top)
        part = values[top : top + rows, left : left + across, plane : plane + samples]
        if not count:
            part[...] = missing
            continue
        file.seek(offset)
        row_bytes = across * samples * dtype.itemsize
        content = _decompress(file.read(count), compression, row_bytes, rows)
        if len(content) < rows * row_bytes:
            raise ValueError("truncated: a strip or tile ends before its last row")
        chunk = _undo_predictor(content[: rows * row_bytes], predictor, dtype, (rows, across, samples))
        part[...] = chunk[: part.shape[0], : part.shape[1]]


def _list(value: int | Sequence[int]) -> Sequence[int]:
    return (value,) if isinstance(value, int) else value


def _decompress(data: bytes, compression: int, row_bytes: int, rows: int) -> bytes:
    if compression == _PLAIN:
        return data
    if compression in _DEFLATE:
        return zlib.decompressobj().decompress(data, row_bytes * rows)
    # To libtiff these are the rows of a gray image.
    entries = {
        _WIDTH: row_bytes, _HEIGHT: rows, _BITS: 8, _COMPRESSION: compression, 262: 1, _STRIPS: 0, _SAMPLES: 1,
        _ROWS: rows, _STRIP_BYTES: len(data),
    }  # fmt: skip
    entries[_STRIPS] = 8 + 2 + 12 * len(entries) + 4
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    header = b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + struct.pack("<I", 0)
    with Image.open(io.BytesIO(header + data), formats=["TIFF"]) as image:
        return image.tobytes()


def _undo_predictor(content: bytes, predictor: int, dtype: np.dtype[Any], shape: tuple[int, int, int]) -> np.ndarray:
    """Values (rows, columns, samples): sums of differences (2), or of the bytes of floats, which stand apart (3)."""
    rows, columns, samples = shape
    if predictor == 3:
        parts = np.frombuffer(content, np.uint8).reshape(rows, -1, samples).cumsum(axis=1, dtype=np.uint8)
        parts = parts.reshape(rows, dtype.itemsize, columns * samples).transpose(0, 2, 1)
        return np.ascontiguousarray(parts).view(dtype.newbyteorder(">")).reshape(shape)
    values = np.frombuffer(content, dtype).reshape(shape)
    if predictor == 2:
        steps = values.astype(dtype.newbyteorder("=")).view(f"u{dtype.itemsize}")
        return steps.cumsum(axis=1, dtype=steps.dtype).view(dtype.newbyteorder("="))
    return values
