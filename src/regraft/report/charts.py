"""Small charts as SVG within a page.

Enters: numbers. Leaves: markup whose colours and type come from the page's style, with the numbers in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from regraft.errors import counted
from regraft.report.markup import Html, tag

_BINS = 24


@dataclass(frozen=True)
class Measure:
    """A number of each image: its name, its axis in words, how to write it, and the numbers, float64 (N,)."""

    name: str
    axis: str
    write: Callable[[float], str]
    values: np.ndarray


#: The chart's size, and that of the room for bars in it, in units of its own.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 320, 172, 56, 312, 24, 128


def histogram(measure: Measure) -> Html:
    """How the numbers are distributed; over powers where they span more than a factor of 20."""
    values, write = measure.values, measure.write
    low, median, high = float(values.min()), float(np.median(values)), float(values.max())
    if write(low) == write(high):
        words = tag("text", f"all {write(low)}", x=_WIDTH / 2, y=30, text_anchor="middle", class_="same")
        axis = tag("text", measure.axis, x=_WIDTH / 2, y=52, text_anchor="middle")
        return _chart(f"{measure.name}: all {write(low)} ({measure.axis}).", words, axis, height=70)
    is_log = low > 0 and high / low > 20
    edges = np.geomspace(low, high, _BINS + 1) if is_log else np.linspace(low, high, _BINS + 1)
    edges[0], edges[-1] = low, high  # as rounding moves them
    heights, _ = np.histogram(values, edges)

    def across(value: float) -> float:
        share = np.log(value / low) / np.log(high / low) if is_log else (value - low) / (high - low)
        return float(_LEFT + share * (_RIGHT - _LEFT))

    tall = (_BOTTOM - _TOP) / heights.max()
    bars = (
        tag("rect", x=f"{across(start) + 0.5:.1f}", width=f"{across(end) - across(start) - 1:.1f}",
             y=f"{_BOTTOM - max(1.0, tall * number):.1f}", height=f"{max(1.0, tall * number):.1f}", class_="all")
        for start, end, number in zip(edges[:-1], edges[1:], heights.tolist(), strict=True) if number
    )  # fmt: skip
    middle = across(median)
    anchor = "start" if middle < _WIDTH * 0.4 else "end" if middle > _WIDTH * 0.75 else "middle"
    quarter, three_quarters = np.quantile(values, (0.25, 0.75)).tolist()
    return _chart(
        f"{measure.name} of {counted(values.size, 'image')}: {write(low)} to {write(high)}, median {write(median)}, "
        f"half of them between {write(quarter)} and {write(three_quarters)} ({measure.axis}).",
        *bars,
        tag("path", d=f"M{_LEFT} {_BOTTOM}H{_RIGHT}", class_="axis"),
        tag("path", d=f"M{middle:.1f} {_TOP - 6}V{_BOTTOM}", class_="median"),
        tag("text", f"median {write(median)}", x=f"{middle:.1f}", y=_TOP - 10, text_anchor=anchor, class_="strong"),
        tag("text", f"{int(heights.max()):,}", x=_LEFT - 6, y=_TOP + 8, text_anchor="end"),
        tag("text", "images", x=_LEFT - 6, y=_TOP + 23, text_anchor="end"),
        tag("text", "0", x=_LEFT - 6, y=_BOTTOM, text_anchor="end"),
        tag("text", write(low), x=_LEFT, y=_BOTTOM + 16),
        tag("text", write(high), x=_RIGHT, y=_BOTTOM + 16, text_anchor="end"),
        tag("text", measure.axis + (", log scale" if is_log else ""), x=_WIDTH / 2, y=_BOTTOM + 36,
             text_anchor="middle"),
    )  # fmt: skip


def _chart(words: str, *inside: str, height: int = _HEIGHT) -> Html:
    return tag("svg", *inside, viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=words, class_="chart")


def bar(pieces: Sequence[tuple[str, int]], most: int) -> Html:
    """A bar of pieces, each of a kind and a number, as long as its share of `most`."""
    # The numbers beside it say the same, so it is hidden from those who do not see it.
    rectangles, start = [], 0.0
    for kind, number in pieces:
        width = 100 * number / most
        rectangles.append(tag("rect", x=f"{start:.2f}%", width=f"{width:.2f}%", height="100%", class_=kind))
        start += width
    return tag("svg", *rectangles, class_="bar", aria_hidden="true")


def swatch(part: str) -> Html:
    """A small square in the colour of a part."""
    return tag("svg", tag("rect", width="100%", height="100%", class_=part), class_="swatch", aria_hidden="true")
