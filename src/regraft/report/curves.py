"""Charts of a run as SVG within a page: learning curves, confidence against truth, errors against answers, confusions.

Enters: a history, a `Calibration`, shares, counts. Leaves: markup whose colours come from the page's style, with the
numbers in words for those who do not see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from regraft.evaluation.calibration import Calibration
from regraft.evaluation.intervals import wilson_interval
from regraft.evaluation.names import one_line, shorten
from regraft.report.markup import Html, tag

#: A chart's size, and that of the room for what is drawn, in units of its own.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 400, 264, 46, 380, 34, 216
#: Points of a curve beyond which the eye sees no difference.
_POINTS = 240

_PHASES = {"head": "head", "finetune": "fine-tuning"}


def learning_curve(rows: Sequence[Mapping[str, Any]], measure: str) -> Html:
    """Loss or accuracy of training and validation against the running epoch, both phases on one axis.

    Args:
        rows: As `history.csv` has them, at least one.
        measure: `loss` or `accuracy`.
    """
    series = {part: [_finite(row.get(f"{part}_{measure}")) for row in rows] for part in ("train", "val")}
    known = [value for values in series.values() for value in values if value is not None]
    if not known:
        return _svg(f"No {measure} was measured.", tag("text", f"no {measure} was measured", x=_LEFT, y=_TOP + 20))
    ticks = _ticks(min(known), max(known), 1.0 if measure == "accuracy" else None)
    frame = _Frame((0.5, len(rows) + 0.5), (ticks[0], ticks[-1]))
    write: Callable[[float], str] = (lambda v: f"{100 * v:.3g} %") if measure == "accuracy" else "{:.3g}".format
    pieces = [*_phases(rows, frame), *frame.grid(ticks, write)]
    step = max(1, math.ceil(len(rows) / 10))
    pieces += [_label(str(n), frame.x(n), _BOTTOM + 18) for n in range(1, len(rows) + 1, step)]
    pieces.append(_label("epoch", (_LEFT + _RIGHT) / 2, _BOTTOM + 38))
    for part, values in series.items():
        points = [(frame.x(n), frame.y(v)) for n, v in enumerate(values, 1) if v is not None]
        pieces.append(_line(points, part))
        if len(points) <= 40:
            pieces += [tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=2.6, class_=part) for x, y in points]
    kept = [n for n, row in enumerate(rows, 1) if row.get("kept")]
    told = "val" if any(v is not None for v in series["val"]) else "train"
    words = f"{measure} over {len(rows)} epochs"
    if kept and (value := series[told][kept[-1] - 1]) is not None:
        x, y = frame.x(kept[-1]), frame.y(value)
        pieces.append(tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=5.5, class_=f"{told} kept"))
        words += f"; the model kept has {write(value)}"
    ends = [f"{part} {write(v)}" for part, values in series.items() for v in values[-1:] if v is not None]
    return _svg(f"{words}; at the end {', '.join(ends)}.", *pieces)


def _phases(rows: Sequence[Mapping[str, Any]], frame: _Frame) -> Iterable[Html]:
    """Each phase's name above it, and a line where the next begins."""
    start = 0.5
    for phase, group in groupby(str(row["phase"]) for row in rows):
        length = len(list(group))
        if start > 0.5:
            yield tag("path", d=f"M{frame.x(start):.1f} {_TOP - 18}V{_BOTTOM}", class_="border")
        yield tag("text", shorten(one_line(_PHASES.get(phase, phase)), 14), x=f"{frame.x(start) + 4:.1f}", y=_TOP - 9)
        start += length


def reliability(found: Calibration, words: str) -> Html:
    """How often answers of each confidence are right, with 95 % intervals; below, how many there are of each."""
    frame = _Frame((0, 1), (0, 1))
    pieces = [*frame.grid((0, 0.25, 0.5, 0.75, 1), _whole), tag("path", d=f"M{_LEFT} {_BOTTOM}L{_RIGHT} {_TOP}",
                                                                  class_="border")]  # fmt: skip
    most, bins = max(found.count), len(found.count)
    for i, count in enumerate(found.count):
        if not count:
            continue
        height = 30 * count / most
        pieces.append(tag("rect", x=f"{frame.x(i / bins) + 1:.1f}", y=f"{_BOTTOM - height:.1f}",
                          width=f"{(_RIGHT - _LEFT) / bins - 2:.1f}", height=f"{height:.1f}",
                          class_="ghost"))  # fmt: skip
        low, high = wilson_interval(round(found.accuracy[i] * count), count)
        x, y = frame.x(found.confidence[i]), frame.y(found.accuracy[i])
        pieces.append(tag("path", d=f"M{x:.1f} {frame.y(low):.1f}V{frame.y(high):.1f}", class_="whisker"))
        pieces.append(tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3.6, class_="all"))
    pieces += _shares(frame, "confidence of the answer", "share that is right")
    return _svg(f"{words}: confidence is off by {100 * found.ece:.1f} points on average.", *pieces)


def risk_coverage_curve(coverage: np.ndarray, risk: np.ndarray) -> Html:
    """Share of wrong answers against the share of images that are answered, the surest first.

    Args:
        coverage: As `risk_coverage` gives them, (n,), the smallest first.
        risk: Likewise, (n,).
    """
    chosen = np.unique(np.linspace(0, len(coverage) - 1, _POINTS).round().astype(int))
    ticks = _ticks(0.0, max(float(risk.max()), 0.02), 1.0)
    frame = _Frame((0, 1), (0, ticks[-1]))
    points = [(frame.x(float(coverage[i])), frame.y(float(risk[i]))) for i in chosen]
    half = float(risk[np.searchsorted(coverage, 0.5)])
    words = f"Of all images {100 * risk[-1]:.1f} % are wrong; of the surer half {100 * half:.1f} %."
    pieces = [*frame.grid(ticks, lambda value: f"{100 * value:.3g} %"), _line(points, "all")]
    return _svg(words, *pieces, *_shares(frame, "share that is answered, the surest first", "share of these wrong"))


def _shares(frame: _Frame, across: str, up: str) -> list[Html]:
    return [
        *(_label(_whole(share), frame.x(share), _BOTTOM + 18) for share in (0, 0.25, 0.5, 0.75, 1)),
        _label(across, (_LEFT + _RIGHT) / 2, _BOTTOM + 38),
        tag("text", up, x=_LEFT, y=_TOP - 12),
    ]


def whisker(value: float, low: float, high: float) -> Html:
    """A share as a dot on the line of its interval, from 0 to 1; the numbers beside it say the same."""
    return tag(
        "svg", tag("rect", x="0", y="45%", width="100%", height="10%", class_="ghost"),
        tag("rect", x=f"{100 * low:.1f}%", y="25%", width=f"{max(0.5, 100 * (high - low)):.1f}%", height="50%",
            class_="range"),
        tag("circle", cx=f"{100 * value:.1f}%", cy="50%", r=4, class_="all"), class_="bar spread", aria_hidden="true",
    )  # fmt: skip


def heat_map(confusion: np.ndarray, classes: Sequence[str]) -> Html:
    """A confusion matrix without numbers: the darker, the larger the share of the true class.

    Args:
        confusion: Counts (C, C); row: true class, column: predicted class.
        classes: C names.
    """
    count = len(classes)
    support = np.maximum(confusion.sum(axis=1), 1)
    names = [shorten(one_line(name), 16) for name in classes]
    cell, side = 12, 12 * count
    margin = 8 + 7 * max(len(name) for name in names)
    cells = []
    for row, column in zip(*np.nonzero(confusion), strict=True):
        number = int(confusion[row, column])
        share = number / int(support[row])
        title = tag(
            "title", f"{one_line(classes[row])} as {one_line(classes[column])}: {number:,}, {100 * share:.0f} %"
        )
        cells.append(tag("rect", title, x=margin + cell * int(column), y=margin + cell * int(row), width=cell - 1,
                         height=cell - 1, fill_opacity=f"{math.sqrt(share):.2f}",
                         class_="hit" if row == column else "miss"))  # fmt: skip
    middle = margin + 9
    labels = [tag("text", name, x=margin - 5, y=middle + cell * i, text_anchor="end") for i, name in enumerate(names)]
    labels += [
        tag("text", name, transform=f"translate({middle + cell * i} {margin - 5}) rotate(-90)")
        for i, name in enumerate(names)
    ]
    ground = tag("rect", x=margin, y=margin, width=side, height=side, class_="ground")
    words = f"{int(np.trace(confusion)):,} of {int(confusion.sum()):,} images on the diagonal of {count} classes."
    size = margin + side + 4
    return tag("svg", ground, *cells, *labels, viewBox=f"0 0 {size} {size}", width=size, height=size, role="img",
               aria_label=words, class_="heat")  # fmt: skip


class _Frame:
    """From numbers to places."""

    def __init__(self, across: tuple[float, float], up: tuple[float, float]) -> None:
        self.across, self.up = across, up

    def x(self, value: float) -> float:
        low, high = self.across
        return _LEFT + (value - low) / (high - low) * (_RIGHT - _LEFT)

    def y(self, value: float) -> float:
        low, high = self.up
        return _BOTTOM - (value - low) / (high - low) * (_BOTTOM - _TOP)

    def grid(self, ticks: Sequence[float], write: Callable[[float], str]) -> list[Html]:
        """Lines across, with what they stand for."""
        lines = [tag("path", d=f"M{_LEFT} {self.y(tick):.1f}H{_RIGHT}", class_="grid") for tick in ticks]
        words = [
            tag("text", write(tick), x=_LEFT - 6, y=f"{self.y(tick) + 4:.1f}", text_anchor="end") for tick in ticks
        ]
        return [*lines, *words]


def _ticks(low: float, high: float, most: float | None = None) -> list[float]:
    """Round numbers around all values, three to six of them; none above `most`."""
    span = max(high - low, 1e-3 * max(abs(high), 1e-6), 1e-9)
    power = 10.0 ** math.floor(math.log10(span / 3))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 4.5)
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if most is not None:
        end = min(end, math.floor(most / step + 1e-9)) if high <= math.floor(most / step + 1e-9) * step else end
    end = max(end, start + 1)
    return [round(step * n, 12) for n in range(start, end + 1)]


def _line(points: Sequence[tuple[float, float]], class_: str) -> Html:
    return tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=f"curve {class_}")


def _label(words: str, x: float, y: float) -> Html:
    return tag("text", words, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor="middle")


def _whole(share: float) -> str:
    return f"{100 * share:.0f} %"


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _svg(words: str, *inside: str) -> Html:
    return tag("svg", *inside, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=words, class_="chart wide")
