"""Files of numpy: which arrays are images, and which axis has the channels."""

from __future__ import annotations

import io

import numpy as np
import pytest

from regraft.data.array_files import TooManyValuesError, channels_last, read_npy
from regraft.data.rgb import UnsupportedImageError


def stored(array: np.ndarray, **options: bool) -> io.BytesIO:
    file = io.BytesIO()
    np.save(file, array, **options)
    file.seek(0)
    return file


@pytest.mark.parametrize("dtype", ["u1", ">u2", "<i4", "f2", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_all_numbers_in_both_orders(dtype: str, order: str) -> None:
    values = (np.arange(60).reshape(5, 4, 3) % 2).astype(dtype)
    read = read_npy(stored(np.asarray(values, order=order)), 60)  # type: ignore[call-overload]
    np.testing.assert_array_equal(read, values)
    assert read.dtype.isnative


def test_the_shortest_axis_has_the_channels() -> None:
    assert channels_last(np.zeros((9, 8, 5))).shape == (9, 8, 5)
    assert channels_last(np.zeros((5, 9, 8))).shape == (9, 8, 5)
    assert channels_last(np.zeros((9, 8))).shape == (9, 8, 1)
    np.testing.assert_array_equal(channels_last(np.arange(24).reshape(2, 3, 4))[1, 2], [6, 18])
    for shape in ((13, 20, 13), (8, 8, 8), (9, 3, 8), (5,), (2, 5, 9, 8), (0, 9, 8)):
        with pytest.raises(UnsupportedImageError, match=r"array of shape .*expected|unclear which axis"):
            channels_last(np.zeros(shape))


def test_no_image_and_no_code() -> None:
    with pytest.raises(UnsupportedImageError, match="array of object"):
        read_npy(stored(np.array([{"a": 1}], object), allow_pickle=True), 10)
    with pytest.raises(UnsupportedImageError, match="array of complex64"):
        read_npy(stored(np.zeros((9, 8), np.complex64)), 100)
    with pytest.raises(UnsupportedImageError, match="array of bool; expected integers or floats"):
        read_npy(stored(np.zeros((9, 8), bool)), 100)
    with pytest.raises(TooManyValuesError, match="more than 71 values"):
        read_npy(stored(np.zeros((9, 8))), 71)
    with pytest.raises(ValueError, match="truncated"):
        read_npy(io.BytesIO(stored(np.zeros((9, 8))).getvalue()[:-1]), 100)
