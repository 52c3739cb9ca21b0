"""Open the first frame of a DICOM file with the extra `dicom`, as its window or lookup table shows it.

Output: a Pillow image of format `DICOM`. Gray values that no window or table makes visible stay as they are measured,
such as Hounsfield units, and are scaled as those of other images of more than 8 bits.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from regraft.data.jpeg_xl import too_large
from regraft.errors import ImageError, ImageErrorCode, MissingExtraError

#: Where the mark of a DICOM file is, and the mark.
_START, _MARK = 128, b"DICM"


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with these bytes, at least 132, is DICOM."""
    return head[_START : _START + len(_MARK)] == _MARK


def open_dicom(source: Path | str | bytes, max_pixels: int) -> Image.Image | None:
    """Decode the first frame of a DICOM file; None if it is no such file.

    The image has the number of frames as `n_frames`. Raises `ImageError` for an image of more than `max_pixels`, a file
    without an image, and if the extra is not installed; errors of damaged files are pydicom's.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        if not is_dicom(file.read(_START + len(_MARK))):
            return None
        name = "" if isinstance(source, bytes) else str(source)
        try:
            import pydicom
            from pydicom.pixels.decoders.base import get_decoder
            from pydicom.pixels.utils import pixel_array
        except ImportError as error:
            reason = str(MissingExtraError("a DICOM file", "dicom"))
            raise ImageError(reason, name, ImageErrorCode.MISSING_EXTRA) from error
        file.seek(0)
        dataset = pydicom.dcmread(file)
        if "PixelData" not in dataset:
            raise ImageError("a DICOM file without an image", name)
        width, height = int(dataset.Columns), int(dataset.Rows)
        if width * height > max_pixels:
            raise too_large(width, height, max_pixels, name)
        syntax = dataset.file_meta.TransferSyntaxUID
        if syntax.is_compressed and not get_decoder(syntax).is_available:
            how = "pip install pylibjpeg pylibjpeg-libjpeg"
            raise ImageError(f"a DICOM file compressed as {syntax.name}. To read it: {how}", name)
        values = pixel_array(dataset, index=0)
    image = _gray(values, dataset) if int(dataset.SamplesPerPixel) == 1 else Image.fromarray(_to_bytes(values, dataset))
    image.format = "DICOM"
    frames = int(dataset.get("NumberOfFrames") or 1)
    image.n_frames, image.is_animated = frames, frames > 1  # type: ignore[attr-defined]  # as Pillow's own files
    return image


def _gray(stored: np.ndarray, dataset: Any) -> Image.Image:
    """An image of one channel: colors of a palette, or gray values: of 8 bits if these are all or shown so, or floats.

    Floats are those of the modality, such as Hounsfield units. MONOCHROME1, where high values are dark, is inverted.
    """
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut, apply_windowing

    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        colors = apply_color_lut(stored, dataset)
        return Image.fromarray((colors >> 8 if colors.dtype == np.uint16 else colors).astype(np.uint8)[:, :, :3])
    values = np.asarray(apply_modality_lut(stored, dataset), np.float64)
    inverted, (lowest, highest) = dataset.PhotometricInterpretation == "MONOCHROME1", _stored_range(dataset)
    if tables := dataset.get("VOILUTSequence"):
        bits = int(tables[0].LUTDescriptor[2])
        shown = apply_voi_lut(values.astype(np.int64), dataset, prefer_lut=True) / (2**bits - 1)
    elif dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        # Values far outside of the window become the ends of what it gives.
        below, above = apply_windowing(np.array([-1e12, 1e12]), dataset)
        shown = (apply_windowing(values, dataset) - below) / (above - below)
    elif lowest == 0 and highest <= 255 and (values == stored).all():
        shown = values / highest
    else:
        if inverted:
            values = apply_modality_lut(np.array([lowest, highest]), dataset).sum() - values
        return Image.fromarray(values.astype(np.float32))
    shown = np.clip(np.rint(255 * shown), 0, 255).astype(np.uint8)
    return Image.fromarray(255 - shown if inverted else shown)


def _to_bytes(colors: np.ndarray, dataset: Any) -> np.ndarray:
    """Colors (H, W, 3) with 8 bits."""
    _, highest = _stored_range(dataset)
    return colors if colors.dtype == np.uint8 else np.rint(colors * (255 / highest)).astype(np.uint8)


def _stored_range(dataset: Any) -> tuple[int, int]:
    """The least and largest value that the bits of the file can store."""
    bits, is_signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
