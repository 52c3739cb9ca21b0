import zlib

import numpy as np
import pytest
from PIL import Image

from regraft.data.decode import decode_image
from regraft.data.image_stats import examine_image
from regraft.errors import ImageError


def size_of(record):
    return record["stats"]["width"], record["stats"]["height"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_is_decoded_smaller_too(encode, large, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(large), "JPEG", exif=exif)
    assert size_of(examine_image(data)) == ((427, 640) if orientation >= 5 else (640, 427))
    pixels, whole = decode_image(data, at_least=100), decode_image(data)
    assert pixels.shape[0] == -(-whole.shape[0] // 4)
    small = Image.fromarray(whole).resize(pixels.shape[1::-1], Image.Resampling.BOX)
    assert np.abs(pixels.astype(int) - np.asarray(small)).mean() < 4


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_examining_gives_the_size_and_finds_what_is_cut_off(photo, encode, tmp_path, format):
    data = encode(Image.fromarray(photo), format)
    file = tmp_path / "image"
    file.write_bytes(data)
    assert size_of(examine_image(data)) == size_of(examine_image(file)) == (61, 43)
    with pytest.raises(ImageError):
        examine_image(data[: len(data) * 2 // 3])
    with pytest.raises(ImageError, match="more than 100 allowed"):
        examine_image(data, max_pixels=100)


def test_what_examining_passes_can_be_decoded(encode, photo):
    """A PNG whose pixels are broken is not let through because its EXIF block was asked for first."""
    data = bytearray(encode(Image.fromarray(photo), "PNG"))
    start = data.index(b"IDAT") + 4
    data[start : start + 2] = b"\0\0"  # no zlib stream begins so
    length = int.from_bytes(data[start - 8 : start - 4], "big")
    data[start + length : start + length + 4] = zlib.crc32(data[start - 4 : start + length]).to_bytes(4, "big")
    for act in (decode_image, examine_image):
        with pytest.raises(ImageError, match="cannot be decoded"):
            act(bytes(data))


def test_bits_bands_and_pages_are_recorded(encode, photo, tiff):
    def stats(data):
        record = examine_image(data)["stats"][()]
        return record["mode"].decode(), float(record["largest"]), int(record["frames"])

    assert stats(encode(photo, "PNG")) == ("RGB", 0, 1)
    record = examine_image(encode(np.arange(1001, dtype=np.uint16).reshape(7, 143) + 29000, "PNG"))["stats"][()]
    assert (float(record["low"]), float(record["high"])) == (29001, 29999)
    assert record["contrast"] > 0.25, "the thumbnail is scaled, too"
    assert stats(encode(np.array([[3, 4000]], np.uint16), "PNG")) == ("I;16", 4000, 1)
    assert stats(tiff(np.full((2, 2, 3), 4000, np.uint16))) == ("RGB;16", 4000, 1)
    assert stats(tiff(np.zeros((2, 2, 5), np.uint8), t262=2, t338=[0, 0])) == ("RGB+2", 0, 1)
    assert stats(encode(np.array([[0.5, np.inf]], np.float32), "TIFF")) == ("F", 0.5, 1)
    pages = [Image.fromarray(photo + i) for i in range(3)]
    gif, multipage = (encode(pages[0], f, save_all=True, append_images=pages[1:]) for f in ("GIF", "TIFF"))
    assert (stats(gif)[2], stats(multipage)[2]) == (3, 3)
    end = gif.rindex(b"\x21\xf9")
    assert decode_image(gif[:end]).shape == photo.shape, "the first frame is whole"
    assert examine_image(gif[: end + 4])["stats"]["width"] == 61
