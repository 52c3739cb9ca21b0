"""Matplotlib figures as SVG inside a page.

Input: a figure drawn in the colors of `style`. Output: one `<svg>` element whose text takes the page's font and whose
colors are the page's CSS variables, so that it is readable on light and dark backgrounds. It contains no style
attribute (the page's Content-Security-Policy forbids them), and the same figure always gives the same element.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regraft.report.plots import style
from regraft.text import one_line

#: Colors of a figure -> the CSS variable that takes their place.
_VARIABLES = {
    color.lower(): f"var(--{name})"
    for name, color in {
        "blue": style.BLUE, "orange": style.ORANGE, "green": style.GREEN, "red": style.RED, "ink": style.INK,
        "muted": style.MUTED, "edge": style.FAINT, "line": style.LINE, "shade": style.SHADE, "ground": "#ffffff",
    }.items()
}  # fmt: skip
_NUMBER = re.compile(r"-?\d+\.\d+")
_GEOMETRY = ("d", "x", "y", "width", "height", "transform", "points")
_NAMESPACE = re.compile(r"\{[^}]*\}")
#: Matplotlib's settings are global; two figures at once would change them for each other.
_LOCK = threading.Lock()


def panel(draw: Callable[[Axes], None], name: str, label: str, *, size: tuple[float, float] = (5.4, 3.9)) -> Markup:
    """Draw a chart, as `to_svg` does, on axes with space around them for a title line and labels; size in inches."""
    figure = Figure(figsize=size)
    width, height = size
    draw(figure.add_axes((0.72 / width, 0.68 / height, 1 - 1.02 / width, 1 - 1.16 / height)))
    return to_svg(figure, name, label)


def to_svg(figure: Figure, name: str, label: str, *, tight: bool = False) -> Markup:
    """Convert a figure to an `<svg>` element.

    `name` is unique in the page, and the prefix of the element's ids; `label` describes the chart to people who do not
    see it; `tight` fits the element's size to what is drawn.
    """
    style.prepare(figure)
    text = io.StringIO()
    with _LOCK, matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "regraft"}):
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True,
                       dpi=144, bbox_inches="tight" if tight else None, pad_inches=0.1)  # fmt: skip
    root = ElementTree.fromstring(text.getvalue())
    _clean(root, name)
    width = float(root.attrib["viewBox"].split()[2])
    root.attrib |= {
        "class": "chart", "role": "img", "aria-label": one_line(label), "width": f"{width:.0f}",
        "height": f"{float(root.attrib['viewBox'].split()[3]):.0f}",
    }  # fmt: skip
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _clean(element: ElementTree.Element, name: str) -> None:
    """Remove what a page does not need, in place: metadata, groups, ids, digits and style attributes."""
    element.tag = _NAMESPACE.sub("", element.tag)
    element.text = element.text if element.tag == "text" else None
    element.tail = None
    element.attrib.pop("version", None)
    for key in list(element.attrib):
        value = element.attrib.pop(key)
        key = _NAMESPACE.sub("", key)
        if key == "style":
            element.attrib |= _presentation(value)
        elif key == "id" and element.tag != "g":
            element.set(key, f"{name}-{value}")
        elif key in ("href", "clip-path"):
            element.set(key, value.replace("#", f"#{name}-", 1) if "#" in value[:5] else value)
        elif key in _GEOMETRY and element.tag != "svg":
            value = _NUMBER.sub(lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), value)
            if not value.startswith("rotate(-0 "):
                element.set(key, " ".join(value.split()))
        elif key != "id":
            element.set(key, value)
    children = []
    for child in element:
        _clean(child, name)
        if child.tag == "g" and not child.attrib:
            children += list(child)
        elif child.tag not in ("metadata", "style") and not _is_invisible(child):
            children.append(child)
    element[:] = children


def _is_invisible(element: ElementTree.Element) -> bool:
    if element.tag in ("defs", "g"):
        return not len(element)
    return element.tag == "path" and element.get("fill") == "none" and not element.get("stroke")


def _presentation(declarations: str) -> dict[str, str]:
    """Attributes that say what a style says. The font family is left to the page."""
    attributes = {}
    for declaration in declarations.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font":  # Matplotlib before 3.9
            size = re.search(r"([\d.]+)px", value)
            key, value = "font-size", size[1] if size else "12"
        if key not in ("", "font-family", "stroke-dashoffset"):
            attributes[key] = _VARIABLES.get(value, value)
    return attributes
