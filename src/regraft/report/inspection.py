"""The inspection of a data set as a page: what is in it, and what is wrong with it.

Enters: an `Inspection`. Leaves: one HTML file that needs nothing else: no script, and no font, style or image from
elsewhere. Its size is bounded whatever the data: pictures are counted, lists are cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np

from regraft.data.audit import SEVERITIES, Finding, Inspection, Severity, describe
from regraft.data.cleaning import proposed
from regraft.data.dataset import PARTS, Dataset, Sample
from regraft.errors import counted
from regraft.evaluation.names import one_line, shorten
from regraft.files import write_text
from regraft.report.charts import Measure, bar, histogram, swatch
from regraft.report.gallery import (
    CLASSES,
    SAMPLES,
    SINGLES,
    Classes,
    Entry,
    Evidence,
    Pictures,
    gather,
    read_pictures,
)
from regraft.report.markup import LINE, Html, bidi, document, file_name, fold, image_of, joined, list_of, table_of, tag
from regraft.report.thumbs import Album

#: Names in a folded list; rows of the folded table of classes.
NAMES, ROWS = 200, 1000


def write_page(
    inspection: Inspection, file: Path, *, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write the page; the same inspection and seed give the same page.

    Args:
        inspection: What to show. Its images are read again, each once; one that can no longer be read is said so.
        file: The HTML file to write; replaced if it exists.
        seed: At least 0; draws the samples of each class.
        progress: Called with (images read, images to read).
    """
    dataset = inspection.dataset
    classes = Classes.of(dataset, seed)
    evidence = gather(inspection)
    wanted = [path for item in evidence for entry in item.pictured for path in entry.shown]
    pictures = read_pictures(dataset, wanted, classes, progress)
    write_text(file, _page(inspection, evidence, classes, pictures, seed))


# The page and its sections, from the top.


def _page(inspection: Inspection, evidence: Sequence[Evidence], classes: Classes, pictures: Pictures, seed: int) -> str:
    dataset = inspection.dataset
    album = Album(pictures.thumbs)
    sections = [
        ("findings", "Findings", _findings(inspection, evidence, album)),
        ("classes", "Classes", class_tables(dataset, classes)),
        ("samples", "Samples", _samples(classes, pictures, album, seed)),
        ("measures", "Sizes and looks", _measures(dataset)),
        ("notes", "Notes", _notes(inspection)),
    ]
    title = shorten(one_line(_title(dataset)), 120)
    links = list_of((tag("a", heading, href=f"#{key}") for key, heading, _ in sections), class_="contents")
    body = tag(
        "body",
        tag("a", "Skip to the findings", href="#findings", class_="skip"),
        tag("header", tag("p", "What is in the data", class_="over"), tag("h1", bidi(title, 120)),
             _numbers(dataset), verdict(inspection)),
        LINE, tag("nav", links, aria_label="Contents"),
        LINE, tag("main", *(
            joined(tag("section", tag("h2", heading, id=f"{key}-heading"), content, id=key,
                         aria_labelledby=f"{key}-heading"), LINE)
            for key, heading, content in sections)),
        _footer(inspection.findings),
    )  # fmt: skip
    return document(f"{title}: what is in the data", body)


def _title(dataset: Dataset) -> str:
    root = dataset.root
    if isinstance(root, Path) and dataset.storage is not None:  # such as the folder that one is in
        root = root.absolute()
    return PurePosixPath(root).name or "Images in memory"


def _numbers(dataset: Dataset) -> Html:
    parts = Counter(s.part for s in dataset.samples)
    facts = [s.facts.bytes for s in dataset.samples if s.facts is not None]
    numbers = [
        (f"{len(dataset):,}", "image" if len(dataset) == 1 else "images"),
        (f"{len(dataset.classes):,}", "class" if len(dataset.classes) == 1 else "classes"),
        *((f"{parts[part]:,}", part) for part in PARTS if parts[part]),
        *([(_size(sum(facts)), "of images")] if facts else []),
        (f"{len(dataset.bad):,}", "unreadable"),
        (f"{len(dataset.ignored):,}", "other file" if len(dataset.ignored) == 1 else "other files"),
    ]
    tiles = (tag("div", tag("dt", what), tag("dd", number)) for number, what in numbers)
    return tag("dl", *tiles, class_="numbers")


_VERDICTS: Mapping[Severity | None, str] = {
    "error": "What is measured on this data will be wrong until the errors are mended.",
    "warning": "What is measured on this data may be wrong: look at the warnings.",
    "info": "Nothing is wrong; there are things that are good to know.",
    None: "Nothing was found that is wrong.",
}
_WORDS: Mapping[Severity, tuple[str, str]] = {
    "error": ("error", "errors"),
    "warning": ("warning", "warnings"),
    "info": ("info", "info"),
}


def verdict(inspection: Inspection) -> Html:
    """How many findings of each severity, and what that means."""
    counts = Counter(finding.severity for finding in inspection.findings)
    badges = (
        tag("span", counted(counts[s], *_WORDS[s]), class_=f"badge {s if counts[s] else 'zero'}") for s in SEVERITIES
    )
    words = (*badges, tag("span", _VERDICTS[inspection.worst]))
    return tag("p", *(piece for word in words for piece in (word, " ")), class_="verdict")


def _findings(inspection: Inspection, evidence: Sequence[Evidence], album: Album) -> Html:
    if not evidence:
        return tag("p", "None.", class_="muted")
    samples = {path for item in evidence for entry in item.pictured for path in entry.shown}
    by_path = {s.path: s for s in inspection.dataset.samples if s.path in samples}
    links = (
        tag("a", tag("span", item.finding.kind.replace("_", " ")),
             *([" ", tag("span", f"{len(item.finding.files):,}", class_="muted")] if item.finding.files else []),
             href=f"#finding-{number}", class_=item.finding.severity)
        for number, item in enumerate(evidence, 1)
    )  # fmt: skip
    more = len(inspection.findings) - len(evidence)
    return joined(
        *([tag("nav", list_of(links, class_="chips"), aria_label="Findings")] if len(evidence) > 1 else []),
        *(_finding(number, item, by_path, album) for number, item in enumerate(evidence, 1)),
        *([_more(more, "findings")] if more else []),
    )


def _finding(number: int, evidence: Evidence, by_path: Mapping[str, Sample], album: Album) -> Html:
    finding = evidence.finding
    heading = tag(
        "h3", tag("span", _WORDS[finding.severity][0], class_=f"badge {finding.severity}"), " ",
        tag("span", shorten(one_line(finding.title), 600)), id=f"finding-{number}-heading",
    )  # fmt: skip
    advice = tag("p", shorten(one_line(finding.advice), 600), " ", tag("code", finding.kind), class_="advice")
    if any(len(entry.paths) > 1 for entry in evidence.pictured):
        sets = (_set(entry, by_path, album) for entry in evidence.pictured)
        shown = list_of(sets, ordered=True, class_="sets")
    else:
        shown = list_of(
            (_figure(entry.shown[0], by_path, album, entry.detail) for entry in evidence.pictured), class_="pictures"
        )
    content = [
        *([shown] if evidence.pictured else []),
        *_named(evidence),
        *([list_of((bidi(d, 240) for d in finding.details[:NAMES]), class_="plain")] if not finding.files else []),
    ]
    return joined(LINE, tag("article", heading, advice, *content, class_=f"finding {finding.severity}",
                              id=f"finding-{number}", aria_labelledby=f"finding-{number}-heading"))  # fmt: skip


def _set(entry: Entry, by_path: Mapping[str, Sample], album: Album) -> Html:
    """Files that belong together, side by side; where their labels or parts differ, these stand out."""
    shown = [by_path[path] for path in entry.shown]
    differ = {word for words in ({s.label for s in shown}, {s.part for s in shown}) if len(words) > 1 for word in words}
    figures = list_of((_figure(s.path, by_path, album, differ=differ) for s in shown), class_="pictures")
    seen = set(entry.shown)
    rest = [path for path in entry.paths if path not in seen]
    folded = fold(f"{len(rest):,} more of this set", _names(((path,), "") for path in rest)) if rest else ""
    return joined(*([tag("p", bidi(entry.detail), class_="what")] if entry.detail else []), figures, folded)


def _figure(
    path: str, by_path: Mapping[str, Sample], album: Album, detail: str = "", differ: Iterable[str | None] = ()
) -> Html:
    sample = by_path[path]
    tags = [
        tag("span", bidi(word, 40), class_="tag differs" if word in differ else "tag")
        for word in (sample.label, sample.part)
        if word is not None
    ]
    return tag(
        "figure",
        album.picture(path, f"{sample.label}: {path.rsplit('/', 1)[-1]}"),
        tag("figcaption", *([tag("span", bidi(detail, 120), class_="detail")] if detail else []),
             tag("span", file_name(path), class_="path"), tag("span", *tags, class_="tags")),
    )  # fmt: skip


def _named(evidence: Evidence) -> Iterator[Html]:
    """The entries without pictures: the first of them are seen where no others are, the rest is folded."""
    entries = evidence.named
    seen = 0 if evidence.pictured else SINGLES
    if entries[:seen]:
        yield _names((entry.paths, entry.detail) for entry in entries[:seen])
    if rest := entries[seen:]:
        what = "more sets" if any(len(entry.paths) > 1 for entry in rest) else "more files"
        summary = f"{len(rest):,} {what[:-1] if len(rest) == 1 else what}, by name"
        yield fold(summary, _names((entry.paths, entry.detail) for entry in rest))


def _names(entries: Iterable[tuple[Sequence[str], str]]) -> Html:
    """Names of files, one entry a line, and in all no more than `NAMES`; what is said of all is said once."""
    entries = list(entries)
    common = entries[0][1] if len(entries) > 1 and len({detail for _, detail in entries}) == 1 else ""
    items: list[Html] = []
    room = NAMES
    for paths, detail in entries:
        shown = paths[:room]
        if not shown:
            break
        room -= len(shown)
        words = [word for path in shown for word in (" · ", file_name(path))][1:]
        if len(paths) > len(shown):
            words.append(f" and {len(paths) - len(shown):,} more")
        if detail and not common:
            words += [" ", tag("span", bidi(detail, 240), class_="muted")]
        items.append(joined(*words))
    left = len(entries) - len(items)
    return joined(
        *([tag("p", bidi(common, 240), class_="what")] if common else []),
        list_of(items, class_="plain short" if all(len(paths) == 1 for paths, _ in entries) else "plain"),
        *([_more(left)] if left else []),
    )


def _more(number: int, what: str = "") -> Html:
    whole = tag("code", "regraft inspect DATA --json")
    return tag("p", f"and {number:,} more{' ' + what if what else ''}; ", whole, " lists them all.", class_="muted")


def class_tables(dataset: Dataset, classes: Classes) -> Html:
    """Images of each class, by part where there are any."""
    if not classes.counts:
        return tag("p", "None.", class_="muted")
    parts = [part for part in PARTS if any(s.part == part for s in dataset.samples)]
    by_part = Counter((s.label, s.part) for s in dataset.samples)
    most = max(1, *classes.counts.values())

    def row(name: str) -> list[str]:
        numbers = [by_part[name, part] for part in parts]
        pieces = list(zip(parts, numbers, strict=True)) if parts else [("all", classes.counts[name])]
        return [
            joined(bidi(name, 80), bar(pieces, most)),
            f"{classes.counts[name]:,}",
            *(f"{number:,}" for number in numbers),
        ]

    def table(names: Sequence[str], caption: str) -> Html:
        swatches = [joined(swatch(part), part) for part in parts]
        return table_of(["Class", "Images", *swatches], map(row, names), caption, "classes")

    tables = [table(classes.largest, f"The {len(classes.largest)} largest classes" if classes.smallest else
                    "Images of each class, the largest first")]  # fmt: skip
    if classes.others:
        shown, left = classes.others[:ROWS], len(classes.others) - ROWS
        inner = [table(shown, "The classes between")]
        tables.append(fold(f"{len(classes.others):,} classes between these", *inner,
                              *([_more(left, "classes")] if left > 0 else [])))  # fmt: skip
    if classes.smallest:
        tables.append(table(classes.smallest, f"The {len(classes.smallest)} smallest classes"))
    return joined(tag("p", _balance(classes.counts)), *tables)


def _balance(counts: Mapping[str, int]) -> str:
    most, least, typical = max(counts.values()), min(counts.values()), float(np.median(list(counts.values())))
    if most == least:
        return f"Each class has {counted(most, 'image')}."
    times = f"{most / least:.3g} times as many as the smallest ({least:,})" if least else "and the smallest has none"
    return f"The largest class has {counted(most, 'image')}, {times}; the median is {typical:,.0f}."


def _samples(classes: Classes, pictures: Pictures, album: Album, seed: int) -> Html:
    if not any(classes.drawn.values()):
        return tag("p", "None.", class_="muted")
    some = f" The {CLASSES // 2} largest and the {CLASSES // 2} smallest classes are shown." if classes.smallest else ""
    about = (
        f"Up to {SAMPLES} images of each class, drawn by chance (seed {seed}). First comes the mean of some images "
        f"of the class, each squeezed into a square: what it shows clearly, most of them have in the same place.{some}"
    )
    groups = []
    for name, drawn in classes.drawn.items():
        if not drawn:
            continue
        items = [tag("figure", album.picture(s.path, f"{s.label}: {s.path}")) for s in drawn[:SAMPLES]]
        if name in pictures.means:
            source, number = pictures.means[name]
            caption = tag("figcaption", f"mean of {number}")
            items.insert(0, tag("figure", image_of(source, f"Mean image of {name}"), caption, class_="mean"))
        heading = tag("h3", bidi(name, 80), " ", tag("span", counted(classes.counts[name], "image"), class_="muted"))
        groups.append(joined(LINE, tag("div", heading, list_of(items, class_="samples"), class_="class")))
    return joined(tag("p", about), *groups)


def _measures(dataset: Dataset) -> Html:
    sizes = [s.size for s in dataset.samples if s.size]
    facts = [s.facts for s in dataset.samples if s.facts is not None]
    measures = [
        Measure("Shorter side", "pixels", "{:,.0f}".format, np.array([min(size) for size in sizes], float)),
        Measure("Aspect ratio", "width / height", "{:.3g}".format, np.array([w / h for w, h in sizes], float)),
        Measure("Size of the file", "as stored", _size, np.array([f.bytes for f in facts], float)),
        Measure("Brightness", "mean grey value: 0 black, 1 white", "{:.2f}".format,
                 np.array([f.brightness for f in facts], float)),
        Measure("Contrast", "standard deviation of grey values", "{:.2f}".format,
                 np.array([f.contrast for f in facts], float)),
        Measure("Sharpness", "step between neighbouring greys", "{:.3g}".format,
                 np.array([f.sharpness for f in facts], float)),
    ]  # fmt: skip
    drawn = [measure for measure in measures if measure.values.size]
    if not drawn:
        return tag("p", "Nothing is known of them.", class_="muted")
    figures = (tag("figure", tag("figcaption", m.name), histogram(m)) for m in drawn)
    tables = [
        _counts("Sizes", "Width x height", Counter(f"{w:,} x {h:,}" for w, h in sizes)),
        *([_counts("Formats", "Format", Counter(f.format for f in facts))] if facts else []),
        *([_counts("Colour modes", "Mode of Pillow", Counter(f.mode for f in facts))] if facts else []),
    ]
    return joined(
        *([] if facts else [tag("p", "These images are arrays: nothing is known of files.", class_="muted")]),
        list_of(figures, class_="histograms"),
        tag("div", *tables, class_="tables"),
        *([_quantiles(dataset)] if facts else []),
    )


def _counts(caption: str, head: str, counts: Counter[str], shown: int = 8) -> Html:
    """The commonest values."""
    rows = [(name, f"{number:,}") for name, number in counts.most_common(shown)]
    if rest := len(counts) - shown if len(counts) > shown else 0:
        rows.append((f"{rest:,} others", f"{counts.total() - sum(n for _, n in counts.most_common(shown)):,}"))
    return table_of([head, "Images"], rows, caption)


def _quantiles(dataset: Dataset) -> Html:
    head = ["Measure", "minimum", "5 %", "25 %", "median", "75 %", "95 %", "maximum"]

    def write(name: str, value: float) -> str:
        return _size(value) if name == "file_bytes" else f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"

    rows = (
        (name.replace("_", " "), *(write(name, value) for value in values))
        for name, values in describe(dataset)["quantiles"].items()
    )
    return fold("All in numbers", table_of(head, rows, "Quantiles"))


def _notes(inspection: Inspection) -> Html:
    notes = [*inspection.dataset.notes, *inspection.notes]
    ignored = inspection.dataset.ignored
    folded = ""
    if ignored:
        summary = f"{counted(len(ignored), 'file')} whose ending is not an image's"
        folded = fold(summary, _names(((path,), "") for path in ignored))
    shown = list_of((tag("span", shorten(one_line(note), 600)) for note in islice(notes, NAMES)), class_="plain")
    left = len(notes) - NAMES
    return joined(shown if notes else tag("p", "None.", class_="muted"), *([_more(left)] if left > 0 else []), folded)


def _footer(findings: Sequence[Finding]) -> Html:
    commands = [("regraft inspect DATA --json", "All of this in plain values, with every file by name.")]
    if kinds := proposed(findings):
        commands.append((
            f"regraft clean DATA --drop {','.join(kinds)} --out clean.csv",
            "A manifest without what these findings name; leave out of the list what should stay. No image is touched.",
        ))  # fmt: skip
    rows = (tag("div", tag("dt", tag("code", command)), tag("dd", words)) for command, words in commands)
    return tag("footer", tag("dl", *rows), tag("p", "Made by regraft. Nothing on this page comes from elsewhere."))


def _size(number: float) -> str:
    """Bytes, in decimal units and three digits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.0f} TB"
