"""Say what a file is that cannot be read as an image, from its first bytes."""

from __future__ import annotations

import io
import re
from pathlib import Path

from PIL import TiffImagePlugin

#: What files of formats that are read begin with, and their suffix.
_IMAGES = (
    (rb"\xff\xd8\xff", "a JPEG image", ".jpg"),
    (rb"\x89PNG\r\n", "a PNG image", ".png"),
    (rb"GIF8[79]a", "a GIF image", ".gif"),
    (rb"RIFF....WEBP", "a WebP image", ".webp"),
    (rb"BM.{4}\0\0\0\0", "a BMP image", ".bmp"),
    (rb"....ftypavi[fs]", "an AVIF image", ".avif"),
    (rb"....ftyp(he[iv][cxms]|mif1|msf1)", "a HEIF image", ".heic"),
    (rb"\0\0\0\x0cjP  |\xffO\xffQ", "a JPEG 2000 image", ".jp2"),
    (rb"\x93NUMPY", "a numpy array", ".npy"),
    (rb"P[1-6]\s+[\d#]", "a PNM image", ".pnm"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL image", ".jxl"),
    (rb".{128}DICM", "a DICOM image", ".dcm"),
    (rb"(II[*+]\0|MM\0[*+])(?!.{4}CR)", "a TIFF image", ".tif"),
)
#: What other files begin with.
_OTHERS = (
    (rb"version https://git-lfs", "a Git LFS pointer without the file; run git lfs pull"),
    (rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body)", "an HTML page, as after a failed download"),
    (rb"(\xef\xbb\xbf)?\s*(<\?xml.{,200})?<svg", "an SVG drawing; export it as PNG"),
    (rb"%PDF", "a PDF document; export its pages as PNG"),
    (rb"8BPS", "a Photoshop document; export it as PNG"),
    (rb"\x76\x2f\x31\x01", "an OpenEXR image; convert it to PNG"),
    (rb"II[*]\0.{4}CR|....ftypcrx|II(RO|RS|U\0)|FUJIFILMCCD", "a raw camera file; export it as JPEG"),
    (rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI |\0\0\x01[\xba\xb3]", "a video; extract its frames"),
    (rb"MATLAB|\x89HDF", "a file of arrays; save each array as PNG or .npy"),
    (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!", "an archive; unpack it"),
    (rb"\0+$", "nothing but null bytes"),
    (rb"[\t\n\r -~]+$", "a text file"),
)
#: Bytes that the patterns need.
_LENGTH = 256
_SAMPLE_FORMATS = {1: "integers", 2: "signed integers", 3: "floats"}


def describe_head(source: Path | str | bytes) -> tuple[str, bool]:
    """What a file is, or "" if that is unknown, and whether its format is one that is read; the source may be a head.

    Raises `OSError` if the file cannot be read.
    """
    head = _read(source, _LENGTH)
    for patterns, is_image in ((_IMAGES, True), (_OTHERS, False)):
        for pattern, what, *_ in patterns:
            if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
                return what, is_image
    return "", False


def suffix_of_image(content: bytes) -> str:
    """The suffix of a file with this content, such as `.png`; "" if it has no format that is read."""
    head = content[:_LENGTH]
    matching = (suffix for pattern, _, suffix in _IMAGES if re.match(pattern, head, re.DOTALL | re.IGNORECASE))
    return next(matching, "")


def describe_unknown(source: Path | str | bytes) -> str:
    """Why a file that Pillow does not identify cannot be read, or "" if that is unknown."""
    what, is_image = describe_head(source)
    if what == "a TIFF image" and (bands := _describe_tiff(source)):
        return bands
    damaged = "the start of " if is_image else ""
    return f"not an image that can be read: {damaged}{what}" if what else ""


def _describe_tiff(source: Path | str | bytes) -> str:
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        try:
            header = file.read(8)
            tags = TiffImagePlugin.ImageFileDirectory_v2(header + (file.read(8) if 43 in header[2:4] else b""))
            file.seek(tags.next)
            tags.load(file)
            (bits, *_), kind = tags.get(258, (1,)), _SAMPLE_FORMATS.get(tags.get(339, (1,))[0], "other numbers")
            bands = f"{tags.get(277, 1)} bands" if tags.get(277, 1) != 1 else "1 band"
        except Exception:  # Pillow raises nearly every exception type on malicious bytes
            return ""
    return (
        f"a TIFF of {bands} of {bits}-bit {kind}. Expected 1 (gray), 3 (RGB) or 4 (RGBA or CMYK) bands of 8 or 16 bits."
        " Save the bands to use as RGB, or one as gray."
    )


def _read(source: Path | str | bytes, count: int) -> bytes:
    if isinstance(source, bytes):
        return source[:count]
    with open(source, "rb") as file:
        return file.read(count)
