"""What all pictures share: colours, sizes, fonts and the way to save.

Enters: any text, and a finished figure. Leaves: text that the fonts can draw, and a PNG file.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text

from regraft.evaluation.names import one_line
from regraft.files import replacing

# Colours that people with any colour vision can tell apart. The first three: Okabe and Ito, "Color Universal
# Design" (2008); the red: Paul Tol's vibrant scheme, since Okabe and Ito's reads as orange.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#CC3311"
INK, MUTED, FAINT, LINE, SHADE = "#1F2933", "#616E7C", "#B8C2CC", "#E4E7EB", "#F3F6F9"

TITLE_SIZE, TEXT_SIZE, SMALL_SIZE = 17, 13, 11.5
DPI = 150

#: matplotlib brings the first; the others serve the scripts that it lacks, where the system has them.
_FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Hiragino Sans",
    "PingFang SC",
    "WenQuanYi Micro Hei",
    "Arial Unicode MS",
)
_MISSING = "□"


def drawable(text: str) -> str:
    """One line that draws without a warning: characters that no font here has become a box."""
    return "".join(c if _has_glyph(c) else _MISSING for c in one_line(text))


def clear_axes(axes: Axes) -> None:
    """Leave the data alone on the page: no frame, no tick marks."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=MUTED, labelsize=SMALL_SIZE)


def write(
    axes: Axes,
    text: str,
    anchor: tuple[float, float],
    offset: tuple[float, float],
    *,
    size: float,
    colour: str,
    align: Literal["left", "center", "right"] = "left",
    below: bool = False,
) -> None:
    """Write one line beside an anchor.

    Args:
        axes: Where.
        text: What; already `drawable`.
        anchor: Point in shares of the axes' width and height.
        offset: From there, right and up, in points.
        size: Of the font, in points.
        colour: Of the text.
        align: Which end of the text stands at the anchor.
        below: Hang the text under the point instead of standing it on it.
    """
    axes.annotate(
        text,
        anchor,
        xycoords="axes fraction",
        xytext=offset,
        textcoords="offset points",
        ha=align,
        va="top" if below else "baseline",
        size=size,
        color=colour,
        annotation_clip=False,
    )


def save(figure: Figure, path: Path, *, tight: bool = False) -> None:
    """Write a figure as PNG, in one step.

    Args:
        figure: What to draw; its text is taken literally, so that `$` starts no formula.
        path: Where to; replaced if it exists.
        tight: Fit the picture's size to what is drawn.
    """
    for text in figure.findobj(Text):
        text.set(fontfamily=list(_fonts()), parse_math=False, usetex=False)
    with replacing(path) as temporary:
        figure.savefig(
            temporary,
            format="png",
            dpi=DPI,
            facecolor="white",
            bbox_inches="tight" if tight else None,
            pad_inches=0.3,
        )


@cache
def _fonts() -> tuple[str, ...]:
    installed = {font.name for font in fontManager.ttflist}
    return tuple(name for name in _FONTS if name in installed)


@cache
def _has_glyph(character: str) -> bool:
    files = (findfont(FontProperties(family=name)) for name in _fonts())
    return any(get_font(file).get_char_index(ord(character)) for file in files)
