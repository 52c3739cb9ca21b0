"""Bands of images: chosen by number, scaled to 8 bits by ranges, and shown in false colors."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.data.bands import Raster, bands_of, count_bands, false_color
from regraft.data.dataset import Dataset
from regraft.data.decode import decode_bands, decode_image, decode_picture, read_raster
from regraft.data.image_stats import examine_image, stats_of
from regraft.data.scan import scan
from regraft.errors import ImageError, ImageErrorCode

Encode = Callable[..., bytes]
FIXTURES = Path(__file__).parents[1] / "fixtures" / "tiff"
SIX = np.random.default_rng(0).integers(0, 3000, (11, 12, 6)).astype(np.uint16)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_bands_are_scaled_each_by_its_range() -> None:
    values = np.array([[[0, 100], [40, 140]], [[100, 200], [150, 1000]]], np.int16)
    scaled = decode_bands(values, (2, 1), ((100, 200), (0, 100)))
    assert scaled.tolist() == [[[0, 0], [102, 102]], [[255, 255], [255, 255]]]
    assert scaled.dtype == np.uint8
    assert scaled.flags["C_CONTIGUOUS"]


def test_without_ranges_each_band_has_its_own_percentiles_and_8_bits_stay() -> None:
    ramp = np.linspace(-1, 3, 10_000).reshape(100, 100, 1).astype(np.float32)
    scaled = decode_bands(np.concatenate([ramp, 1000 * ramp], axis=2), (1, 2))
    np.testing.assert_array_equal(scaled[..., 0], scaled[..., 1])
    assert (scaled[0, 0, 0], scaled[-1, -1, 0]) == (0, 255)
    assert 50 <= (scaled == 0).sum() <= 70, "a thousandth and half a step are black"
    eight = SIX.astype(np.uint8)
    np.testing.assert_array_equal(decode_bands(eight, (6, 1)), eight[..., [5, 0]])


def test_no_data_is_black_and_has_no_part_in_percentiles() -> None:
    values = np.full((20, 20, 2), 500.0, np.float32)
    values[:, 10:] = 700
    values[:3, :, 0], values[:, :3, 1] = -9999, np.nan
    scaled = Raster(values, nodata=-9999).to_uint8()
    assert np.unique(scaled[3:, 3:]).tolist() == [0, 255]
    assert not scaled[:3, :, 0].any()
    assert not scaled[:, :3, 1].any()
    assert Raster(np.full((2, 2, 1), np.nan)).to_uint8().tolist() == [[[0], [0]], [[0], [0]]]


def test_the_same_bands_from_every_source(tmp_path: Path) -> None:
    file = tmp_path / "six.npy"
    np.save(file, SIX)
    expected = decode_bands(SIX, (6, 4, 2))
    for source in (file, str(file), file.read_bytes(), npy(SIX.transpose(2, 0, 1))):
        np.testing.assert_array_equal(decode_bands(source, (6, 4, 2)), expected)
    for tif in FIXTURES.glob("*uint16*.tif"):
        raster = read_raster(tif.read_bytes(), 1000) or Raster(np.empty(0))
        if "pages" in tif.stem:
            assert raster.values.size == 0, "alone, its first page is a gray image"
            assert decode_bands(tif, (5,)).shape == (19, 23, 1)
        else:
            assert raster.mode == "5xu2"


def test_bands_of_pictures(photo: np.ndarray, encode: Encode) -> None:
    np.testing.assert_array_equal(decode_bands(encode(photo, "PNG"), (3, 1)), photo[..., [2, 0]])
    with_alpha = np.dstack([photo, photo[..., 0]])
    np.testing.assert_array_equal(decode_bands(encode(with_alpha, "PNG"), (4,)), photo[..., :1])
    wide = photo[..., 0].astype(np.uint16) * 17
    gray = decode_bands(encode(wide, "PNG"), (1,), ((0, 255 * 17),))
    np.testing.assert_array_equal(gray[..., 0], photo[..., 0])
    turned = encode(photo, "JPEG", exif=Image.Exif(), quality=95)
    assert decode_bands(turned, (1, 2)).shape == (*photo.shape[:2], 2)
    palette = Image.fromarray(photo).convert("P")
    assert bands_of(palette).values.shape == photo.shape


@pytest.mark.parametrize(("mode", "frames", "count"), [
    ("L", 1, 1), ("L", 4, 4), ("I;16", 13, 13), ("LA", 1, 2), ("RGB", 1, 3), ("RGB;16", 1, 3), ("RGB+2", 1, 5),
    ("RGBA", 1, 4), ("RGBA;16", 1, 3), ("CMYK", 1, 4), ("P", 1, 3), ("13xu2", 1, 13), ("1xf4", 1, 1), ("F", 1, 1),
])  # fmt: skip
def test_number_of_bands_by_mode(mode: str, frames: int, count: int) -> None:
    assert count_bands(mode, frames) == count


def test_a_decoder_of_colors_refuses_other_bands_and_says_what_to_do() -> None:
    with pytest.raises(ImageError, match=r"6 bands of 16-bit integers, which are not colors.*data\.bands") as raised:
        decode_image(npy(SIX))
    assert raised.value.code == ImageErrorCode.UNREADABLE
    colors = SIX[..., :3].astype(np.uint8)
    np.testing.assert_array_equal(decode_image(npy(colors)), colors)
    np.testing.assert_array_equal(decode_image(npy(colors[..., 0])), np.repeat(colors[..., :1], 3, axis=2))
    with pytest.raises(ImageError, match="6 bands of 16-bit integers; expected at least 7, since band 7 is used"):
        decode_bands(npy(SIX), (1, 7))
    with pytest.raises(ImageError, match="more than 400 values allowed") as raised:
        decode_bands(npy(SIX), (1,), max_pixels=100)
    assert raised.value.code == ImageErrorCode.TOO_LARGE
    with pytest.raises(ImageError, match="12 x 11 pixels, more than 131 allowed"):
        decode_bands(npy(SIX[..., :3].astype(np.uint8)), (1,), max_pixels=131)
    with pytest.raises(ImageError, match="file not found"):
        decode_bands("missing.npy", (1,))


def test_pictures_to_look_at_show_the_first_bands_in_false_colors() -> None:
    np.testing.assert_array_equal(decode_picture(npy(SIX)), decode_bands(SIX, (1, 2, 3)))
    np.testing.assert_array_equal(decode_picture(SIX, numbers=(5, 1, 2, 6)), decode_bands(SIX, (5, 1, 2)))
    gray = decode_picture(npy(SIX), numbers=(5, 4))
    np.testing.assert_array_equal(gray, np.repeat(decode_bands(SIX, (5,)), 3, axis=2))
    assert false_color(np.zeros((4, 5, 1), np.uint8)).shape == (4, 5, 3)


def test_truth_values_are_no_image_and_do_not_end_a_scan(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        np.save(tmp_path / label / "six.npy", SIX)
    np.save(tmp_path / "dog" / "mask.npy", SIX > 9)
    dataset = scan(tmp_path)
    assert [(bad.path, bad.reason) for bad in dataset.bad] == [
        ("dog/mask.npy", "an array of bool; expected integers or floats")
    ]
    assert len(dataset) == 2
    with pytest.raises(ImageError, match=r"bool; expected .* of integers or floats"):
        Dataset.from_arrays([SIX > 9] * 2, ["cat", "dog"])
    with pytest.raises(ImageError, match="an array of bool; expected uint8"):
        Dataset.from_arrays([SIX[:, :, :3] > 9] * 2, ["cat", "dog"])


def test_the_scan_measures_what_it_shows() -> None:
    (stats,) = stats_of(examine_image(npy(SIX))["stats"][None])
    assert (stats.format, stats.mode, stats.width, stats.height, stats.largest) == ("NPY", "6xu2", 12, 11, 0)
    assert 0.3 < stats.brightness < 0.7
