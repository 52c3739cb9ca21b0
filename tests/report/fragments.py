"""Values with hostile names, and checks of notebook fragments."""

from __future__ import annotations

from typing import Any

import numpy as np
from page_parser import FORBIDDEN, Page

from regraft.data.dataset import Dataset
from regraft.evaluation.predictions import Predictions

SCRIPT = "<script>alert(1)</script>"
NAMES = (SCRIPT, 'b & "c"\' onload=x')
PROBABILITIES = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])


def check_fragment(html: str) -> None:
    """Well nested, without scripts and event handlers."""
    page = Page(html)
    assert not {e.tag for e in page.elements} & FORBIDDEN
    assert not [key for e in page.elements for key in e.attributes if key.startswith("on")]


def html_of(value: Any) -> str:
    html: str = value._repr_html_()
    check_fragment(html)
    assert html.startswith('<div class="regraft"><style>')
    return html


def predictions() -> Predictions:
    return Predictions.from_arrays([0, 1, 1, 1], PROBABILITIES, NAMES, [f"{SCRIPT}/{i}.png" for i in range(4)])


def random_data() -> Dataset:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (20, 24, 3)).astype(np.uint8) for _ in range(24)]
    return Dataset.from_arrays(images, [NAMES[i % 2] for i in range(24)])
