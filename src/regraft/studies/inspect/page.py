"""The inspection of a data set as one HTML file that needs no other; its size is bounded whatever the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from regraft.atomic_io import write_text
from regraft.data.dataset import PARTS, Dataset, Sample
from regraft.data.quality.cleaning import proposed
from regraft.data.quality.description import describe
from regraft.data.quality.findings import SEVERITIES, Inspection, Severity
from regraft.data.quality.numbers import by_range, describe_numbers
from regraft.data.taxonomy import Taxonomy
from regraft.report.html import render_page
from regraft.report.plots.histogram import Measure, draw_histogram
from regraft.report.plots.svg import panel
from regraft.report.thumbnails import Album
from regraft.studies.inspect.gallery import (
    MAX_CLASSES,
    MAX_SINGLES,
    SAMPLES,
    ClassSamples,
    Entry,
    Evidence,
    choose_evidence,
    read_pictures,
)
from regraft.text import one_line, pluralize, shorten

#: Most names in a folded list, and most rows of the folded table of classes.
MAX_NAMES, MAX_ROWS = 200, 1000
#: Most classes in the table of those that come together.
MAX_TOGETHER = 20

_VERDICTS: Mapping[Severity | None, str] = {
    "error": "Metrics measured on this data will be wrong until the errors are fixed.",
    "warning": "Metrics measured on this data may be wrong: check the warnings.",
    "info": "No problem was found; the notes below are good to know.",
    None: "No problem was found.",
}
_PLURALS: Mapping[Severity, str] = {"error": "errors", "warning": "warnings", "info": "info"}


def write_page(
    inspection: Inspection, file: Path, *, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write the page; every image on it is read again, once, and those that cannot be read are marked."""
    dataset = inspection.dataset
    groups = by_range(dataset) if dataset.task == "regression" else dataset
    classes = ClassSamples.draw(groups, seed)
    evidence = choose_evidence(inspection)
    wanted = [path for item in evidence for entry in item.pictured for path in entry.shown]
    pictures = read_pictures(dataset, wanted, classes, progress)
    shown = set(wanted)
    samples = {s.path: s for s in dataset.samples if s.path in shown}
    if dataset.task == "regression":  # all digits of a third would not fit below a picture
        samples = {path: replace(s, label=f"{float(s.label):.6g}") for path, s in samples.items()}
    ignored = dataset.ignored
    title = shorten(one_line(_title(dataset)), 120)
    notes = [*dataset.notes, *inspection.notes]
    page = render_page(
        "inspection.html.jinja",
        title=title,
        kind="data set inspection",
        sections={"findings": "Findings", "classes": "Numbers" if dataset.task == "regression" else "Classes",
                  **({"tree": "Tree of classes"} if dataset.taxonomy else {}), "samples": "Samples",
                  "measures": "Image statistics", "notes": "Notes"},
        tree=_tree_view(dataset.taxonomy, dataset) if dataset.taxonomy else None,
        numbers=_numbers(dataset),
        verdict=verdict(inspection),
        findings=[_finding_view(item, samples) for item in evidence],
        more_findings=len(inspection.findings) - len(evidence),
        classes=class_tables(groups, classes),
        distribution=_distribution(dataset) if dataset.task == "regression" else None,
        group="range of the numbers" if dataset.task == "regression" else "class",
        labels=label_tables(dataset) if dataset.task == "multilabel" else None,
        drawn=[(name, drawn[:SAMPLES], classes.counts[name], pictures.means.get(name))
               for name in (classes.drawn if groups is dataset else groups.classes)
               if (drawn := classes.drawn.get(name))],
        sample_count=SAMPLES,
        shown_classes=MAX_CLASSES // 2 if classes.smallest else 0,
        ends=ends(classes),
        seed=seed,
        album=Album(pictures.thumbnails),
        statistics=_statistics(dataset),
        notes=notes[:MAX_NAMES],
        more_notes=len(notes) - MAX_NAMES,
        ignored=_names(((path,), "") for path in ignored) if ignored else None,
        ignored_count=len(ignored),
        drop=",".join(proposed(inspection.findings)),
        task="" if dataset.task == "classification" else f" --task {dataset.task}",
    )  # fmt: skip
    write_text(file, page)


def _title(dataset: Dataset) -> str:
    root = dataset.root
    if isinstance(root, Path) and dataset.storage is not None:  # "." becomes the folder's name
        root = root.absolute()
    return PurePosixPath(root).name or "Images in memory"


def _numbers(dataset: Dataset) -> list[tuple[str, str]]:
    parts = Counter(s.part for s in dataset.samples)
    sizes = [s.image_stats.bytes for s in dataset.samples if s.image_stats is not None]
    return [
        (f"{len(dataset):,}", "image" if len(dataset) == 1 else "images"),
        _labels_number(dataset),
        *((f"{parts[part]:,}", part) for part in PARTS if parts[part]),
        *([(_size(sum(sizes)), "of images")] if sizes else []),
        (f"{len(dataset.bad):,}", "unreadable"),
        (f"{len(dataset.ignored):,}", "other file" if len(dataset.ignored) == 1 else "other files"),
    ]


def _labels_number(dataset: Dataset) -> tuple[str, str]:
    """The number of classes, or the mean of the numbers."""
    if dataset.task == "regression":
        return f"{dataset.numbers.mean():.4g}" if len(dataset) else "-", f"mean {dataset.classes[0]}"
    return f"{len(dataset.classes):,}", "class" if len(dataset.classes) == 1 else "classes"


def _distribution(dataset: Dataset) -> dict[str, Any]:
    """A histogram of the numbers, and a table of their spread in all images and in each part."""
    measure = Measure(dataset.classes[0], "number of an image", "{:.4g}".format, dataset.numbers)
    chart = None
    if len(dataset) and not measure.is_constant:
        chart = panel(lambda axes: draw_histogram(axes, measure), "numbers", measure.describe(), size=(7.6, 3.2))
    names = ("least", "median", "mean", "largest", "deviation")
    rows = [
        (part, f"{spread['images']:,}", *(f"{spread[name]:.4g}" for name in names))
        for part, spread in describe_numbers(dataset)["parts"].items()
    ]
    return {"chart": chart, "rows": rows, "quantity": dataset.classes[0]}


def verdict(inspection: Inspection) -> dict[str, Any]:
    """Return the number of findings of each severity, and what that means."""
    counts = Counter(finding.severity for finding in inspection.findings)
    badges = [(s if counts[s] else "zero", pluralize(counts[s], s, _PLURALS[s])) for s in SEVERITIES]
    return {"badges": badges, "text": _VERDICTS[inspection.worst]}


def _finding_view(evidence: Evidence, samples: Mapping[str, Sample]) -> dict[str, Any]:
    finding = evidence.finding
    entries = evidence.named
    visible = 0 if evidence.pictured else MAX_SINGLES  # where there are no pictures, the first names are not folded
    rest = entries[visible:]
    what = "set" if any(len(entry.paths) > 1 for entry in rest) else "file"
    return {
        "finding": finding,
        "is_sets": any(len(entry.paths) > 1 for entry in evidence.pictured),
        "pictured": [_entry_view(entry, samples) for entry in evidence.pictured],
        "named": _names((entry.paths, entry.detail) for entry in entries[:visible]) if entries[:visible] else None,
        "rest": _names((entry.paths, entry.detail) for entry in rest) if rest else None,
        "rest_summary": f"{len(rest):,} more {what if len(rest) == 1 else what + 's'}, by name",
        "details": finding.details[:MAX_NAMES] if not finding.files else (),
    }


def _entry_view(entry: Entry, samples: Mapping[str, Sample]) -> dict[str, Any]:
    """The pictures of an entry; where their labels or parts differ, these stand out."""
    shown = [samples[path] for path in entry.shown]
    is_set = len(entry.paths) > 1
    values: list[set[str | None]] = [{s.label for s in shown}, {s.part for s in shown}] if is_set else []
    differing = {word for words in values if len(words) > 1 for word in words}
    rest = [path for path in entry.paths if path not in set(entry.shown)]
    return {
        "detail": entry.detail,
        "files": [(s, [(word, word in differing) for word in (s.label, s.part) if word]) for s in shown],
        "rest": _names(((path,), "") for path in rest) if rest else None,
        "rest_count": len(rest),
    }


def _names(entries: Iterable[tuple[Sequence[str], str]]) -> dict[str, Any]:
    """File names, one entry per line and at most `MAX_NAMES` in total; a detail that all share is given once."""
    entries = list(entries)
    common = entries[0][1] if len(entries) > 1 and len({detail for _, detail in entries}) == 1 else ""
    rows = []
    budget = MAX_NAMES
    for paths, detail in entries:
        if not budget:
            break
        shown = paths[:budget]
        budget -= len(shown)
        rows.append((shown, len(paths) - len(shown), "" if common else detail))
    is_short = len(entries) > 3 and all(len(paths) == 1 for paths, _ in entries)  # fits several columns
    return {"common": common, "rows": rows, "is_short": is_short,
            "more": len(entries) - len(rows)}  # fmt: skip


def class_tables(dataset: Dataset, classes: ClassSamples) -> dict[str, Any]:
    """Return the images of each class and part, as the rows of a table in two or three pieces."""
    parts = [part for part in PARTS if any(s.part == part for s in dataset.samples)]
    by_part = Counter((name, s.part) for s in dataset.samples for name in dataset.names_of(s))

    def rows(names: Sequence[str]) -> list[tuple[str, int, list[int]]]:
        return [(name, classes.counts[name], [by_part[name, part] for part in parts]) for name in names]

    return {
        "parts": parts,
        "balance": _balance(classes.counts) if classes.counts else "",
        "most": max(1, *classes.counts.values()) if classes.counts else 1,
        "largest": rows(classes.largest),
        "others": rows(classes.others[:MAX_ROWS]),
        "others_count": len(classes.others),
        "smallest": rows(classes.smallest),
        "ends": ends(classes),
    }


def label_tables(dataset: Dataset) -> dict[str, Any]:
    """How many images have how many labels, and how many images of a class (row) have another one, too (column)."""
    has = dataset.indicators
    order = np.argsort(-has.sum(axis=0), kind="stable")[:MAX_TOGETHER]
    together = (has.T.astype(np.int64) @ has)[np.ix_(order, order)]
    names = [dataset.classes[i] for i in order.tolist()]
    levels = np.ceil(8 * together / np.maximum(np.diag(together), 1)[:, None]).astype(int)
    rows = [(name, list(zip(levels[i].tolist(), together[i].tolist(), strict=True))) for i, name in enumerate(names)]
    return {
        "counts": sorted(Counter(has.sum(axis=1).tolist()).items()),
        "names": names,
        "rows": rows,
        "is_cut": len(dataset.classes) > MAX_TOGETHER,
    }


def _tree_view(tree: Taxonomy, dataset: Dataset) -> dict[str, Any]:
    """The nodes with their images, each indented by its depth."""
    nodes = tree.totals(dataset.counts())
    rows = [("\N{EM SPACE}" * 2 * depth + one_line(name), f"{count:,}") for name, depth, count in nodes[:MAX_ROWS]]
    return {"rows": rows, "more": len(nodes) - len(rows), "sentence": tree.describe()}


def ends(classes: ClassSamples) -> tuple[str, str]:
    """Return what the classes at both ends of the list are called, which is in their order where all are alike."""
    return ("first", "last") if len(set(classes.counts.values())) == 1 else ("largest", "smallest")


def _balance(counts: Mapping[str, int]) -> str:
    most, least, median = max(counts.values()), min(counts.values()), float(np.median(list(counts.values())))
    if most == least:
        return f"{'Each' if len(counts) > 1 else 'The only'} class has {pluralize(most, 'image')}."
    ratio = f"{most / least:.3g} times as many as the smallest ({least:,})" if least else "the smallest has none"
    return f"The largest class has {pluralize(most, 'image')}, {ratio}; the median is {median:,.0f}."


def _statistics(dataset: Dataset) -> dict[str, Any]:
    sizes = [s.size for s in dataset.samples if s.size]
    stats = [s.image_stats for s in dataset.samples if s.image_stats is not None]
    measures = [
        Measure("Shorter side", "pixels", "{:,.0f}".format, np.array([min(size) for size in sizes], float)),
        Measure("Aspect ratio", "width / height", "{:.3g}".format, np.array([w / h for w, h in sizes], float)),
        Measure("File size", "as stored", _size, np.array([s.bytes for s in stats], float)),
        Measure("Brightness", "mean gray value, 0 black to 1 white", "{:.2f}".format,
                np.array([s.brightness for s in stats], float)),
        Measure("Contrast", "standard deviation of gray values", "{:.2f}".format,
                np.array([s.contrast for s in stats], float)),
        Measure("Sharpness", "difference of neighboring gray values", "{:.3g}".format,
                np.array([s.sharpness for s in stats], float)),
    ]  # fmt: skip
    charts = []
    for measure in (m for m in measures if m.values.size):
        name = measure.name.lower().replace(" ", "-")
        chart = None if measure.is_constant else panel(lambda axes, m=measure: draw_histogram(axes, m), name,  # type: ignore[misc]
                                                       measure.describe(), size=(4.6, 2.7))  # fmt: skip
        charts.append((measure, chart))
    tables = [_most_common("Sizes", "Width x height", Counter(f"{w:,} x {h:,}" for w, h in sizes))]
    if stats:
        tables += [
            _most_common("Formats", "Format", Counter(s.format for s in stats)),
            _most_common("Color modes", "Pillow mode", Counter(s.mode for s in stats)),
        ]
    return {"charts": charts, "tables": tables, "has_files": bool(stats),
            "quantiles": _quantiles(dataset) if stats else []}  # fmt: skip


def _most_common(caption: str, head: str, counts: Counter[str], shown: int = 8) -> tuple[str, str, list[Any]]:
    rows = [(name, f"{number:,}") for name, number in counts.most_common(shown)]
    if len(counts) > shown:
        others = counts.total() - sum(number for _, number in counts.most_common(shown))
        rows.append((f"{len(counts) - shown:,} others", f"{others:,}"))
    return caption, head, rows


def _quantiles(dataset: Dataset) -> list[tuple[str, ...]]:
    def write(name: str, value: float) -> str:
        return _size(value) if name == "file_bytes" else f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"

    return [
        (name.replace("_", " "), *(write(name, value) for value in values))
        for name, values in describe(dataset)["quantiles"].items()
    ]


def _size(number: float) -> str:
    """Bytes in decimal units with three digits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.0f} TB"
