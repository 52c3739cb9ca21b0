"""Every kind of bands and bits: what becomes of it, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from regraft.data.decode import decode_image
from regraft.data.rgb import WHITES, white_for
from regraft.errors import ImageError

Encode = Callable[..., bytes]


def gray(data: bytes, **options: Any) -> list[int]:
    pixels = decode_image(data, **options)
    assert (pixels == pixels[..., :1]).all()
    return pixels[0, :, 0].tolist()


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
@given(hnp.arrays(np.uint16, st.tuples(st.integers(1, 6), st.integers(1, 6))))
@settings(max_examples=25, deadline=None)
def test_white_of_the_data_scales_all_images_alike(format: str, values: np.ndarray) -> None:
    file = io.BytesIO()
    Image.fromarray(values).save(file, format)
    for white in (1023, 4095, 65535):
        expected = np.clip(np.rint(values * (255 / white)), 0, 255).astype(np.uint8)
        pixels = decode_image(file.getvalue(), value_range=((0, white), (0, 0)))
        np.testing.assert_array_equal(pixels, expected[:, :, None].repeat(3, axis=2))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_values_outside_the_range_are_black_and_white(encode: Encode, format: str) -> None:
    """A thermal image, whose values fill a small part of 16 bits."""
    data = encode(np.array([[28000, 29000, 30000, 31000, 31001]], np.uint16), format)
    assert gray(data, value_range=((29000, 31000), (0, 0))) == [0, 0, 128, 255, 255]
    assert gray(data)[0] == gray(data, value_range=((0, 0), (5, 6)))[0] == 109, "the range of floats is another one"


@pytest.mark.parametrize("white", [255, 1023, 4095, 16383, 65535])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_an_image_alone_is_scaled_by_its_own_bits(encode: Encode, format: str, white: int) -> None:
    assert gray(encode(np.array([[0, white // 3, white]], np.uint16), format)) == [0, 85, 255]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_colors_keep_their_lower_bits(tiff: Encode, format: str) -> None:
    values = np.array([[[0, 1365, 2730], [4095, 2048, 16]]], ">u2")
    data = tiff(values) if format == "TIFF" else _png(values)
    expected = np.rint(values * (255 / 4095)).astype(np.uint8)
    np.testing.assert_array_equal(decode_image(data), expected)
    of_16_bits = decode_image(data, value_range=((0, 65535), (0, 0)))
    np.testing.assert_array_equal(of_16_bits, np.rint(values / 257).astype(np.uint8))
    if format == "TIFF":
        little = values.astype("<u2")
        np.testing.assert_array_equal(decode_image(tiff(little)), expected)
        packed = zlib.compress(little.tobytes())
        deflated = tiff(np.frombuffer(packed, np.uint8).reshape(1, -1, 1), t256=2, t257=1, t258=[16] * 3, t259=8,
                        t262=2, t277=3, t339=[1] * 3)  # fmt: skip
        np.testing.assert_array_equal(decode_image(deflated), expected)


def _png(values: np.ndarray, transparent: tuple[int, ...] = ()) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, bands = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    clear = chunk(b"tRNS", struct.pack(f">{bands}H", *transparent)) if transparent else b""
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + clear
    return start + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_wide_colors_with_transparency_lie_over_white() -> None:
    values = np.array([[[4095, 0, 1365, 65535], [4095, 0, 0, 0]]], ">u2")
    assert decode_image(_png(values)).tolist() == [[[255, 0, 85], [255, 255, 255]]]


def test_wide_gray_with_transparency_keeps_its_lower_bits() -> None:
    values = np.array([[[1365, 65535], [4095, 65535], [0, 0], [16, 65535]]], ">u2")
    assert gray(_png(values)) == [85, 255, 255, 1]


def test_a_wide_value_that_means_transparent() -> None:
    """Of all 16 bits: the next value, whose upper 8 bits are the same, is not transparent."""
    values = np.array([[[1365], [1364], [4095]]], ">u2")
    assert gray(_png(values, transparent=(1365,))) == [255, 85, 255]
    colors = np.array([[[4095, 0, 1365], [4095, 0, 1364]]], ">u2")
    assert decode_image(_png(colors, transparent=(4095, 0, 1364))).tolist() == [[[255, 0, 85], [255, 255, 255]]]


def test_big_endian_sixteen_bits(encode: Encode) -> None:
    values = np.array([[0, 257, 65535], [32896, 514, 255]], dtype=">u2")
    data = encode(Image.frombytes("I;16B", (3, 2), values.tobytes()), "TIFF")
    np.testing.assert_array_equal(decode_image(data)[..., 0], [[0, 1, 255], [128, 2, 1]])


def test_twelve_bits_by_the_tag_are_those_of_sixteen(tiff: Encode) -> None:
    packed = np.array([[[0x00], [0x0F], [0xFF]]], np.uint8)  # 0 and 4095
    data = tiff(packed, t256=2, t258=12)
    assert gray(data) == gray(data, value_range=((0, 65535), (0, 0))) == [0, 255]


def test_white_is_zero(tiff: Encode) -> None:
    assert gray(tiff(np.array([[[0], [65535]]], np.uint16), t262=0)) == [255, 0]
    assert gray(tiff(np.array([[[0], [255]]], np.uint8), t262=0)) == [255, 0]


@pytest.mark.parametrize(("values", "expected"), [([0, 32896, 65535], [0, 128, 255]), ([-5, 257, 65535], [0, 1, 255])])
def test_thirty_two_bit_and_signed_integers(tiff: Encode, values: list[int], expected: list[int]) -> None:
    assert gray(tiff(np.array([values], np.int32)[:, :, None])) == expected
    signed = np.array([[[0], [16383]]], np.int16)
    assert gray(tiff(signed)) == [0, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.4, 255.0], [0, 100, 255]),
        ([0.0, 4095 / 3, 4095.0], [0, 85, 255]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([-0.01, 0.5, 1.02], [0, 128, 255]),  # an interpolation's overshoot does not make the image black
        ([np.nan, 0.5, 1.0], [0, 128, 255]),
        ([np.inf, 0.5, -np.inf], [255, 128, 0]),
        ([np.nan, 20.0, np.inf], [0, 20, 255]),
        ([np.nan, np.nan, np.nan], [0, 0, 0]),
    ],
)
def test_floats(encode: Encode, values: list[float], expected: list[int]) -> None:
    assert gray(encode(np.array([values], np.float32), "TIFF")) == expected


@pytest.mark.parametrize(
    ("dtype", "values", "found"),
    [
        ("int32", [-1000, 0, 2060], "range -1000 to 2060"),
        ("int16", [-1000, 0, 2060], "range -1000 to 2060"),
        ("int32", [0, 1, 2**31 - 1], r"range 0 to 2\.147"),
        ("float32", [-1.0, 0.0, 1.0], "range -1 to 1"),
        ("float32", [0.0, 1.0, 1e6], r"range 0 to 1e\+06"),
    ],
)
def test_values_without_a_certain_meaning_are_refused(
    tiff: Encode, dtype: str, values: list[float], found: str
) -> None:
    with pytest.raises(ImageError, match=found):
        decode_image(tiff(np.array([values], dtype)[:, :, None]))


@pytest.mark.parametrize(
    ("bands", "dtype", "tags", "words"),
    [
        (5, "uint8", {}, "a TIFF of 5 bands of 8-bit integers"),
        (13, "uint16", {}, "a TIFF of 13 bands of 16-bit integers"),
        (4, "uint8", {"t262": 1}, "a TIFF of 4 bands of 8-bit integers"),
        (3, "float32", {}, "a TIFF of 3 bands of 32-bit floats"),
        (1, "float64", {}, "a TIFF of 1 band of 64-bit floats"),
        (1, "int8", {}, "signed 8-bit values"),
        (3, "uint16", {"planes": True}, "a TIFF of 3 bands of 16-bit integers, which are not colors"),
        (3, "uint8", {"t254": 1}, "the first page is a small preview"),
    ],
)
def test_bands_that_are_no_colors_are_named(
    tiff: Encode, capfd: pytest.CaptureFixture[str], bands: int, dtype: str, tags: dict[str, int], words: str
) -> None:
    with pytest.raises(ImageError, match=words):
        decode_image(tiff(np.zeros((4, 5, bands), dtype), **tags))
    assert capfd.readouterr().err == ""


def test_more_bands_than_colors_are_left_out_where_the_file_names_the_colors(tiff: Encode) -> None:
    values = np.arange(6, dtype=np.uint8).reshape(1, 1, 6)
    assert decode_image(tiff(values, t262=2, t338=[0, 0, 0])).tolist() == [[[0, 1, 2]]]


def test_cmyk_without_adobes_marker_is_not_inverted(encode: Encode) -> None:
    data = encode(Image.new("CMYK", (8, 8), (0, 255, 255, 255)), "JPEG", quality=100)
    start = data.index(b"\xff\xee")
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    plain = data[:start] + data[start + 2 + length :]
    assert decode_image(data).max() <= 2
    assert np.abs(decode_image(plain).astype(int) - (0, 255, 255)).max() <= 2, "the same numbers mean the opposite"


def test_the_least_white_that_no_value_exceeds() -> None:
    assert [white_for(white, floats=True) for white in WHITES] == list(WHITES)
    assert (white_for(1, floats=False), white_for(4096, floats=False)) == (255, 16383)
    assert (white_for(1.04, floats=True), white_for(65536, floats=False)) == (1, 0)
