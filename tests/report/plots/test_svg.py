from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
from matplotlib.axes import Axes

from regraft.report.plots import style
from regraft.report.plots.confusion import confusion_figure
from regraft.report.plots.svg import panel, to_svg

NAME = "<script>alert(1)</script> $x^2$"


def draw(axes: Axes) -> None:
    style.frame(axes)
    axes.plot([1, 2, 3], [1, 3, 2], "o-", color=style.BLUE)
    axes.set_xlabel(NAME, color=style.MUTED)


def test_a_chart_has_no_style_attribute_and_takes_the_page_s_colors() -> None:
    svg = panel(draw, "loss", 'a "label"\n<b>')
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg"
    assert root.get("aria-label") == 'a "label" <b>'
    assert {e.tag for e in root.iter()} <= {"svg", "g", "path", "text", "defs", "use", "clipPath", "rect"}
    assert not [e for e in root.iter() if "style" in e.attrib or "font-family" in e.attrib]
    colors = {e.get(key) for e in root.iter() for key in ("fill", "stroke")} - {None, "none"}
    assert colors == {"var(--blue)", "var(--line)", "var(--muted)"}
    assert NAME in [e.text for e in root.iter("text")]


def test_ids_are_those_of_the_chart_and_the_same_chart_gives_the_same_text() -> None:
    first, second = panel(draw, "loss", "x"), panel(draw, "accuracy", "x")
    assert first == panel(draw, "loss", "x")
    assert first.replace("loss-", "accuracy-") == second
    ids = set(re.findall(r' id="([^"]*)"', first))
    assert ids
    assert all(name.startswith("loss-") for name in ids)
    assert set(re.findall(r"#([\w-]+)", first)) == ids


def test_the_cells_of_a_matrix_are_one_picture() -> None:
    figure = confusion_figure(np.eye(40, dtype=np.int64), [f"class {i}" for i in range(40)], with_numbers=False)
    svg = to_svg(figure, "confusion", "x", tight=True)
    root = ElementTree.fromstring(svg)
    assert len(svg) < 60_000
    assert [e.get("href", "")[:22] for e in root.iter("image")] == ["data:image/png;base64,"] * 2
    assert float(root.get("width", "0")) > 400
