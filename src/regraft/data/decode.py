"""Decode images to RGB pixels, or to other bands; every part of regraft reads images through this module.

The same bytes give the same pixels in training, evaluation, prediction, serving and export checks.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from stat import S_IFDIR, S_IFMT, S_IFREG

import numpy as np
import pi_heif
from PIL import Image, ImageFile, UnidentifiedImageError

from regraft.data.array_files import TooManyValuesError
from regraft.data.bands import COLOR_MODES, BandRanges, Raster, bands_of, false_color, is_picture, read_bands
from regraft.data.dicom import is_dicom, open_dicom
from regraft.data.file_kinds import describe_unknown
from regraft.data.jpeg_xl import open_jpeg_xl, too_large
from regraft.data.rgb import UNKNOWN_RANGE, UnsupportedImageError, ValueRange, to_rgb, upright_rgb
from regraft.errors import ImageError, ImageErrorCode

pi_heif.register_heif_opener()
logging.getLogger("PIL").addHandler(logging.NullHandler())  # our errors say what it would print

ImageSource = Path | str | bytes | np.ndarray | Image.Image

#: File extensions of the formats that are read, by Pillow's names. JPEG includes MPO, which some phones write.
FORMAT_EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif", ".heics", ".heifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"),
    "JXL": (".jxl",),
    "DICOM": (".dcm", ".dicom"),
    "NPY": (".npy",),
}
FORMATS = tuple(FORMAT_EXTENSIONS)
#: The formats that Pillow opens; see `jpeg_xl`, `dicom` and `array_files` for the others.
_PILLOW_FORMATS = tuple(name for name in FORMATS if name not in ("JXL", "DICOM", "NPY"))
_DICOM = FORMAT_EXTENSIONS["DICOM"]
#: File extensions of images, in lower case.
EXTENSIONS = frozenset(chain.from_iterable(FORMAT_EXTENSIONS.values()))

#: Images with more pixels are refused before they are decoded (a decompression bomb, or a scan to tile).
MAX_PIXELS = 89_478_485
#: Values of all bands, for each allowed pixel, above which an image is refused: those of a transparent picture.
VALUES_PER_PIXEL = 4

#: Part of every cache key; changes whenever the same bytes would give other pixels.
DECODER_VERSION = 4

#: Why a stream (see `is_stream`) cannot be read.
STREAM = "a pipe or device, not an image file"

#: Largest value up to which floats may also be an image in 0..1 that was normalized: white has 2.6 in ImageNet's.
_UNCLEAR = 3.0

#: How many images are being decoded, and Pillow's `LOAD_TRUNCATED_IMAGES` before the first.
_decoding, _fills_truncated = 0, False
_lock = threading.Lock()
#: What Pillow says of a truncated file; it has no exception type for it.
_PILLOW_TRUNCATED = re.compile("truncat|not enough|unexpected end", re.IGNORECASE)


def decode_image(
    source: ImageSource,
    *,
    max_pixels: int = MAX_PIXELS,
    at_least: int | None = None,
    value_range: ValueRange = UNKNOWN_RANGE,
) -> np.ndarray:
    """Decode an image to upright RGB, uint8 (H, W, 3), C-contiguous; raises `ImageError` if it cannot be read.

    The source is a path, the bytes of an image file, a Pillow image, or an array, (H, W) or (H, W, 1, 3 or 4): uint8,
    or float as `floats_to_uint8` takes it.
    Images of more than `max_pixels` are refused, by Pillow itself above twice its `MAX_IMAGE_PIXELS`. If sides of
    `at_least` pixels are enough, a JPEG is decoded at 1/2, 1/4 or 1/8 of its size, which is several times faster.

    EXIF orientation is applied. Only the first frame or page is used. Transparent images are composited over white.
    CMYK, YCbCr, LAB and palette images are converted to RGB; gray images are repeated over three channels. In images
    of more than 8 bits, `value_range` has the values of integers, and those of floats, that become 0 and 255. Where it
    is not known, 0 stays 0, and 255 is the least of 1 (floats alone), 255, 1023, 4095, 16383 and 65535 that no value of
    the image exceeds. NaN becomes black. Values that are clearly negative or larger are refused; those of DICOM files
    without a window may be, and where `value_range` is not known, the least is black and the largest white. A numpy
    file, and a TIFF whose bands are not colors, is read if it has one or three bands of 8 bits; see `decode_bands`.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if not isinstance(source, Image.Image) and (raster := read_raster(source, max_pixels)) is not None:
        if raster.mode in COLOR_MODES:
            return false_color(raster.to_uint8())
        kind = "TIFF" if raster.format == "TIFF" else "numpy file"
        raise ImageError(
            f"a {kind} of {raster.described}, which are not colors. Choose the bands that are used as channels, or as "
            "red, green and blue, with data.bands (bands=) when the model is trained.", _name_of(source),
        )  # fmt: skip
    with open_image(source, max_pixels) as image:
        if at_least and image is not source:
            image.draft(image.mode, (at_least, at_least))  # has an effect on JPEG only
        return np.array(upright_rgb(image, value_range))


def decode_bands(
    source: ImageSource, numbers: Sequence[int], ranges: BandRanges = (), *, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decode some bands of an image, by their numbers from 1, to upright uint8 (H, W, C), C-contiguous.

    The source is that of `decode_image`, an array (H, W, C) of any number of channels and any integers or floats, or a
    TIFF or numpy file of any number of bands. The bands of other images are gray, or red, green and blue, with 8 bits
    also alpha. `ranges` are the values of each band that become 0 and 255; by default its 0.1th and 99.9th percentile,
    or 0 and 255 for bands of 8 bits. NaN and GDAL's value for no data become 0. Raises `ImageError` as `decode_image`,
    and if the image has too few bands.
    """
    return select_bands(source, numbers, max_pixels).to_uint8(ranges)


def decode_picture(
    source: ImageSource,
    *,
    max_pixels: int = MAX_PIXELS,
    at_least: int | None = None,
    value_range: ValueRange = UNKNOWN_RANGE,
    numbers: Sequence[int] = (),
    ranges: BandRanges = (),
) -> np.ndarray:
    """Decode an image to look at it, uint8 (H, W, 3): as `decode_image` does, or the first bands in false colors.

    With the `numbers` of bands these are shown, by `false_color`.
    """
    if numbers:
        return false_color(decode_bands(source, numbers, ranges, max_pixels=max_pixels))
    raster = None
    if isinstance(source, (bytes, str, Path)):
        raster = read_raster(source, max_pixels)
    elif isinstance(source, np.ndarray) and (
        source.dtype != np.uint8 or source.shape[2:] not in ((), (1,), (3,), (4,))
    ):
        raster = all_bands(source)
    if raster is None:
        return decode_image(source, max_pixels=max_pixels, at_least=at_least, value_range=value_range)
    count = raster.values.shape[2]
    return false_color(raster.select(range(1, min(count, 3) + 1)).to_uint8())


def read_raster(source: bytes | str | Path, max_pixels: int) -> Raster | None:
    """Read all bands of a file whose bands have no certain meaning as colors; None if `decode_image` reads it.

    Raises `ImageError` if it cannot be read.
    """
    with _image_errors(source):
        return None if is_picture(source) else _read_bands(source, max_pixels)


def select_bands(source: ImageSource, numbers: Sequence[int], max_pixels: int = MAX_PIXELS) -> Raster:
    """Read bands of a source of `decode_bands` as they are stored; raises `ImageError` if there are too few."""
    try:
        return all_bands(source, max_pixels).select(numbers)
    except UnsupportedImageError as error:
        raise ImageError(str(error), _name_of(source)) from error


def all_bands(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Raster:
    """Read all bands of a source of `decode_bands` as they are stored; raises `ImageError` if it cannot be read."""
    if isinstance(source, np.ndarray):
        values = source[:, :, None] if source.ndim == 2 else source
        if values.ndim != 3 or 0 in values.shape or values.dtype.kind not in "uif":
            raise ImageError(
                f"an array of shape {source.shape} and {source.dtype}; expected (H, W) or (H, W, C) of integers or "
                "floats"
            )
        return Raster(values)
    if not isinstance(source, Image.Image):
        with _image_errors(source):
            raster = _read_bands(source, max_pixels)
        if raster is not None:
            return raster
    with open_image(source, max_pixels) as image:
        return bands_of(image)


def _read_bands(source: bytes | str | Path, max_pixels: int) -> Raster | None:
    raster = read_bands(source, VALUES_PER_PIXEL * max_pixels)
    if raster is not None and (size := raster.values.shape)[0] * size[1] > max_pixels:
        raise too_large(size[1], size[0], max_pixels, _name_of(source))
    return raster


def _name_of(source: ImageSource) -> str:
    return str(source) if isinstance(source, (Path, str)) else ""


def pixels_sha256(pixels: np.ndarray) -> str:
    """The SHA-256 of decoded pixels and their shape, in hexadecimal: that of a file, for an image in memory."""
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


@contextmanager
def open_image(source: Path | str | bytes | Image.Image, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image of at most `max_pixels`; every failure inside the context becomes an `ImageError`."""
    name = _name_of(source)
    with _image_errors(source), _refuse_truncated(), ExitStack() as stack:
        image = source if isinstance(source, Image.Image) else stack.enter_context(_open(source, max_pixels))
        if image.width * image.height > max_pixels:
            raise too_large(image.width, image.height, max_pixels, name)
        yield image


@contextmanager
def _image_errors(source: Path | str | bytes | Image.Image) -> Iterator[None]:
    """Turn every failure to read a source into an `ImageError`."""
    name = _name_of(source)
    try:
        if name and is_stream(name):
            raise ImageError(STREAM, name)
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        if (len(source) if isinstance(source, bytes) else Path(name).stat().st_size) == 0:
            raise ImageError("empty file", name, ImageErrorCode.EMPTY) from error
        what = describe_unknown(source if isinstance(source, bytes) else name)
        raise ImageError(what or f"not an image that can be read ({', '.join(FORMATS)})", name) from error
    except UnsupportedImageError as error:
        code = ImageErrorCode.TOO_LARGE if isinstance(error, TooManyValuesError) else ImageErrorCode.UNREADABLE
        raise ImageError(str(error), name, code) from error
    except FileNotFoundError as error:
        raise ImageError("file not found", name) from error
    except IsADirectoryError as error:
        raise ImageError("a folder, not an image file", name) from error
    except PermissionError as error:
        raise ImageError("no permission to read it", name) from error
    except Exception as error:  # Pillow's decoders raise nearly every exception type on malicious bytes
        code = ImageErrorCode.UNREADABLE
        if isinstance(error, Image.DecompressionBombError):
            code = ImageErrorCode.TOO_LARGE
        elif _PILLOW_TRUNCATED.search(str(error)):
            code = ImageErrorCode.TRUNCATED
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"cannot be decoded: {reason}", name, code) from error


def _open(source: Path | str | bytes, max_pixels: int) -> Image.Image:
    # Before Pillow, which takes a DICOM file that also begins as a TIFF does for a damaged TIFF.
    may_be_dicom = is_dicom(source) if isinstance(source, bytes) else str(source).lower().endswith(_DICOM)
    if may_be_dicom and (image := open_dicom(source, max_pixels)) is not None:
        return image
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_PILLOW_FORMATS)
    except UnidentifiedImageError:
        if (image := open_jpeg_xl(source, max_pixels) or open_dicom(source, max_pixels)) is None:
            raise
        return image


@contextmanager
def _refuse_truncated() -> Iterator[None]:
    """Disable `LOAD_TRUNCATED_IMAGES` of Pillow, which fills missing pixels with gray and which other code may set."""
    global _decoding, _fills_truncated
    with _lock:
        if not _decoding:
            _fills_truncated, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
        _decoding += 1
    try:
        yield
    finally:
        with _lock:
            _decoding -= 1
            if not _decoding:
                ImageFile.LOAD_TRUNCATED_IMAGES = _fills_truncated


def has_frames(path: Path | str) -> bool:
    """Whether a TIFF, GIF, WebP or DICOM file has several frames or pages; False if it cannot be read."""
    if Path(path).suffix.lower() in (".tif", ".tiff", ".gif", ".webp", *_DICOM):
        with suppress(ImageError), open_image(path, MAX_PIXELS) as image:
            return bool(getattr(image, "is_animated", False))
    return False


def is_stream(path: Path | str) -> bool:
    """Whether a path is a pipe, socket or device, from which reading may never end."""
    return S_IFMT(os.stat(path).st_mode) not in (S_IFREG, S_IFDIR)


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ImageError(
            f"an array of shape {array.shape}; expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). Other channels are "
            "bands, of which data.bands (bands=) chooses some or all."
        )
    if np.issubdtype(array.dtype, np.floating):
        array = floats_to_uint8(array)
    if array.dtype != np.uint8:
        raise ImageError(f"an array of {array.dtype}; expected uint8 in 0..255, or float in 0..1 or 0..255")
    if array.shape[2] == 4:
        return np.array(to_rgb(Image.fromarray(array, "RGBA"), None))
    return np.ascontiguousarray(np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array)


def floats_to_uint8(array: np.ndarray) -> np.ndarray:
    """Convert floats of one image or a batch, in 0..1 or in 0..255 as Keras has them, to uint8 of the same shape.

    The largest value decides: up to 1 is white at 1, and above 3, or above 1 where all values are whole, white at 255.
    In between it is unclear: an image in 0..1 that was resized or normalized, or a dark one in 0..255. Raises
    `ImageError` for that, for NaN and for values outside both ranges.
    """
    lowest, highest = (float(bound(array)) if array.size else 0.0 for bound in (np.min, np.max))  # NaN stays NaN
    if not 0.0 <= lowest <= highest <= 255.0:
        raise ImageError(
            f"a float array with values from {lowest:g} to {highest:g}; expected 0..1 or 0..255, before any other "
            "normalization"
        )
    if 1.0 < highest <= _UNCLEAR and not (array == np.rint(array)).all():
        raise ImageError(
            f"a float array with values from {lowest:g} to {highest:g}: it is unclear whether 1 or 255 is white; "
            "expected 0..1 (clip it) or 0..255 (as uint8, array.round().astype('uint8'))"
        )
    return np.rint(array if highest > 1.0 else array * 255.0).astype(np.uint8)
