"""The one decoder: training, evaluation, prediction, server and export checks read pixels through it.

Enters: a path, encoded bytes, or an array that is decoded already. Leaves: RGB pixels, uint8, (height, width,
3), upright. The same bytes give the same pixels everywhere.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_IFDIR, S_IFMT, S_IFREG

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from regraft.errors import ImageError

ImageSource = Path | str | bytes | np.ndarray

#: Pillow's names of the formats that are read. JPEG includes MPO, which is what some phones make of it.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

#: Endings by which files are taken for images when a folder is scanned (lower case).
EXTENSIONS = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif",
    ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
))  # fmt: skip

#: Images with more pixels are refused before they are decoded (a decompression bomb, or a scan to tile).
MAX_PIXELS = 89_478_485

#: Changes whenever the same bytes would give other pixels; part of every cache key.
DECODER_VERSION = 2

#: Why what `is_stream` names cannot be read.
STREAM = "a pipe or device, which holds no image"

#: What sets an image upright, by its EXIF orientation; 1 is upright already.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: Orientations in which width and height change places.
_SIDEWAYS = (5, 6, 7, 8)


def decode_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS, at_least: int | None = None) -> np.ndarray:
    """Decode an image to upright RGB.

    EXIF orientation is applied. Of an animation the first frame is used. Transparency is laid over white.
    CMYK, YCbCr, LAB and palettes are converted to RGB, grey is repeated over three channels. 16-bit values
    are divided by 257; 32-bit integers are read as 16-bit ones where they fit; floats are read as 0..1 or, if
    any is larger, as 0..255, and what is not a number is black.

    Args:
        source: A path, the bytes of an image file, or an array: uint8 or float in 0..1, (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4).
        max_pixels: The largest width x height that is decoded; Pillow itself refuses twice its
            `MAX_IMAGE_PIXELS`.
        at_least: Where no more is needed, a JPEG is decoded at a half, a quarter or an eighth of its size, so long
            as both sides keep this many pixels; that is several times faster.

    Returns:
        uint8 array (H, W, 3), C-contiguous.

    Raises:
        ImageError: The image cannot be read; the reason is in a few words.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    with opened(source, max_pixels) as image:
        if at_least:
            image.draft(image.mode, (at_least, at_least))  # only a JPEG heeds it
        image.load()
        return np.array(to_rgb(turned(image, orientation_of(image))))


@contextmanager
def opened(source: Path | str | bytes, max_pixels: int) -> Iterator[Image.Image]:
    """An image of allowed size; whatever goes wrong with it becomes an `ImageError`."""
    name = "" if isinstance(source, bytes) else str(source)
    try:
        if not isinstance(source, bytes) and is_stream(source):
            raise ImageError(STREAM, name)
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            pixels = image.width * image.height
            if pixels > max_pixels:
                raise ImageError(f"{image.width} x {image.height} pixels, more than {max_pixels:,} allowed", name)
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(_why_unidentified(source), name) from error
    except FileNotFoundError as error:
        raise ImageError("file not found", name) from error
    except IsADirectoryError as error:
        raise ImageError("a folder, not an image file", name) from error
    except PermissionError as error:
        raise ImageError("no permission to read it", name) from error
    except Exception as error:  # on hostile bytes Pillow's decoders raise nearly every type there is
        raise ImageError(f"cannot be decoded: {error or type(error).__name__}", name) from error


def is_stream(path: Path | str) -> bool:
    """Whether it is a pipe, socket or device: to read it might never end.

    Raises:
        OSError: There is no such file.
        ValueError: There can be none of this name.
    """
    return S_IFMT(os.stat(path).st_mode) not in (S_IFREG, S_IFDIR)


def _why_unidentified(source: Path | str | bytes) -> str:
    size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
    return "empty file" if size == 0 else f"not an image that can be read ({', '.join(FORMATS)})"


def orientation_of(image: Image.Image) -> int:
    """As EXIF has it, 1 to 8; 1 is upright."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged block says nothing about orientation; the pixels are whole
        return 1


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image as its EXIF orientation wants it shown."""
    # Not ImageOps.exif_transpose: it writes the EXIF block anew, and fails on odd ones that cameras leave.
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def to_rgb(image: Image.Image) -> Image.Image:
    """In mode RGB, by the rules that `decode_image` tells."""
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        image = Image.fromarray(_scale_to_uint8(np.asarray(image), mode), "L")
    elif mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def _scale_to_uint8(values: np.ndarray, mode: str) -> np.ndarray:
    values = values.astype(np.float64)
    if mode == "F":
        values = np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=-np.inf)
        if values.max(where=np.isfinite(values), initial=0.0) <= 1.0:
            values = values * 255.0
    elif mode == "I" and values.max() > 65535:
        values = values / 16_843_009.0  # 0xFFFFFFFF / 0xFF
    else:
        values = values / 257.0
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ImageError(f"an array of shape {array.shape}; expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0.0 and array.max() <= 1.0):
            raise ImageError("a float array with values outside 0..1; expected 0..1, or uint8 in 0..255")
        array = np.rint(array * 255.0).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ImageError(f"an array of {array.dtype}; expected uint8 in 0..255 or float in 0..1")
    if array.shape[2] == 4:
        return np.array(to_rgb(Image.fromarray(array, "RGBA")))
    return np.ascontiguousarray(np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array)
