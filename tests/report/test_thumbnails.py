import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.errors import ImageError
from regraft.report import thumbnails
from regraft.report.thumbnails import THUMBNAIL_SIZE, Album, data_uri, read_thumbnails


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))


def test_thumbnails_are_small_and_keep_their_shape() -> None:
    assert opened(data_uri(Image.new("RGB", (2000, 40)))).size == (THUMBNAIL_SIZE, 3)
    assert opened(data_uri(Image.new("RGB", (1, 1)))).size == (1, 1)


def test_images_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    arrays = {"good": np.zeros((4, 5, 3), np.uint8)}

    def source(name: str) -> np.ndarray:
        if name not in arrays:
            raise ImageError("gone", name)
        return arrays[name]

    assert list(read_thumbnails(["good", "missing"], source)) == ["good"]
    assert read_thumbnails([str(tmp_path / "missing.png")], Path) == {}


def test_when_the_page_is_full_no_more_pictures_are_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "PAGE_BUDGET", 25)
    album = Album({"a": "data:image/jpeg,aaa", "b": "data:image/jpeg,bbb"}, "not available")
    assert 'src="data:image/jpeg,aaa" alt="&lt;a&gt;"' in album.picture("a", "<a>")
    assert album.picture("b", "b") == '<span class="frame none">not shown: the page is full</span>'
    assert album.picture("c", "c") == '<span class="frame none">not available</span>'
