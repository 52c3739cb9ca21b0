"""DICOM: the first frame, as its window or table shows it, or as it was measured."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from regraft.data.decode import decode_image, has_frames
from regraft.data.image_stats import examine_image
from regraft.data.rgb import measure_value_range
from regraft.data.scan import scan
from regraft.errors import ImageError, ImageErrorCode

Encode = Callable[..., bytes]
RAMP = np.array([[0, 1000, 2000, 3000, 4095]], np.uint16)


def gray(data: bytes, **options: Any) -> list[int]:
    pixels = decode_image(data, **options)
    assert (pixels == pixels[..., :1]).all()
    return pixels[0, :, 0].tolist()


def test_a_window_makes_eight_bits(encode: Encode) -> None:
    """By the formula of PS3.3 C.11.2.1.2, with the first of several windows, and none of the data's range."""
    window = {"WindowCenter": [2000.5, 7], "WindowWidth": [2001, 7], "BitsStored": 12}
    data = encode(RAMP, "DICOM", **window)
    assert gray(data) == gray(data, value_range=((5, 6), (5, 6))) == [0, 0, 128, 255, 255]
    inverted = encode(RAMP, "DICOM", PhotometricInterpretation="MONOCHROME1", **window)
    assert gray(inverted) == [255, 255, 127, 0, 0]


def test_a_window_is_one_of_the_values_of_the_modality(encode: Encode) -> None:
    hounsfield = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 0.5, "WindowWidth": 1025}
    values = np.array([[0, 512, 1024, 1536, 2048]], np.uint16)
    assert gray(encode(values, "DICOM", **hounsfield)) == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("signed", [False, True])
def test_a_table_makes_eight_bits(encode: Encode, signed: bool) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [5, 0, 16])
    item.add_new("LUTData", "US", [0, 65535, 257, 0, 32896])
    values = np.arange(5, dtype=np.int16 if signed else np.uint16)[None]
    assert gray(encode(values, "DICOM", VOILUTSequence=Sequence([item]))) == [0, 255, 1, 0, 128]


def test_values_without_a_window_are_scaled_as_the_data(encode: Encode) -> None:
    """Also negative ones, since DICOM says what they mean."""
    data = encode(RAMP, "DICOM", RescaleSlope=1, RescaleIntercept=-1024, BitsStored=12)
    assert gray(data, value_range=((0, 0), (-1024, 1976))) == [0, 85, 170, 255, 255]
    assert gray(data) == [0, 62, 125, 187, 255], "an image alone, by its own values"
    low_is_bright = encode(RAMP, "DICOM", BitsStored=12, PhotometricInterpretation="MONOCHROME1")
    assert gray(low_is_bright, value_range=((0, 0), (0, 4095))) == [255, 193, 130, 68, 0]
    assert gray(encode(np.full((2, 2), 7, np.uint16), "DICOM")) == [0, 0]


@pytest.mark.parametrize("above", [0, 100])
def test_values_that_are_all_negative_are_measured(encode: Encode, above: int) -> None:
    data = encode(RAMP, "DICOM", RescaleSlope=1, RescaleIntercept=-int(RAMP.max()) - above, BitsStored=12)
    stats = examine_image(data)["stats"]
    assert stats["largest"] == pytest.approx(-above, abs=1e-5)
    _, (black, white) = measure_value_range(stats.reshape(1))
    assert black == pytest.approx(-int(RAMP.max()) - above, abs=20)
    assert white == pytest.approx(-above, abs=20)


def test_eight_bits_stay_as_they_are(encode: Encode) -> None:
    values = np.array([[0, 7, 255]], np.uint8)
    assert gray(encode(values, "DICOM")) == [0, 7, 255]
    assert gray(encode(values, "DICOM", PhotometricInterpretation="MONOCHROME1")) == [255, 248, 0]
    assert gray(encode(values // 255, "DICOM", BitsStored=1)) == [0, 0, 255]


def test_colors_and_palettes(encode: Encode, photo: np.ndarray) -> None:
    assert (decode_image(encode(photo, "DICOM")) == photo).all()
    assert (decode_image(encode(photo.astype(np.uint16) * 257, "DICOM")) == photo).all()
    expected = pydicom.dcmread(get_testdata_file("examples_palette.dcm"))
    from pydicom.pixels import apply_color_lut

    colors = apply_color_lut(expected.pixel_array, expected)
    assert (decode_image(get_testdata_file("examples_palette.dcm")) == colors >> 8).all()


@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm"])
def test_compressed_files_have_the_same_pixels(name: str) -> None:
    plain = decode_image(get_testdata_file("MR_small_implicit.dcm"))
    assert (decode_image(get_testdata_file(name)) == plain).all()
    assert plain.shape == (64, 64, 3)
    assert plain.std() > 20


def test_the_first_of_several_frames(encode: Encode, photo: np.ndarray, tmp_path: Path) -> None:
    data = encode(np.stack([photo, 255 - photo]), "DICOM", frames=2)
    assert (decode_image(data) == photo).all()
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.dcm").write_bytes(data)
        (tmp_path / label / "2.dcm").write_bytes(encode(RAMP, "DICOM", RescaleSlope=1, RescaleIntercept=-1024))
    dataset = scan(tmp_path)
    assert dataset.notes[:3] == (
        "2 images have several frames or pages; only the first is used.",
        "2 images have more than 8 bits (floats in the range -1,020 to 3,071).",
        "2 images of 8 bits are not scaled as the others.",
    )
    assert [(s.image_stats.format, s.image_stats.mode, s.image_stats.frames) for s in dataset.samples[:2]] == [
        ("DICOM", "RGB", 2), ("DICOM", "F", 1),
    ]  # fmt: skip
    assert (has_frames(tmp_path / "cat" / "1.dcm"), has_frames(tmp_path / "cat" / "2.dcm")) == (True, False)


def test_what_cannot_be_read_says_why(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(RAMP, "DICOM")
    with pytest.raises(ImageError, match="5 x 1 pixels, more than 4 allowed") as error:
        decode_image(data, max_pixels=4)
    assert error.value.code == ImageErrorCode.TOO_LARGE
    with pytest.raises(ImageError, match="a DICOM file without an image"):
        decode_image(get_testdata_file("rtplan.dcm"))
    with pytest.raises(ImageError, match=r"compressed as JPEG Lossless.*pip install pylibjpeg"):
        decode_image(get_testdata_file("SC_rgb_jpeg_gdcm.dcm"))
    with pytest.raises(ImageError, match="cannot be decoded: The number of bytes of pixel data is less than expected"):
        decode_image(data[:-4])
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImageError, match=r"pip install 'regraft\[dicom\]'"):
        decode_image(data)
