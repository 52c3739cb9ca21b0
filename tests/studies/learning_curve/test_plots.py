from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.studies.learning_curve.extrapolation import Curve, Interval
from regraft.studies.learning_curve.plots import ClassGain, ClassGains, ScoreCurve, plot_learning_curve


@pytest.mark.parametrize("classes", [60])
def test_any_number_of_classes_can_be_plotted(classes: int, tmp_path: Path) -> None:
    measured = tuple(Interval(v, v - 0.03, v + 0.03) for v in (0.5, 0.6, 0.7))
    gain = Interval(0.02, 0.0, 0.04)
    curve = Curve((100, 200, 400), measured, (500, 1000, 2000), measured, gain, "unknown")
    rows = [ClassGain("$a$\n日本 " * (i % 3 + 1) + str(i), 50, gain, "unknown") for i in range(classes)]
    plot_learning_curve(ScoreCurve(curve, "Accuracy"), ClassGains(rows, "recall"), tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as image:
        assert image.size[0] == 2100
        margin = np.asarray(image.convert("L"))[:, -6:]
    assert (margin == 255).all(), "the title ends inside the picture"


def test_a_long_title_ends_inside_the_picture(tmp_path: Path) -> None:
    measured = tuple(Interval(v, v - 0.5, v + 0.5) for v in (9.125, 8.375, 7.125))
    curve = Curve((100, 200, 400), measured, (500, 1000, 2000), measured, Interval(0.5, 0.1, 0.9), "gain")
    scores = [ScoreCurve(curve, name, "price of a house") for name in ("R squared", "Mean absolute error")]
    plot_learning_curve(scores[0], scores[1], tmp_path / "curve.png", unit="patients")
    with Image.open(tmp_path / "curve.png") as image:
        assert (np.asarray(image.convert("L"))[:, -6:] == 255).all()
