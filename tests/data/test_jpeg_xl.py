"""JPEG XL is read with the extra, turned once, and its size is checked before it is decoded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from regraft.data.decode import decode_image
from regraft.data.image_stats import examine_image, stats_of
from regraft.errors import ImageError, ImageErrorCode

FILES = Path(__file__).parents[1] / "fixtures" / "jpeg_xl"
Encode = Callable[..., bytes]


@pytest.fixture(scope="module")
def upright() -> np.ndarray:
    """The pixels that all files of `FILES` store, uint8 (24, 40, 3)."""
    y, x = np.mgrid[:24, :40]
    return np.stack([6 * x, 10 * y, 3 * (x + y)], axis=2).astype(np.uint8)


def test_it_is_turned_once(upright: np.ndarray) -> None:
    """The format's own orientation counts; EXIF only in a JPEG that is stored as it was."""
    assert (decode_image(FILES / "plain.jxl") == upright).all()
    assert (decode_image(FILES / "turned.jxl") == np.rot90(upright, -1)).all()
    assert (decode_image((FILES / "exif_alone.jxl").read_bytes()) == upright).all()
    jpeg = decode_image(FILES / "jpeg_with_exif.jxl")
    assert jpeg.shape == (40, 24, 3)
    assert np.abs(jpeg.astype(int) - np.rot90(upright, -1)).mean() < 5


def test_it_is_examined_as_it_is_decoded() -> None:
    (stats,) = stats_of(np.atleast_1d(examine_image(FILES / "turned.jxl")["stats"]))
    assert (stats.width, stats.height, stats.format, stats.orientation) == (24, 40, "JXL", 1)


@pytest.mark.parametrize("size", [(8, 8), (256, 128), (40, 24), (61, 43), (300, 200), (1000, 1)])
def test_the_size_in_the_header_is_that_of_the_image(encode: Encode, size: tuple[int, int]) -> None:
    width, height = size
    data = encode(np.zeros((height, width, 3), np.uint8), "JXL")
    assert decode_image(data, max_pixels=width * height).shape == (height, width, 3)
    with pytest.raises(ImageError, match=f"{width} x {height} pixels, more than") as error:
        decode_image(data, max_pixels=width * height - 1)
    assert error.value.code == ImageErrorCode.TOO_LARGE


@pytest.mark.parametrize("name", ["plain.jxl", "exif_alone.jxl"])  # a codestream, and one in a container
def test_a_large_image_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    with pytest.raises(ImageError, match="40 x 24 pixels, more than 959 allowed"):
        decode_image(FILES / name, max_pixels=959)


def test_without_the_extra_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    with pytest.raises(ImageError, match=r"pip install 'regraft\[jxl\]'") as error:
        decode_image(FILES / "plain.jxl")
    assert error.value.code == ImageErrorCode.MISSING_EXTRA


def test_sixteen_bits_and_transparency(encode: Encode) -> None:
    wide = np.array([[0, 21845, 65535]], np.uint16).repeat(8, axis=0)
    assert decode_image(encode(wide, "JXL", lossless=True))[0, :, 0].tolist() == [0, 85, 255]
    rgba = np.zeros((8, 8, 4), np.uint8)
    assert (decode_image(encode(rgba, "JXL", lossless=True)) == 255).all()


@pytest.mark.parametrize("kept", [14, 0.5])
def test_a_damaged_file_is_said_to_be_one(encode: Encode, kept: float) -> None:
    data = encode(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8), "JXL")
    with pytest.raises(ImageError) as error:
        decode_image(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    assert error.value.reason == "not an image that can be read: the start of a JPEG XL image"
    assert error.value.code == ImageErrorCode.UNREADABLE
