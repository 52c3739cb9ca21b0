"""Choose bands of an image with any number of them, and convert them to 8 bits.

This module needs NumPy and Pillow alone, so that a script beside an exported model can contain its source.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from regraft.data.array_files import is_npy, read_npy
from regraft.data.rgb import UnsupportedImageError, exif_orientation, load_wide
from regraft.data.tiff_bands import has_several_samples, has_wide_planes, is_tiff, read_tiff

#: For each band the values that become 0 and 255.
BandRanges = tuple[tuple[float, float], ...]
#: Modes (see `Raster.mode`) of which the bands are taken for gray, or for red, green and blue.
COLOR_MODES = ("1xu1", "3xu1")
#: Percentiles of an image's values that become 0 and 255 where no ranges are known.
PERCENTILES = (0.1, 99.9)
#: Values of a band that are looked at for percentiles, about.
_VALUES = 2**18
#: Bytes that show what a file is.
_HEAD = 132


class Raster(NamedTuple):
    """Values as an image stores them, (H, W, C), the value that stands for no data, if any, and the file's format."""

    values: np.ndarray
    nodata: float | None = None
    format: str = ""

    @property
    def mode(self) -> str:
        """Number and type of the bands, such as `13xu2` for 13 bands of unsigned integers of 2 bytes."""
        return f"{self.values.shape[2]}x{self.values.dtype.kind}{self.values.dtype.itemsize}"

    @property
    def described(self) -> str:
        """The bands in words, such as "13 bands of 16-bit integers"."""
        return describe_bands(self.mode)

    def select(self, numbers: Sequence[int]) -> Raster:
        """Some of the bands, in this order, by numbers from 1; raises `UnsupportedImageError` if one is absent."""
        count = self.values.shape[2]
        if (last := max(numbers)) > count:
            raise UnsupportedImageError(f"{self.described}; expected at least {last}, since band {last} is used")
        if tuple(numbers) == tuple(range(1, count + 1)):
            return self
        return self._replace(values=self.values[:, :, [number - 1 for number in numbers]])

    def is_valid(self, values: np.ndarray) -> np.ndarray:
        """Which of some values are data: finite, and not the value for no data."""
        valid: np.ndarray = np.isfinite(values)
        if self.nodata is not None:
            valid &= values != np.array(self.nodata).astype(values.dtype)
        return valid

    def own_ranges(self) -> BandRanges:
        """For each band the 0.1th and 99.9th percentile of its values; 0 and 255 for bands of 8 bits."""
        height, width, count = self.values.shape
        if self.values.dtype == np.uint8:
            return tuple((0.0, 255.0) for _ in range(count))
        step = max(1, int((height * width / _VALUES) ** 0.5))
        ranges = []
        for band in range(count):
            values = self.values[::step, ::step, band]
            values = values[self.is_valid(values)]
            low, high = np.percentile(values, PERCENTILES).tolist() if values.size else (0.0, 0.0)
            ranges.append((low, high))
        return tuple(ranges)

    def to_uint8(self, ranges: BandRanges = ()) -> np.ndarray:
        """Scale each band to uint8 (H, W, C), by its own percentiles without `ranges`; what is no data becomes 0."""
        values, ranges = self.values, ranges or self.own_ranges()
        if values.dtype == np.uint8 and self.nodata is None and set(ranges) == {(0.0, 255.0)}:
            return np.ascontiguousarray(values)
        scaled = np.zeros(values.shape, np.uint8)
        for band, (black, white) in enumerate(ranges):
            wide = values[:, :, band].astype(np.float64)
            valid = self.is_valid(values[:, :, band])
            steps = (wide[valid] - black) * (255 / (white - black if white > black else 1.0))
            scaled[:, :, band][valid] = np.clip(np.rint(steps), 0, 255)
        return scaled


def false_color(pixels: np.ndarray) -> np.ndarray:
    """A picture, uint8 (H, W, 3), of channels (H, W, C): the first three as colors, or of fewer the first as gray."""
    chosen = pixels[:, :, :3] if pixels.shape[2] >= 3 else np.repeat(pixels[:, :, :1], 3, axis=2)
    return np.ascontiguousarray(chosen)


def read_bands(source: bytes | str | Path, max_values: int) -> Raster | None:
    """Read all bands of a TIFF or numpy file; None if it is another file, whose bands `bands_of` has."""
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        head = file.read(_HEAD)
        file.seek(0)
        if is_npy(head):
            return Raster(read_npy(file, max_values), None, "NPY")
        if not is_tiff(head):
            return None
        values, nodata, orientation = read_tiff(file, max_values)
        return Raster(_upright(values, orientation), nodata, "TIFF")


def is_picture(source: bytes | str | Path) -> bool:
    """Whether a file has gray or colors, so far as can be seen: it is no numpy file, and no TIFF of other bands."""
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        head = file.read(_HEAD)
        if is_npy(head):
            return False
        if not is_tiff(head):
            return True
        file.seek(0)
        try:
            return not has_wide_planes(Image.open(file, formats=["TIFF"]))
        except UnidentifiedImageError:
            return not has_several_samples(file)


def bands_of(image: Image.Image) -> Raster:
    """The bands of an image that Pillow has opened, upright, as stored: gray or colors, with 8 bits also alpha."""
    values = load_wide(image)
    image.load()
    if values is None:
        values = np.asarray(image if image.mode in ("L", "LA", "RGB", "RGBA", "CMYK") else image.convert("RGB"))
    values = values[:, :, None] if values.ndim == 2 else values
    return Raster(_upright(values, exif_orientation(image)), None, image.format or "")


def has_bands(mode: str) -> bool:
    """Whether an image of a mode of `Raster`, or of Pillow, has bands that are not colors."""
    return bool(re.match(r"\d+x", mode)) and mode not in COLOR_MODES


def describe_bands(mode: str) -> str:
    """The bands of a mode of `Raster` in words."""
    count, kind, size = mode.partition("x")[0], mode.partition("x")[2][:1], int(mode.partition("x")[2][1:])
    numbers = "floats" if kind == "f" else "integers"
    return f"{count} {'band' if count == '1' else 'bands'} of {8 * size}-bit {numbers}"


def count_bands(mode: str, frames: int = 1) -> int:
    """How many bands `read_bands` or `bands_of` finds in a file with this mode, as in `ImageStats`."""
    if match := re.match(r"(\d+)x", mode):
        return int(match[1])
    name, _, more = mode.partition("+")
    name, wide, _ = name.partition(";")
    colors = {"L": 1, "LA": 1 if wide else 2, "I": 1, "F": 1, "RGBA": 3 if wide else 4, "CMYK": 4}.get(name, 3)
    return colors + int(more or 0) if colors > 1 or more else frames


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Values (H, W, C), given their EXIF orientation."""
    if orientation >= 5:
        values = values.transpose(1, 0, 2)
    rows, columns = -1 if orientation in (3, 4, 7, 8) else 1, -1 if orientation in (2, 3, 6, 7) else 1
    return values[::rows, ::columns]
