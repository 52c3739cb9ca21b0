"""Thumbnails as data URIs, and the markup that shows one or says why there is none."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from markupsafe import Markup
from PIL import Image

from regraft.data.decode import ImageSource, decode_picture
from regraft.errors import RegraftError
from regraft.report.html import image
from regraft.resources import usable_cpus

#: Longer side of a thumbnail in pixels.
THUMBNAIL_SIZE = 128
#: Maximum number of characters of all thumbnails of a page together.
PAGE_BUDGET = 6_500_000


def data_uri(picture: Image.Image) -> str:
    """Encode a picture as a JPEG of thumbnail size; small pictures are not enlarged, and get a better quality."""
    fits = max(picture.size) <= THUMBNAIL_SIZE
    picture.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return jpeg_uri(picture, 90 if fits else 70)


def jpeg_uri(picture: Image.Image, quality: int) -> str:
    """Encode a picture as a JPEG of its own size."""
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def read_thumbnails(
    names: Iterable[str],
    source: Callable[[str], ImageSource],
    decode: Callable[..., np.ndarray] = decode_picture,
) -> dict[str, str]:
    """Read images and make thumbnails: data URIs by name, without the images that cannot be read.

    `source` returns what the decoder reads for a name, and may raise what a missing image raises. `decode`
    turns it into a picture, uint8 (H, W, 3), of which sides of `at_least` pixels are enough.
    """
    names = list(names)

    def read(name: str) -> str | None:
        try:
            return data_uri(Image.fromarray(decode(source(name), at_least=THUMBNAIL_SIZE)))
        except (RegraftError, OSError, ValueError):  # the file changed or is gone
            return None

    with ThreadPoolExecutor(usable_cpus()) as pool:
        return {name: uri for name, uri in zip(names, pool.map(read, names), strict=True) if uri}


class Album:
    """Places thumbnails into a page, in the page's order, until its budget is spent."""

    def __init__(self, thumbnails: Mapping[str, str], placeholder: str = "unreadable") -> None:
        self.thumbnails, self.placeholder, self._budget = thumbnails, placeholder, PAGE_BUDGET

    def picture(self, path: str, alt: str) -> Markup:
        """Return the image, or a text in its place."""
        source = self.thumbnails.get(path)
        if source is None:
            return placeholder(self.placeholder)
        if len(source) > self._budget:
            return placeholder("not shown: the page is full")
        self._budget -= len(source)
        return image(source, alt)


def placeholder(text: str) -> Markup:
    """Return a square frame with a text."""
    return Markup('<span class="frame none">{}</span>').format(text)
