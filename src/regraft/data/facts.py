"""What one reading of an image file tells about it, kept for every later run.

Enters: the bytes of an image file. Leaves: `Facts`, and a small grey picture by which near duplicates are found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image

from regraft.data.decode import MAX_PIXELS, opened, orientation_of, to_rgb, turned

#: Side of the grey picture, in pixels; sharpness is measured at twice that.
THUMB = 64

#: Changes whenever the same bytes would give other facts, or another picture.
FACTS_VERSION = 2


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file is and what its image looks like.

    Attributes:
        bytes: Of the file.
        width: In pixels, upright.
        height: In pixels, upright.
        format: Pillow's name, such as `JPEG`.
        mode: Pillow's name, such as `RGB` or `I;16`.
        orientation: As EXIF has it, 1 (upright) to 8.
        animated: Whether it has several frames, of which only the first is used.
        brightness: Mean grey value, 0 (black) to 1 (white).
        contrast: Standard deviation of the grey values, 0 to 0.5.
        sharpness: Mean size of the step between neighbouring grey values when the image is scaled to 128 x 128 pixels,
            0 to 1; low for what is blurred at the size that a network sees.
    """

    bytes: int
    width: int
    height: int
    format: str
    mode: str
    orientation: int
    animated: bool
    brightness: float
    contrast: float
    sharpness: float


#: The facts in their order, and what examining an image gives: them and the picture.
FACTS = np.dtype([
    ("bytes", "<i8"), ("width", "<i4"), ("height", "<i4"), ("format", "S8"), ("mode", "S8"),
    ("orientation", "u1"), ("animated", "u1"), ("brightness", "<f4"), ("contrast", "<f4"), ("sharpness", "<f4"),
])  # fmt: skip
RECORD = np.dtype([("facts", FACTS), ("thumb", "u1", (THUMB, THUMB))])

_LEVELS = np.arange(256) / 255.0


def examine_image(source: Path | str | bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an image to its end, in the quickest way that finds out whether it can be decoded.

    Args:
        source: A path, or the bytes of an image file.
        max_pixels: As for `decode_image`.

    Returns:
        A `RECORD` of shape ().

    Raises:
        ImageError: The image cannot be read; the reason is in a few words.
    """
    size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
    with opened(source, max_pixels) as image:
        (width, height), mode = image.size, image.mode
        animated = image.format in ("GIF", "PNG", "WEBP") and getattr(image, "is_animated", False)
        # Of a JPEG in colour the brightness alone is decoded.
        image.draft("L" if mode == "RGB" else mode, (2 * THUMB, 2 * THUMB))
        image.load()
        orientation = orientation_of(image)  # a PNG is loaded for it, and what is wrong with it would be swallowed
        thumb, *measures = look(image if image.mode == "L" else to_rgb(image))
        if orientation > 1:
            thumb = np.asarray(turned(Image.fromarray(thumb), orientation))
        if orientation >= 5:
            width, height = height, width
        record = np.zeros((), RECORD)
        record["facts"] = (size, width, height, image.format or "", mode, orientation, animated, *measures)
        record["thumb"] = thumb
        return record


def look(image: Image.Image) -> tuple[np.ndarray, float, float, float]:
    """The small grey picture, uint8 (THUMB, THUMB), brightness, contrast and sharpness of an image."""
    grey = image.convert("L").resize((2 * THUMB, 2 * THUMB), Image.Resampling.BILINEAR)
    levels = np.array(grey.histogram(), np.float64) / (2 * THUMB) ** 2
    brightness = float(levels @ _LEVELS)
    contrast = math.sqrt(max(0.0, float(levels @ _LEVELS**2) - brightness**2))
    values = np.asarray(grey).astype(np.int16)
    steps = np.abs(values[1:] - values[:-1]).mean() + np.abs(values[:, 1:] - values[:, :-1]).mean()
    return np.asarray(grey.reduce(2)), brightness, contrast, float(steps) / 2 / 255


def facts_of(rows: np.ndarray) -> Iterator[Facts]:
    """The facts in rows of the store, uint8 (n, size of `FACTS`)."""
    records = rows.view(FACTS).reshape(-1)
    columns = [records[field.name].tolist() for field in fields(Facts)]
    for size, width, height, kind, mode, orientation, animated, *measures in zip(*columns, strict=True):
        yield Facts(size, width, height, kind.decode(), mode.decode(), orientation, bool(animated), *measures)
