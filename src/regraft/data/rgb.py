"""Convert an image that Pillow has opened to RGB of 8 bits, whatever its bands and bits.

This module needs NumPy and Pillow alone, so that a script beside an exported model can contain its source.
"""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageChops

#: The values that become black and white in images of more than 8 bits, of integers and of floats; equal: not known.
ValueRange = tuple[tuple[float, float], tuple[float, float]]
UNKNOWN_RANGE: ValueRange = ((0.0, 0.0), (0.0, 0.0))
#: White at each usual bit depth, and for floats also 1. Of these, the least that no value exceeds is white.
WHITES = (1, 255, 1023, 4095, 16383, 65535)
#: Share of white by which values may be negative, and floats above white, as after an interpolation.
_TOLERANCE = 0.05

#: TIFF tags.
_SUBFILE, _BITS, _PHOTOMETRIC, BANDS, _PLANES, _SAMPLE_FORMAT = 254, 258, 262, 277, 284, 339

#: Transposition that makes an image upright, by EXIF orientation; 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnsupportedImageError(ValueError):
    """Pillow reads the file, but its values have no certain meaning as colors."""


def upright_rgb(image: Image.Image, value_range: ValueRange = UNKNOWN_RANGE) -> Image.Image:
    """Convert an image that Pillow has opened to upright RGB; `value_range` is that of `to_rgb`."""
    wide = load_wide(image)
    image.load()  # turns a TIFF upright, and finds the EXIF block of a PNG
    return make_upright(to_rgb(image, wide, value_range), exif_orientation(image))


def load_wide(image: Image.Image) -> np.ndarray | None:
    """Values of an image with more than 8 bits a channel, (H, W) or (H, W, 3), integers or floats; else None.

    Of an `image` that is not loaded yet, all 16 bits of colors are read; Pillow alone reads the upper 8.
    """
    tags = getattr(image, "tag_v2", {})
    tiles, file = getattr(image, "tile", []), getattr(image, "fp", None)
    bits, rawmode = tags.get(_BITS, (8,)), _rawmode(tiles[0].args) if tiles else ""
    if tags.get(_SUBFILE, 0) & 1:
        raise UnsupportedImageError("the first page is a small preview, as in raw camera files. Export the picture.")
    if tags.get(_SAMPLE_FORMAT) == (2,) and bits == (8,):
        raise UnsupportedImageError("signed 8-bit values. Save them as 0 to 255.")
    if tags.get(_PLANES) == 2 and len(bits) > 1 and max(bits) > 8 and len(rawmode) == 1:
        raise UnsupportedImageError(f"separate planes of {max(bits)} bits. Save it with interleaved channels.")
    if image.mode[0] in "IF":
        values = np.asarray(image)
        return np.rint(values * (65535 / 4095)).astype(np.uint16) if bits == (12,) else values
    name, _, order = rawmode.partition(";16")
    if name not in ("RGB", "RGBA", "RGBX", "LA") or not order or file is None:
        return None
    # Pillow takes the first or the last of two bytes by the name of the byte order: the other name gives the other.
    other = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[order]
    position = file.tell()
    file.seek(0)
    again = Image.open(io.BytesIO(file.read()), formats=[image.format or ""])
    file.seek(position)
    # The four bytes of gray and alpha, of 16 bits each, are read as four bands.
    rawmode = "RGBA" if name == "LA" else f"{name};16{other}"
    again.tile = [tile._replace(args=_with_rawmode(tile.args, rawmode)) for tile in again.tile]
    bands = np.asarray(again).astype(np.uint16)
    if name == "LA":
        return bands[:, :, 0] << 8 | bands[:, :, 1]
    return np.asarray(image)[:, :, :3].astype(np.uint16) << 8 | bands[:, :, :3]


def _rawmode(args: str | tuple[Any, ...] | None) -> str:
    return str(args[0]) if isinstance(args, tuple) and args else args if isinstance(args, str) else ""


def _with_rawmode(args: str | tuple[Any, ...] | None, rawmode: str) -> str | tuple[Any, ...]:
    return (rawmode, *args[1:]) if isinstance(args, tuple) else rawmode


def white_for(largest: float, *, floats: bool) -> int:
    """The value that is white if no value exceeds `largest`, of integers or of floats; 0 if there is none."""
    limits = ((white, white * (1 + _TOLERANCE * floats)) for white in WHITES[not floats :])
    return next((white for white, limit in limits if largest <= limit), 0)


def to_rgb(image: Image.Image, wide: np.ndarray | None, value_range: ValueRange = UNKNOWN_RANGE) -> Image.Image:
    """Convert to mode RGB, without rotation; `wide` is what `load_wide` returned.

    Values outside `value_range` become black or white; where it is not known, 0 is black, and white is that of the
    image's own values. Transparent images are composited over white.
    """
    if wide is not None:
        scaled = _to_uint8(wide, value_range, is_measured=image.format == "DICOM")
        if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:  # white is zero; Pillow inverts 8 bits alone
            scaled = 255 - scaled
        colors = Image.fromarray(scaled)
        if image.mode == "RGBA":
            colors.putalpha(image.getchannel("A"))
        elif (key := image.info.get("transparency")) is not None:  # one value of all 16 bits, or one for each channel
            is_clear = (wide == key).reshape(*wide.shape[:2], -1).all(axis=2)
            colors.putalpha(Image.fromarray(np.where(is_clear, 0, 255).astype(np.uint8)))
        image = colors
    elif image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow inverts as Adobe does, and this file is not Adobe's
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_uint8(values: np.ndarray, value_range: ValueRange, *, is_measured: bool) -> np.ndarray:
    floats = values.dtype.kind == "f"
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
    finite = np.isfinite(values)
    lowest, highest = (float(bound(values, where=finite, initial=0.0)) for bound in (np.min, np.max))
    own = white_for(highest, floats=floats)
    if not is_measured and (not own or lowest < -_TOLERANCE * own):
        raise UnsupportedImageError(
            f"values in the range {lowest:g} to {highest:g}. Save it with 8 bits, or with 0 as black and 1, 255, 4095 "
            "or 65535 as white."
        )
    black, white = value_range[floats]
    if not black < white:
        black, white = 0.0, own
        if is_measured and finite.any():
            black = float(values.min(where=finite, initial=np.inf))
            white = max(highest, black + 1)
    return np.clip(np.rint((values - black) * (255 / (white - black))), 0, 255).astype(np.uint8)


def exif_orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 is upright."""
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        return 1  # the decoder turns it; EXIF counts only in a JPEG that is stored in the file
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the EXIF block is damaged, but the pixels are not
        return 1


def make_upright(image: Image.Image, orientation: int) -> Image.Image:
    """The upright image, given its EXIF orientation."""
    # Not ImageOps.exif_transpose: it rewrites the EXIF block and fails on malformed ones that some cameras write.
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def measure_value_range(stats: np.ndarray) -> ValueRange:
    """The values that become black and white, from records of statistics (N,), as `Dataset.value_range` has them."""
    wide = stats[stats["largest"] != 0]
    are_floats = wide["mode"] == b"F"
    return _range_of(wide[~are_floats], floats=False), _range_of(wide[are_floats], floats=True)


def _range_of(stats: np.ndarray, *, floats: bool) -> tuple[float, float]:
    if not len(stats):
        return 0.0, 0.0
    black, white = float(np.percentile(stats["low"], 1)), float(np.percentile(stats["high"], 99))
    return (black, white) if black < white else (0.0, float(white_for(float(stats["largest"].max()), floats=floats)))


def describe_value_range(stats: np.ndarray, value_range: ValueRange) -> list[str]:
    """Sentences about how images of more than 8 bits, if these records (N,) have any, become images of 8 bits."""
    wide = stats[stats["largest"] != 0]
    return [
        f"Images of more than 8 bits ({kind}): {black:,.6g} and less becomes black, {white:,.6g} and more white."
        for kind, is_float, (black, white) in zip(("integers", "floats"), (False, True), value_range, strict=True)
        if black < white and ((wide["mode"] == b"F") == is_float).any()
    ]
