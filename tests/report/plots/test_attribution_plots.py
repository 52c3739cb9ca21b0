from pathlib import Path

import numpy as np
from PIL import Image

from regraft.report.plots.attribution_plots import (
    Panel,
    attribution_figure,
    overlay,
    plot_attribution,
    plot_mean_heat,
)


def test_weak_attribution_leaves_the_image_and_strong_attribution_hides_it() -> None:
    image = np.full((2, 3, 3), 100, np.uint8)
    heat = np.array([[0.0, 0.05, 0.1], [0.5, 0.9, 1.0]])
    result = overlay(image, heat)
    assert result.dtype == np.uint8
    assert (result[0] == 100).all()
    changes = np.abs(result[1].astype(int) - 100).sum(axis=1)
    assert (changes > 20).all()
    assert result[1, 2].sum() > result[1, 0].sum()


def test_a_map_that_is_zero_everywhere_is_marked() -> None:
    image, heat = np.zeros((20, 30, 3), np.uint8), np.ones((20, 30), np.float32)
    figure = attribution_figure(image, [Panel(heat, "a"), Panel(0 * heat, "b")], title="x", caption="3 x 3 cells")
    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes[:3]]
    assert texts == [["x", "3 x 3 cells"], ["a"], ["b", "zero everywhere: no evidence"]]


def test_hostile_titles_are_drawn(tmp_path: Path) -> None:
    image, heat = np.zeros((20, 30, 3), np.uint8), np.ones((20, 30), np.float32)
    plot_attribution(image, [Panel(heat, "$x$\n" * 50), Panel(heat, "قط")], tmp_path / "a.png", title="<b>\x00")
    plot_mean_heat([(image, "$x^2$", 3)] * 5, tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.format == "PNG"
