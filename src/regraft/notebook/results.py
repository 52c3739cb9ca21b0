"""HTML of runs, predictions, explanations, exports and comparisons for notebooks.

Input: results. Output: fragments, made from the macros of the pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from regraft.exporting.export import ExportResult
from regraft.report import plots
from regraft.report.html import render_fragment
from regraft.report.run_page import key_numbers, training_view
from regraft.report.tasks import REPORTS, summary
from regraft.report.thumbnails import data_uri, jpeg_uri, read_thumbnails
from regraft.runs.explain import Explanation
from regraft.runs.record import record_of
from regraft.runs.report import REPORT
from regraft.runs.run import Run
from regraft.studies.compare.result import Comparison

#: Classes shown per prediction, cards side by side, and longer side of a chart in pixels.
_TOP, _CARDS, _CHART_SIDE = 3, 24, 1100
#: Charts of a run by their titles.
_CHARTS = {
    "Sample predictions": "sample_predictions.png",
    "Reliability diagram": "reliability.png",
    "Precision over recall": "precision_recall.png",
    "Predicted over true numbers": "predicted_true.png",
}


def run(result: Run) -> str:
    """Draw the metrics, what they say, and the charts of a run."""
    record = record_of(result)
    page = result.path / REPORT
    return render_fragment(
        "run.html.jinja",
        values=key_numbers(record),
        sentences=summary(record),
        cautions=record.cautions,
        training=training_view(record),
        charts=[
            (title, chart)
            for title, name in _CHARTS.items()
            if (chart := _chart(result.path / "plots" / name)) is not None
        ],
        details=REPORTS[record.task].details(record),
        counted=record.counted,
        path=str(page if page.is_file() else result.path),
    )


def single(result: Any) -> str:
    """Draw a prediction, an explanation or an export."""
    return result_list([result])


def result_list(results: Sequence[Any]) -> str:
    """Draw predictions, explanations or exports side by side."""
    if results and isinstance(results[0], ExportResult):
        return render_fragment("exports.html.jinja", exports=results)
    thumbnails = {}
    if results and not isinstance(results[0], Explanation):
        files = [one.source for one in results[:_CARDS] if Path(one.source).is_file()]
        thumbnails = read_thumbnails(files, Path)
    groups = [_cards(one, thumbnails.get(one.source)) for one in results[:_CARDS]]
    return render_fragment("cards.html.jinja", groups=groups, count=len(results))


def _cards(result: Any, picture: str | None) -> list[dict[str, Any]]:
    """The cards of a prediction or an explanation: pictures with their text."""
    card = {"name": Path(result.source).name if result.source else "", "alt": result.source, "error": result.error,
            "picture": picture, "title": "", "probabilities": []}  # fmt: skip
    if result.error is not None:
        return [card]
    if not isinstance(result, Explanation):
        if result.value is not None:
            interval = "" if result.interval is None else " ({:.4g} to {:.4g})".format(*result.interval)
            return [card | {"title": f"{result.classes[0]} {result.label}{interval}"}]
        if not result.thresholds:
            return [card | {"probabilities": result.top(_TOP)}]
        labels = result.labels
        title = ", ".join(labels) or "none of the labels"
        return [card | {"title": title, "probabilities": result.top(max(_TOP, len(labels)))}]
    maps = [
        card | {
            "name": "", "alt": f"Attribution for {target}",
            "title": _map_title(result, target, has_evidence=bool(heat.any())),
            "picture": data_uri(Image.fromarray(plots.attribution_plots.overlay(result.image, heat))),
            "probabilities": [] if result.value is not None else [(target, result.probability(target))],
        }
        for target, heat in zip(result.targets, result.heat, strict=True)
    ]  # fmt: skip
    said = {} if result.value is None else {"title": f"{result.classes[0]} {result.label}"}
    return [card | said | {"picture": data_uri(Image.fromarray(result.image))}, *maps]


def _map_title(explanation: Explanation, target: str, *, has_evidence: bool) -> str:
    """What stands below a map, above the target's probability; of a number, the whole of it."""
    title = "attribution for" if has_evidence else "no evidence (zero everywhere) for"
    return title if explanation.value is None else f"{title} {explanation.describe(target)}"


def comparison(result: Comparison) -> str:
    """Draw the conclusion, the table and the chart of a comparison."""
    return render_fragment("comparison.html.jinja", comparison=result.to_json(), failed=result.failed,
                           chart=_chart(result.path / "comparison.png"))  # fmt: skip


def _chart(file: Path) -> str | None:
    """A chart's PNG as a data URI, no larger than a notebook can show; None where there is no such file."""
    try:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
    except OSError:
        return None
    picture.thumbnail((_CHART_SIDE, _CHART_SIDE), Image.Resampling.LANCZOS)
    return jpeg_uri(picture, 85)
