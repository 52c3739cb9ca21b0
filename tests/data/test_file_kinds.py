"""What a file is that is not an image, whatever its name says."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable

import numpy as np
import pytest

from regraft.data.decode import FORMATS, decode_image
from regraft.data.file_kinds import describe_head
from regraft.errors import ImageError


def _zip() -> bytes:
    file = io.BytesIO()
    zipfile.ZipFile(file, "w").writestr("a", "b")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html>\n<html><body>Not found", "an HTML page"),
        (b"\xef\xbb\xbf\n<html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b'<?xml version="1.0"?>\n<svg width="1">', "an SVG drawing"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"8BPS\0\1", "a Photoshop document"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
        (b"\0\0\0\x18ftypcrx \0\0", "a raw camera file"),
        (b"\0\0\0\x18ftypmp42\0\0", "a video"),
        (b"\x1aE\xdf\xa3\1\0", "a video"),
        (b"MATLAB 5.0 MAT-file", "a file of arrays"),
        (_zip(), "an archive"),
        (gzip.compress(b"a", mtime=0), "an archive"),
        (b"\0" * 400, "nothing but null bytes"),
        (b"\xff\xd8\xff", "the start of a JPEG image"),
        (b"1 0.5 0.5\n2 0.3 0.1\n", "a text file"),
    ],
)
def test_what_is_no_image_is_named(content: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words) as error:
        decode_image(content)
    assert error.value.reason.startswith("not an image that can be read: ")


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "HEIF"])
def test_images_are_known_by_their_first_bytes(photo: np.ndarray, encode: Callable[..., bytes], format: str) -> None:
    what, is_image = describe_head(encode(photo, format))
    assert is_image, what


def test_unknown_bytes() -> None:
    assert describe_head(b"\x80\x81\x82") == ("", False)
    assert describe_head(b"") == ("", False)
