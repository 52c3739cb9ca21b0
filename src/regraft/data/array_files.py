"""Read a numpy file (`.npy`), and say which axis of an array has the channels.

This module needs NumPy and Pillow alone, so that a script beside an exported model can contain its source.
"""

from __future__ import annotations

import os
from typing import BinaryIO

import numpy as np

from regraft.data.rgb import UnsupportedImageError

_MARK = b"\x93NUMPY"


class TooManyValuesError(UnsupportedImageError):
    """An image has more values than allowed."""


def is_npy(head: bytes) -> bool:
    """Whether a file that begins with these bytes, at least 6, is a numpy file."""
    return head.startswith(_MARK)


def read_npy(file: BinaryIO, max_values: int) -> np.ndarray:
    """Read the array of a file as (H, W, C); raises `UnsupportedImageError` if it is no image or has too many values.

    Nothing is executed: arrays of objects are refused.
    """
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read_header(file)
    if dtype.kind not in "uif":
        raise UnsupportedImageError(f"an array of {dtype}; expected integers or floats")
    count, start = int(np.prod(shape, dtype=object)), file.tell()
    if count > max_values:
        raise TooManyValuesError(f"an array of shape {shape}, more than {max_values:,} values allowed")
    if file.seek(0, os.SEEK_END) - start < count * dtype.itemsize:
        raise ValueError(f"truncated: an array of shape {shape} needs more bytes")
    file.seek(start)
    values = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    values = values.reshape(shape[::-1]).T if is_fortran else values.reshape(shape)
    return channels_last(values.astype(dtype.newbyteorder("="), copy=False))


def channels_last(values: np.ndarray) -> np.ndarray:
    """An array (H, W), (H, W, C) or (C, H, W) as (H, W, C): the channels are the first or last axis if it is shortest.

    Raises `UnsupportedImageError` if neither the first nor the last axis is shorter than both others.
    """
    shape = values.shape
    if values.ndim not in (2, 3) or 0 in shape:
        raise UnsupportedImageError(f"an array of shape {shape}; expected (H, W), (H, W, C) or (C, H, W)")
    if values.ndim == 2:
        return values[:, :, None]
    if shape[2] < min(shape[:2]):
        return values
    if shape[0] < min(shape[1:]):
        return values.transpose(1, 2, 0)
    raise UnsupportedImageError(
        f"an array of shape {shape}, where it is unclear which axis has the channels. Expected (H, W, C) or (C, H, W), "
        "with fewer channels than rows and columns."
    )
