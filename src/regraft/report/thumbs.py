"""Small pictures within a page: thumbnails as data URIs, read in parallel, as many as there is room for.

Enters: images. Leaves: small JPEGs, and the markup that shows one or says why there is none.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from regraft.data.decode import ImageSource, decode_image
from regraft.errors import RegraftError
from regraft.report.markup import Html, image_of, tag

#: Longer side of a thumbnail in pixels.
THUMB = 128
#: Characters of all thumbnails together.
ROOM = 6_500_000


def data_uri(image: Image.Image) -> str:
    """A JPEG that fits the thumbnail's square; small images are not enlarged, and kept in better quality."""
    fits = max(image.size) <= THUMB
    image.thumbnail((THUMB, THUMB), Image.Resampling.LANCZOS, reducing_gap=2.0)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=90 if fits else 70, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def read_thumbs(names: Iterable[str], source: Callable[[str], ImageSource], max_pixels: int) -> dict[str, str]:
    """Read images and make thumbnails of them.

    Args:
        names: Of the images.
        source: What the decoder reads for a name; may raise what an image that is gone raises.
        max_pixels: The largest image that is read.

    Returns:
        Data URIs by name; an image that cannot be read is left out.
    """
    names = list(names)

    def work(name: str) -> str | None:
        try:
            return data_uri(Image.fromarray(decode_image(source(name), max_pixels=max_pixels, at_least=THUMB)))
        except (RegraftError, OSError, ValueError):  # the file has changed, or is gone
            return None

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return {name: uri for name, uri in zip(names, pool.map(work, names), strict=True) if uri}


class Album:
    """Puts the thumbnails into the page, in its order, while there is room."""

    def __init__(self, thumbs: Mapping[str, str], instead: str = "unreadable") -> None:
        """Take the thumbnails by path, as data URIs, and the word for one that is not among them."""
        self.thumbs, self.instead, self.room = thumbs, instead, ROOM

    def picture(self, path: str, alt: str) -> Html:
        """The image, or a word in its place."""
        source = self.thumbs.get(path)
        if source is None:
            return tag("span", self.instead, class_="frame none")
        if len(source) > self.room:
            return tag("span", "not shown: the page is full", class_="frame none")
        self.room -= len(source)
        return image_of(source, alt)
