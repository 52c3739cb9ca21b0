import io
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFile

from regraft.data.decode import EXTENSIONS, FORMATS, decode_image
from regraft.errors import DataError, ImageError

LOSSLESS = [
    ("PNG", {}),
    ("BMP", {}),
    ("PPM", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ("WEBP", {"lossless": True}),
]
#: Mean absolute difference from the original that JPEG and WebP may have at quality 95 with halved chroma, in
#: grey levels. A wrong orientation of the same photograph differs by more than 50.
LOSSY_TOLERANCE = 5.0

Encode = Callable[..., bytes]


@pytest.fixture(scope="module")
def png_header() -> Callable[[int, int], bytes]:
    def header(width: int, height: int) -> bytes:
        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        return (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"\0" * 100))
            + chunk(b"IEND", b"")
        )

    return header


def mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


HEIC = Path(__file__).parents[1] / "fixtures" / "heic"


def with_exif(jpeg: bytes, block: bytes) -> bytes:
    exif = b"Exif\0\0" + block
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


@pytest.mark.parametrize(("format", "options"), LOSSLESS)
def test_lossless_formats_give_the_very_pixels(photo, encode, tmp_path, format, options):
    data = encode(photo, format, **options)
    file = tmp_path / "photo.jpg"  # the ending does not decide
    file.write_bytes(data)
    for source in (data, file, str(file)):
        pixels = decode_image(source)
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        np.testing.assert_array_equal(pixels, photo)


@pytest.mark.parametrize(
    ("format", "options"), [("JPEG", {"quality": 95, "subsampling": 0}), ("WEBP", {"quality": 95})]
)
def test_lossy_formats_stay_near(photo, encode, format, options):
    data = encode(photo, format, **options)
    assert mean_difference(decode_image(data), photo) <= LOSSY_TOLERANCE
    np.testing.assert_array_equal(decode_image(data), decode_image(data))


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
@settings(max_examples=40, deadline=None)
def test_any_pixels_survive_every_lossless_format(pixels):
    for format, options in LOSSLESS:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format, **options)
        np.testing.assert_array_equal(decode_image(file.getvalue()), pixels)


def test_mpo_is_read_as_the_jpeg_that_it_is(photo, encode):
    image = Image.fromarray(photo)
    data = encode(image, "MPO", save_all=True, append_images=[Image.new("RGB", image.size)], quality=95)
    assert mean_difference(decode_image(data), photo) <= LOSSY_TOLERANCE


@pytest.mark.parametrize("format", ["TIFF", "WEBP"])  # Pillow preloads the others
def test_formats_do_not_depend_on_what_was_read_before(photo, encode, tmp_path, format):
    (tmp_path / "image").write_bytes(encode(photo, format))
    code = "import sys; from regraft.data.decode import decode_image; print(decode_image(sys.argv[1]).shape)"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "image")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert result.stdout.strip() == "(43, 61, 3)", result.stderr


# How an upright picture lies in the file, from the EXIF specification's table of the 0th row and column.
STORED = {
    1: lambda up: up,
    2: lambda up: up[:, ::-1],
    3: lambda up: up[::-1, ::-1],
    4: lambda up: up[::-1],
    5: lambda up: up.swapaxes(0, 1),
    6: lambda up: np.rot90(up, 1),
    7: lambda up: up[::-1, ::-1].swapaxes(0, 1),
    8: lambda up: np.rot90(up, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(
    ("format", "options"),
    [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 95})],
)
def test_every_orientation_is_upright(photo, encode, format, options, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](photo))
    pixels = decode_image(encode(stored, format, exif=exif, **options))
    if format == "JPEG":
        assert mean_difference(pixels, photo) <= LOSSY_TOLERANCE
    else:
        np.testing.assert_array_equal(pixels, photo)


@pytest.mark.parametrize("orientation", STORED)
def test_orientation_holds_for_16_bit_images(photo, encode, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](photo[..., 0])).astype(np.uint16) * 257
    pixels = decode_image(encode(stored, "PNG", exif=exif))
    np.testing.assert_array_equal(pixels, photo[..., :1].repeat(3, axis=2))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_changes_nothing(photo, encode, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode_image(encode(photo, "PNG", exif=exif)), photo)


def test_an_odd_exif_block_does_not_cost_the_image(photo, encode):
    # The width as text, beside orientation 6: Pillow reads such a block and cannot write it again.
    entries = struct.pack("<HHI4s", 0x0100, 2, 4, b"61a\0") + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    block = b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + b"\0\0\0\0"
    jpeg = encode(np.ascontiguousarray(STORED[6](photo)), "JPEG", quality=95)
    assert mean_difference(decode_image(with_exif(jpeg, block)), photo) <= LOSSY_TOLERANCE


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(st.binary(max_size=80))
@settings(max_examples=100, deadline=None)
def test_no_exif_block_costs_the_image(block):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (200, 30, 30)).save(file, "JPEG", quality=95)
    plain = file.getvalue()
    for start in (b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"):
        assert mean_difference(decode_image(with_exif(plain, start + block)), decode_image(plain)) == 0


def test_a_block_that_is_no_exif_does_not_cost_the_image(photo, encode):
    np.testing.assert_array_equal(decode_image(encode(photo, "PNG", exif=b"Exif\0\0no TIFF header")), photo)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM"])
def test_gray_is_repeated_over_three_channels(encode, format):
    grey = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
    pixels = decode_image(encode(grey, format, **({"quality": 100} if format == "JPEG" else {})))
    assert (pixels == pixels[..., :1]).all()
    assert mean_difference(pixels[..., 0], grey) <= (1 if format == "JPEG" else 0)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "GIF", "PPM"])
def test_one_bit_is_black_and_white(encode, format):
    bits = np.array([[0, 255, 255], [255, 0, 0]], dtype=np.uint8)
    pixels = decode_image(encode(Image.fromarray(bits).convert("1"), format))
    np.testing.assert_array_equal(pixels, bits[:, :, None].repeat(3, axis=2))


def over_white(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return color * share + 255 * (1 - share)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "array"])
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(4))))
@settings(max_examples=25, deadline=None)
def test_transparency_lies_over_white(form, rgba):
    source: bytes | np.ndarray = rgba
    if form != "array":
        file = io.BytesIO()
        options = {"lossless": True, "exact": True} if form == "WEBP" else {}
        Image.fromarray(rgba, "RGBA").save(file, form, **options)
        source = file.getvalue()
    pixels = decode_image(source)
    assert np.abs(pixels - over_white(rgba[..., :3], rgba[..., 3])).max() <= 1.0
    assert (pixels[rgba[..., 3] == 0] == 255).all()
    np.testing.assert_array_equal(pixels[rgba[..., 3] == 255], rgba[..., :3][rgba[..., 3] == 255])


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_gray_with_transparency(encode, format):
    grey_alpha = np.array([[[100, 255], [100, 0], [0, 128]]], dtype=np.uint8)
    data = encode(Image.fromarray(grey_alpha, "LA"), format)
    np.testing.assert_array_equal(decode_image(data), [[[100] * 3, [255] * 3, [127] * 3]])


def test_palette_with_transparency(encode):
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    red, green, blue, white = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]
    np.testing.assert_array_equal(decode_image(encode(image, "PNG")), [[red, green, blue]])
    np.testing.assert_array_equal(decode_image(encode(image, "PNG", transparency=1)), [[red, white, blue]])
    np.testing.assert_array_equal(decode_image(encode(image, "GIF", transparency=1)), [[red, white, blue]])
    partly = decode_image(encode(image, "PNG", transparency=bytes([255, 0, 128])))
    np.testing.assert_array_equal(partly, [[red, white, [127, 127, 255]]])


@pytest.mark.parametrize(("mode", "color"), [("1", 0), ("L", 7), ("RGB", (7, 8, 9))])
def test_a_color_that_means_transparent(encode, mode, color):
    image = Image.new(mode, (2, 1), color)
    image.putpixel((1, 0), 255 if mode != "RGB" else (1, 2, 3))
    pixels = decode_image(encode(image, "PNG", transparency=color))
    np.testing.assert_array_equal(pixels[0, 0], [255, 255, 255])
    np.testing.assert_array_equal(pixels[0, 1], [255, 255, 255] if mode != "RGB" else [1, 2, 3])


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
@pytest.mark.parametrize(
    ("cmyk", "rgb"),
    [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 255, 0), (255, 0, 0)),
        ((0, 0, 0, 128), (127, 127, 127)),
    ],
)
def test_cmyk_is_not_inverted(encode, format, cmyk, rgb):
    pixels = decode_image(encode(Image.new("CMYK", (8, 8), cmyk), format))
    assert np.abs(pixels.astype(int) - rgb).max() <= (2 if format == "JPEG" else 0)


def test_ycbcr(photo, encode):
    pixels = decode_image(encode(Image.fromarray(photo).convert("YCbCr"), "TIFF"))
    assert np.abs(pixels.astype(int) - photo).max() <= 3


@pytest.mark.parametrize(
    ("lab", "rgb"), [((255, 0, 0), (255, 255, 255)), ((0, 0, 0), (0, 0, 0)), ((136, 80, 67), (255, 0, 0))]
)
def test_lab(encode, lab, rgb):
    data = encode(Image.frombytes("LAB", (4, 4), bytes(lab) * 16), "TIFF")
    assert np.abs(decode_image(data).astype(int) - rgb).max() <= 12


@pytest.mark.parametrize(("format", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_the_first_frame_is_used(encode, format, options):
    frames = [Image.new("RGB", (5, 4), color) for color in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 3
    np.testing.assert_array_equal(decode_image(data), np.asarray(frames[0]))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_a_truncated_file_is_an_error(photo, encode, tmp_path, format):
    data = encode(photo, format)
    file = tmp_path / "half"
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"half: (cannot be decoded: \w+|not an image)") as error:
        decode_image(file)
    assert error.value.path == str(file)
    assert str(file) not in error.value.reason
    assert error.value.code == ("unreadable" if format == "WEBP" else "truncated")


def test_a_truncated_file_is_an_error_where_a_program_lets_pillow_fill_it(photo, encode, tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encode(photo, "JPEG")
    (tmp_path / "half.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match="truncated"):
        decode_image(tmp_path / "half.jpg")
    assert ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"Dear diary, this is no image.", "not an image that can be read: a text file"),
        (b"\x80\x81\x82", f"not an image that can be read ({', '.join(FORMATS)})"),
        (b"\xff\xd8\xff", "not an image that can be read"),
    ],
)
def test_what_is_no_image_says_so(tmp_path, content, reason):
    file = tmp_path / "renamed.jpg"
    file.write_bytes(content)
    for source, path in ((file, str(file)), (str(file), str(file)), (content, "")):
        with pytest.raises(ImageError) as error:
            decode_image(source)
        assert error.value.reason.startswith(reason)
        assert error.value.code == ("unreadable" if content else "empty")
        assert error.value.path == path
        assert str(error.value) == (f"{path}: {error.value.reason}" if path else error.value.reason)


def test_missing_files_folders_and_rights(tmp_path, monkeypatch):
    with pytest.raises(ImageError, match=r"nowhere\.png: file not found"):
        decode_image(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="a folder, not an image file"):
        decode_image(tmp_path)
    with pytest.raises(ImageError, match="null"):
        decode_image("a\0b.png")

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "secret.png").touch()
    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ImageError, match="no permission to read it"):
        decode_image(tmp_path / "secret.png")


def test_an_image_error_is_a_data_error():
    with pytest.raises(DataError):
        decode_image(b"")


def test_a_format_outside_the_list_is_refused(photo, encode):
    data = encode(photo, "ICO")
    with pytest.raises(ImageError, match="not an image that can be read"):
        decode_image(data)


@pytest.mark.parametrize(
    "data",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",  # Pillow would start Ghostscript
        b"%PDF-1.4\n",
        b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        b"<html><script>alert(1)</script></html>",
        b"#!/bin/sh\ntrue\n",
    ],
)
def test_documents_and_programs_with_the_name_of_an_image_are_refused(tmp_path, data):
    (tmp_path / "1.png").write_bytes(data)
    with pytest.raises(ImageError):
        decode_image(tmp_path / "1.png")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP"])
def test_of_a_file_of_two_kinds_only_the_image_is_read(photo, encode, format):
    """Such as an image that is also an archive or a page: what follows the image changes no pixel."""
    data = encode(photo, format)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../evil.py", "import os")
    for tail in (packed.getvalue(), b"<script>alert(1)</script>", b"\n%PDF-1.4\n"):
        assert np.array_equal(decode_image(data + tail), decode_image(data))


@pytest.mark.parametrize("side", [9_460, 13_000, 60_000, 2**31 - 1])
def test_a_bomb_is_refused_before_it_is_decoded(png_header, side, recwarn):
    with pytest.raises(ImageError, match=r"pixels") as error:
        decode_image(png_header(side, side))
    assert error.value.code == "too_large"


def test_the_limit_on_pixels_is_exact(photo, encode):
    data = encode(photo, "PNG")
    assert decode_image(data, max_pixels=43 * 61).shape == (43, 61, 3)
    with pytest.raises(ImageError, match=r"61 x 43 pixels, more than 2,622 allowed"):
        decode_image(data, max_pixels=43 * 61 - 1)


def is_decoded_or_refused(data: bytes) -> bool:
    try:
        pixels = decode_image(data, max_pixels=10_000)
    except ImageError as error:
        return bool(error.reason)
    return pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size > 0


@given(
    st.binary(max_size=300),
    st.sampled_from(
        b"|\xff\xd8\xff\xe0|\x89PNG\r\n\x1a\n|GIF89a|BM|II*\0|MM\0*|RIFF....WEBPVP8 |P6 |P4\n4 4\n".split(b"|")
    ),
)
@settings(max_examples=120, deadline=None)
def test_random_bytes_raise_nothing_but_image_errors(noise, start):
    assert is_decoded_or_refused(start + noise)


@pytest.mark.parametrize("format", FORMATS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_damaged_files_raise_nothing_but_image_errors(photo, encode, format, data):
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if format in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    heic = (HEIC / "plain.heic").read_bytes()  # this format is only read
    damaged = bytearray(heic if format == "HEIF" else encode(photo[:12, :9], format, **options))
    for _ in range(data.draw(st.integers(1, 6))):
        # Headers decide most: half of the hits go there.
        limit = data.draw(st.sampled_from([min(60, len(damaged)), len(damaged)]))
        damaged[data.draw(st.integers(0, limit - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert is_decoded_or_refused(bytes(damaged))


def test_arrays_are_taken_as_they_are(photo):
    np.testing.assert_array_equal(decode_image(photo), photo)
    np.testing.assert_array_equal(decode_image(photo / 255), photo)
    np.testing.assert_array_equal(decode_image((photo / 255).astype(np.float32)), photo)
    np.testing.assert_array_equal(decode_image(np.minimum(photo + np.float32(0.25), 255)), photo)  # as Keras resizes
    grey = photo[..., 0]
    for array in (grey, grey[..., None], grey / 255):
        np.testing.assert_array_equal(decode_image(array), grey[..., None].repeat(3, axis=2))
    turned = decode_image(photo[::-1, ::2])
    assert turned.flags.c_contiguous
    np.testing.assert_array_equal(turned, photo[::-1, ::2])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\); expected \(H, W\)"),
        (np.zeros((8, 8, 2), np.uint8), r"shape \(8, 8, 2\); expected \(H, W\)"),
        (np.zeros((1, 8, 8, 3), np.uint8), r"shape \(1, 8, 8, 3\); expected"),
        (np.zeros((0, 8, 3), np.uint8), r"shape \(0, 8, 3\); expected"),
        (np.zeros(8, np.uint8), r"shape \(8,\); expected"),
        (np.zeros((8, 8), np.int64), "int64; expected uint8"),
        (np.zeros((8, 8), np.uint16), "uint16; expected uint8"),
        (np.zeros((8, 8), bool), "bool; expected uint8"),
        (np.full((8, 8), 1.5), r"from 1\.5 to 1\.5: it is unclear whether 1 or 255 is white"),
        (np.full((8, 8), -0.5), r"from -0\.5 to -0\.5; expected 0\.\.1 or 0\.\.255"),
        (np.full((8, 8), 255.5), r"to 255\.5; expected"),
        (np.full((8, 8), np.nan), r"nan to nan; expected"),
    ],
)
def test_arrays_that_are_no_images(array, message):
    with pytest.raises(ImageError, match=message):
        decode_image(array)


def test_the_endings_are_in_lower_case_with_a_dot():
    assert all(ending == ending.lower() and ending.startswith(".") for ending in EXTENSIONS)
    assert {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".avif", ".jp2"} <= EXTENSIONS


def test_paths_and_bytes_agree(photo, encode, tmp_path):
    for number, format in enumerate(FORMATS):
        data = (HEIC / "plain.heic").read_bytes() if format == "HEIF" else encode(photo, format)
        file = Path(tmp_path, str(number))
        file.write_bytes(data)
        np.testing.assert_array_equal(decode_image(file), decode_image(data))


@pytest.mark.parametrize(
    ("at_least", "scale"), [(None, 1), (0, 1), (428, 1), (214, 1), (213, 2), (107, 2), (106, 4), (53, 8), (1, 8)]
)
def test_a_large_jpeg_is_decoded_smaller(encode, large, at_least, scale):
    data = encode(Image.fromarray(large), "JPEG", quality=95)
    pixels = decode_image(data, at_least=at_least)
    assert pixels.shape == (-(-427 // scale), 640 // scale, 3)
    assert not at_least or at_least > 427 or min(pixels.shape[:2]) >= at_least
    small, whole = (
        np.asarray(Image.fromarray(image).resize((40, 27), Image.Resampling.BOX))
        for image in (pixels, decode_image(data))
    )
    assert mean_difference(small, whole) < LOSSY_TOLERANCE


def test_other_formats_are_decoded_whole(encode, large):
    assert decode_image(encode(Image.fromarray(large), "PNG"), at_least=20).shape == large.shape


def test_heic_is_turned_once():
    """Apple's phones write the orientation twice: as the image's own rotation, which counts, and as EXIF."""
    upright, turned, plain = (decode_image(HEIC / f"{name}.heic") for name in ("plain", "irot_and_exif", "exif_alone"))
    assert upright.shape == plain.shape == (24, 32, 3)
    assert mean_difference(turned, np.rot90(upright, -1)) < LOSSY_TOLERANCE
    assert (upright[2, 2, 0], upright[20, 2, 2]) > (200, 180)


@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_of_avif_is_upright(photo, encode, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](photo))
    assert mean_difference(decode_image(encode(stored, "AVIF", exif=exif, quality=95)), photo) <= LOSSY_TOLERANCE


def test_jpeg_2000_of_eight_and_more_bits(photo, encode):
    np.testing.assert_array_equal(decode_image(encode(photo, "JPEG2000")), photo)
    wide = photo[..., 0].astype(np.uint16) * 257
    np.testing.assert_array_equal(decode_image(encode(wide, "JPEG2000"))[..., 1], photo[..., 0])


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="a pipe or device"):
        decode_image(tmp_path / "pipe.png")
