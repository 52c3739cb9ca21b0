"""What tests of the ways in share: small images, each name's with its own pixels."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

Encoded = Callable[[str], bytes]


@pytest.fixture(scope="session")
def png() -> Encoded:
    """The bytes of a PNG file whose pixels depend on a name."""

    def encode(name: str) -> bytes:
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        pixels = np.random.default_rng(seed).integers(0, 256, (9, 8, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    return encode
