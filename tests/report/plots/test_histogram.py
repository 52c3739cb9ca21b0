import numpy as np
import pytest
from matplotlib.figure import Figure

from regraft.report.plots.histogram import Measure, bin_counts, draw_histogram


@pytest.mark.parametrize(
    ("values", "is_log"),
    [(np.geomspace(20, 2_000_000, 100), True), (np.linspace(0, 1, 50), False), (np.array([3.0, 4.0]), False)],
)
def test_every_image_is_counted(values: np.ndarray, is_log: bool) -> None:
    counts, edges = bin_counts(values)
    assert counts.sum() == len(values)
    assert (edges[0], edges[-1]) == (values.min(), values.max())
    figure = Figure()
    draw_histogram(figure.subplots(), Measure("Size", "pixels", "{:.3g}".format, values))
    axes = figure.axes[0]
    assert axes.get_xscale() == ("log" if is_log else "linear")
    assert sum(bar.get_height() for bar in axes.patches) == len(values)  # type: ignore[attr-defined]
    assert axes.get_xlabel() == "pixels, log scale" if is_log else "pixels"


def test_the_description() -> None:
    measure = Measure("Side", "pixels", "{:.0f}".format, np.arange(101.0))
    assert measure.describe() == ("Side of 101 images: 0 to 100, median 50, half of them between 25 and 75 (pixels).")
    same = Measure("Side", "pixels", "{:.0f}".format, np.full(3, 7.0))
    assert same.is_constant
    assert same.describe() == "Side: all 7 (pixels)."
