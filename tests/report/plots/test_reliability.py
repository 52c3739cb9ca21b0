from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from regraft.evaluation.calibration import Calibration, measure_calibration
from regraft.evaluation.intervals import wilson_interval
from regraft.evaluation.predictions import Predictions
from regraft.report.plots.reliability import draw_reliability, draw_risk_coverage, plot_reliability


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    rng = np.random.default_rng(0)
    return measure_calibration(Predictions.from_arrays(rng.integers(0, 3, 300), rng.dirichlet(np.ones(3), 300)))


def test_the_diagrams_before_and_after_are_one_picture(calibration: Calibration, tmp_path: Path) -> None:
    wide = replace(calibration, ece=0.1234, chance_interval=(0.1234, 0.2345))
    plot_reliability(wide, wide, 2.0, tmp_path / "a.png", part="test")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (1950, 960)
        gray = np.asarray(image.convert("L"))
    assert (gray[:, -6:] == 255).all(), "titles end inside the picture"
    assert (gray[:200, 1010:1070] == 255).all(), "the left title ends before the right one begins"


def test_every_filled_bin_has_a_point_and_an_interval(calibration: Calibration) -> None:
    figure = Figure()
    draw_reliability(figure.subplots(), calibration)
    filled = np.flatnonzero(calibration.count)
    _, *intervals, points = figure.axes[0].lines
    assert len(intervals) == len(filled)
    assert np.allclose(points.get_ydata(), np.array(calibration.accuracy)[filled])
    first = filled[0]
    hits = round(calibration.accuracy[first] * calibration.count[first])
    assert np.allclose(intervals[0].get_ydata(), wilson_interval(hits, calibration.count[first]))


def test_the_origin_is_labeled_once_and_ticks_have_equal_digits(calibration: Calibration) -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    draw_reliability(left, calibration)
    draw_risk_coverage(right, np.array([0.5, 1.0]), np.array([0.0, 0.013]))
    figure.canvas.draw()
    for axes in (left, right):
        labels = [
            [text.get_text() for text in axis.get_ticklabels() if text.get_visible()]
            for axis in (axes.xaxis, axes.yaxis)
        ]
        assert [label for names in labels for label in names if float(label.removesuffix(" %")) == 0] == ["0 %"]
        assert all(len({len(label.partition(".")[2]) for label in names}) == 1 for names in labels)


def test_a_long_curve_has_few_points_and_keeps_its_ends() -> None:
    figure = Figure()
    coverage = np.linspace(0.001, 1, 5000)
    draw_risk_coverage(figure.subplots(), coverage, coverage / 4)
    (curve,) = figure.axes[0].lines
    x, y = curve.get_data()
    assert len(np.asarray(x)) <= 240
    assert (np.asarray(x)[-1], np.asarray(y)[-1]) == (1.0, 0.25)
