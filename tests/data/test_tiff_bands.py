"""TIFF of many bands: files that GDAL and tifffile wrote, all with the values of `expected`."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.data.array_files import TooManyValuesError
from regraft.data.bands import read_bands
from regraft.data.rgb import UnsupportedImageError

FILES = sorted((Path(__file__).parents[1] / "fixtures" / "tiff").glob("*.tif"))
PLAIN = {256: 2, 257: 1, 258: 8, 259: 1, 262: 1, 277: 5, 278: 1, 279: 10}


def expected(dtype: np.dtype[np.generic]) -> np.ndarray:
    """Values (19, 23, 5)."""
    y, x, band = np.mgrid[:19, :23, :5]
    values = (31 * y + 7 * x + 13 * band) % 97
    return (values / 8 - 3).astype(dtype) if dtype.kind == "f" else values.astype(dtype)


def tiff(content: bytes = bytes(range(10)), **changes: int) -> bytes:
    """A little-endian TIFF of one strip, of 1 x 2 pixels of 5 bands unless tags are changed, by their numbers."""
    tags = {**PLAIN, 279: len(content), **{int(name.removeprefix("tag_")): value for name, value in changes.items()}}
    tags[273] = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + content


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_files_of_other_programs(file: Path) -> None:
    raster = read_bands(file, 10_000)
    assert raster is not None
    assert file.stem.split("-")[1] == raster.values.dtype.name
    np.testing.assert_array_equal(raster.values, expected(raster.values.dtype))
    assert raster.nodata == (0 if "int16-deflate" in file.stem else None)
    assert len(FILES) == 8


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"compression": "zstd"}, {"compression": "lzma"}])
def test_colors_are_those_that_pillow_reads(photo: np.ndarray, options: dict[str, str]) -> None:
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "TIFF", **options)
    raster = read_bands(file.getvalue(), photo.size)
    assert raster is not None
    np.testing.assert_array_equal(raster.values, photo)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(photo: np.ndarray, orientation: int) -> None:
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "TIFF", tiffinfo={274: orientation})
    raster = read_bands(file.getvalue(), photo.size)
    assert raster is not None
    with Image.open(file) as image:
        np.testing.assert_array_equal(raster.values, np.asarray(image))


def test_what_is_not_read_is_refused() -> None:
    assert read_bands(tiff(), 10).values.tolist() == [[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]]  # type: ignore[union-attr]
    with pytest.raises(TooManyValuesError, match="2 x 1 pixels of 5 bands, more than 9 values"):
        read_bands(tiff(), 9)
    for changes, message in (
        ({"tag_258": 12}, "12 bits"),
        ({"tag_339": 6}, "sample format 6"),
        ({"tag_259": 7}, "compression 7"),
        ({"tag_266": 2}, "Save it without compression"),
    ):
        with pytest.raises(UnsupportedImageError, match=message):
            read_bands(tiff(**changes), 10**6)


def test_damaged_files_raise_soon() -> None:
    for damaged in (
        tiff()[:-1],
        tiff(zlib.compress(bytes(9)), tag_259=8),
        tiff(tag_257=4),
        tiff(tag_322=2**16, tag_323=2**16, tag_324=8, tag_325=8),
    ):
        with pytest.raises(Exception, match=r"truncated|number of strips|larger"):
            read_bands(damaged, 10**6)
    bomb = zlib.compress(bytes(10**6))
    raster = read_bands(tiff(bomb, tag_259=8), 10)
    assert raster is not None
    assert not raster.values.any(), "what is beyond the last row is never unpacked"


def test_a_tiny_file_that_claims_many_tiles_raises_soon() -> None:
    for planes in (1, 2):
        tiles = tiff(tag_256=8000, tag_257=8000, tag_284=planes, tag_322=1, tag_323=1, tag_324=8, tag_325=8)
        with pytest.raises(ValueError, match="number of strips or tiles is not that of the size"):
            read_bands(tiles, 10**9)


def test_a_value_for_no_data_that_the_bands_cannot_have_is_none() -> None:
    for value, expected_nodata in ((3, 3), (300, None)):
        raster = read_bands(tiff(tag_42113=value), 10)
        assert raster is not None
        assert raster.nodata == expected_nodata
        valid = raster.is_valid(raster.values).ravel()
        assert [number for number in range(10) if not valid[number]] == [3] * (value == 3)


def test_what_a_sparse_file_lacks_is_no_data() -> None:
    raster = read_bands(tiff(tag_279=0, tag_42113=7), 10)
    assert raster is not None
    assert raster.values.tolist() == [[[7] * 5] * 2]
