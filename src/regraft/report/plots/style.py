"""Colors, sizes and fonts of all charts, and how they are saved."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from regraft.atomic_io import atomic_write
from regraft.text import one_line

# Colors that people with any color vision can distinguish. The first three: Okabe and Ito, "Color Universal
# Design" (2008); the red: Paul Tol's vibrant scheme, since Okabe and Ito's looks orange.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#CC3311"
INK, MUTED, FAINT, LINE, SHADE = "#1F2933", "#616E7C", "#B8C2CC", "#E4E7EB", "#F3F6F9"

TITLE_SIZE, TEXT_SIZE, SMALL_SIZE = 17, 13, 11.5
DPI = 150
_MARGIN_INCHES = 0.3

#: Matplotlib ships the first; the others, where installed, draw the scripts that it lacks.
_FONTS = (
    "DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Microsoft YaHei", "Malgun Gothic", "Hiragino Sans",
    "PingFang SC", "WenQuanYi Micro Hei", "Arial Unicode MS",
)  # fmt: skip
_MISSING = "□"

Align = Literal["left", "center", "right"]
Point = tuple[float, float]


def drawable(text: str) -> str:
    """Return one line that draws without a warning: a box replaces each character that no installed font has."""
    return "".join(c if _has_glyph(c) else _MISSING for c in one_line(text))


def clear_axes(axes: Axes) -> None:
    """Remove the frame and the tick marks."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=MUTED, labelsize=SMALL_SIZE)


def write(
    axes: Axes, text: str, anchor: Point, offset: Point, *, size: float, color: str, align: Align = "left",
    below: bool = False,
) -> None:  # fmt: skip
    """Write one line, to which `drawable` was applied, beside an anchor.

    The anchor is in fractions of the axes' width and height, the offset to the right and upwards in points. `align` is
    the end of the text that is at the anchor.
    """
    axes.annotate(text, anchor, xycoords="axes fraction", xytext=offset, textcoords="offset points", ha=align,
                  va="top" if below else "baseline", size=size, color=color, annotation_clip=False)  # fmt: skip


def write_percent(axis: Axis) -> None:
    """Label the ticks of shares in percent, none above 100, with as many digits as tell neighbors apart."""
    low, high = axis.get_view_interval()
    ticks = [
        tick for tick in axis.get_major_locator().tick_values(low, high) if low - 1e-9 <= tick <= min(high, 1) + 1e-9
    ]
    digits = next((d for d in range(4) if len({f"{100 * tick:.{d}f}" for tick in ticks}) == len(ticks)), 4)
    step = 100 * (ticks[1] - ticks[0]) if len(ticks) > 1 else 1
    digits = max(digits, 0 if abs(step - round(step)) < 1e-6 else 1)
    axis.set_ticks(ticks, [f"{abs(100 * tick):.{digits}f} %" for tick in ticks])


def frame(axes: Axes, grid: Literal["x", "y", "both"] = "y") -> None:
    """Prepare axes for a chart: light grid lines behind the data, no frame, no tick marks."""
    clear_axes(axes)
    axes.grid(axis=grid, color=LINE, linewidth=1)
    axes.set_axisbelow(True)


def prepare(figure: Figure) -> None:
    """Set the fonts of all text, and take it literally: `$` starts no formula."""
    for text in figure.findobj(Text):
        text.set(fontfamily=list(_fonts()), parse_math=False, usetex=False)


def save(figure: Figure, path: Path, *, tight: bool = False) -> None:
    """Write a figure as PNG, atomically, after `prepare`; `tight` fits the picture's size to what is drawn."""
    prepare(figure)
    box = _drawn_box(figure) if tight else None
    with atomic_write(path) as temporary:
        figure.savefig(
            temporary, format="png", dpi=DPI, facecolor="white", bbox_inches=box,
            pil_kwargs={"compress_level": 4},  # half the time of the default 6, and 4 % more bytes
        )  # fmt: skip


def _drawn_box(figure: Figure) -> Bbox:
    """The box of `bbox_inches="tight"`, in inches; Matplotlib itself would draw the figure once more to find it."""
    figure.set_dpi(DPI)
    box: Bbox = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer()).padded(_MARGIN_INCHES)  # type: ignore[no-untyped-call]
    return box


@cache
def _fonts() -> tuple[str, ...]:
    installed = {font.name for font in fontManager.ttflist}
    return tuple(name for name in _FONTS if name in installed)


@cache
def _has_glyph(character: str) -> bool:
    files = (findfont(FontProperties(family=name)) for name in _fonts())
    return any(get_font(file).get_char_index(ord(character)) for file in files)
