"""Measure an image file once: size, format, brightness, contrast, sharpness, and a thumbnail.

The index stores the measures, and the thumbnail, from which near duplicates are found, for later runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image

from regraft.data.bands import Raster, false_color
from regraft.data.decode import MAX_PIXELS, open_image, read_raster
from regraft.data.rgb import BANDS, exif_orientation, load_wide, make_upright, to_rgb

#: Side of the thumbnail in pixels; sharpness is measured at twice this size.
THUMBNAIL_SIZE = 64

#: Part of every cache key; changes whenever the same bytes would give other values or another thumbnail.
STATS_VERSION = 5

#: Percentiles of an image's values that are its `low` and `high`, and the values that are looked at, about.
_PERCENTILES, _VALUES = (0.1, 99.9), 2**20
#: What stands for a largest value of 0 above negative ones, since 0 is that of images of 8 bits.
_JUST_ABOVE = 1e-6


@dataclass(frozen=True, slots=True)
class ImageStats:
    """Properties of an image file and of its upright pixels.

    `format` and `mode` are Pillow's names, such as `JPEG` and `I;16`, with `RGB;16` for 16 bits and `RGB+2` for two
    more bands, which are not used, or `13xu2` for 13 bands of unsigned integers of 2 bytes; `orientation` is EXIF's, 1
    (upright) to 8. Only the first of several `frames` or pages is used. `largest` is the largest value of an image with
    more than 8 bits, `low` and `high` are the 0.1th and 99.9th percentile of its values; else all are 0, also of other
    bands than colors. Where the largest value is 0 and others are negative, `largest` is just above. `brightness` and
    `contrast` are the mean and the standard deviation of the gray values, 0 (black) to 1 (white); in an image with more
    than 8 bits, these are `low` and `high`. `sharpness` is the mean absolute difference of neighboring gray values when
    the image is scaled to 128 x 128 pixels; it is low for images that are blurred at the size that a network sees.
    """

    bytes: int
    width: int
    height: int
    format: str
    mode: str
    orientation: int
    frames: int
    largest: float
    brightness: float
    contrast: float
    sharpness: float
    low: float = 0.0
    high: float = 0.0


#: The fields of `ImageStats`, in their order, as one record of a table.
STATS_DTYPE = np.dtype([
    ("bytes", "<i8"), ("width", "<i4"), ("height", "<i4"), ("format", "S8"), ("mode", "S8"),
    ("orientation", "u1"), ("frames", "<i4"), ("largest", "<f4"), ("brightness", "<f4"), ("contrast", "<f4"),
    ("sharpness", "<f4"), ("low", "<f4"), ("high", "<f4"),
])  # fmt: skip
RECORD_DTYPE = np.dtype([("stats", STATS_DTYPE), ("thumbnail", "u1", (THUMBNAIL_SIZE, THUMBNAIL_SIZE))])

_LEVELS = np.arange(256) / 255.0


def examine_image(source: Path | str | bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read a whole image file in the fastest way that proves that it can be decoded, and measure it.

    Returns a `RECORD_DTYPE`, shape (); raises `ImageError` if the image cannot be read.
    """
    size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
    if (raster := read_raster(source, max_pixels)) is not None:
        return _record_of(raster, size)
    with open_image(source, max_pixels) as image:
        (width, height), mode = image.size, image.mode
        # Of a color JPEG, only the luma channel is decoded.
        image.draft("L" if mode == "RGB" else mode, (2 * THUMBNAIL_SIZE, 2 * THUMBNAIL_SIZE))
        wide = load_wide(image)
        image.load()
        extra = getattr(image, "tag_v2", {}).get(BANDS, 0) - len(image.getbands())
        mode += f"+{extra}" if extra > 0 else ";16" if wide is not None and mode[0] not in "IF" else ""
        largest = _largest(wide)
        # After load(): Pillow loads a PNG to find its EXIF block, and exif_orientation would swallow the error.
        orientation = exif_orientation(image)
        ends = _percentiles(wide)
        thumbnail, *measures = measure(image if image.mode == "L" else to_rgb(image, wide, (ends, ends)))
        if orientation > 1:
            thumbnail = np.asarray(make_upright(Image.fromarray(thumbnail), orientation))
        if orientation >= 5:
            width, height = height, width
        frames = 1
        if image.format != "MPO":  # whose second frame is a phone's preview
            with suppress(Exception):  # a later frame is damaged, but the first is not
                frames = getattr(image, "n_frames", 1)
        record = np.zeros((), RECORD_DTYPE)
        record["stats"] = (
            size,
            width,
            height,
            image.format or "",
            mode,
            orientation,
            frames,
            largest,
            *measures,
            *ends,
        )
        record["thumbnail"] = thumbnail
        return record


def _record_of(raster: Raster, size: int) -> np.ndarray:
    """The record of an image that has other bands than colors, of which the first three, or the first, are measured."""
    height, width, count = raster.values.shape
    shown = false_color(raster.select(range(1, min(count, 3) + 1)).to_uint8())
    thumbnail, *measures = measure(Image.fromarray(shown))
    record = np.zeros((), RECORD_DTYPE)
    record["stats"] = (size, width, height, raster.format, raster.mode, 1, 1, 0.0, *measures, 0.0, 0.0)
    record["thumbnail"] = thumbnail
    return record


def _largest(wide: np.ndarray | None) -> float:
    """The largest value of an image with more than 8 bits, which may be negative; 0 where all are, or of another."""
    if wide is None or not (finite := np.isfinite(wide)).any():
        return 0.0
    largest = float(wide.max(where=finite, initial=-np.inf if wide.dtype.kind == "f" else np.iinfo(wide.dtype).min))
    return _JUST_ABOVE if largest == 0 and wide.min(where=finite, initial=0) < 0 else largest


def _percentiles(wide: np.ndarray | None) -> tuple[float, float]:
    if wide is None:
        return 0.0, 0.0
    step = math.ceil(math.sqrt(wide.size / _VALUES))
    values = wide[::step, ::step]
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, _PERCENTILES).tolist() if values.size else (0.0, 0.0)
    return low, high


def measure(image: Image.Image) -> tuple[np.ndarray, float, float, float]:
    """Thumbnail, uint8 (THUMBNAIL_SIZE, THUMBNAIL_SIZE), brightness, contrast and sharpness of an image."""
    side = 2 * THUMBNAIL_SIZE
    gray = image.convert("L").resize((side, side), Image.Resampling.BILINEAR)
    histogram = np.array(gray.histogram(), np.float64) / side**2
    brightness = float(histogram @ _LEVELS)
    contrast = math.sqrt(max(0.0, float(histogram @ _LEVELS**2) - brightness**2))
    values = np.asarray(gray).astype(np.int16)
    steps = np.abs(values[1:] - values[:-1]).mean() + np.abs(values[:, 1:] - values[:, :-1]).mean()
    return np.asarray(gray.reduce(2)), brightness, contrast, float(steps) / 2 / 255


def stats_of(rows: np.ndarray) -> Iterator[ImageStats]:
    """The stats in rows of a table: `STATS_DTYPE` (n,), or as bytes, uint8 (n, its item size)."""
    records = rows.view(STATS_DTYPE).reshape(-1)
    columns = [records[field.name].tolist() for field in fields(ImageStats)]
    for size, width, height, kind, mode, *numbers in zip(*columns, strict=True):
        yield ImageStats(size, width, height, kind.decode(), mode.decode(), *numbers)
