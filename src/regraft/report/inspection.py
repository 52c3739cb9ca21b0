"""The inspection of a data set as a page: what is in it, and what is wrong with it.

Enters: an `Inspection`. Leaves: one HTML file that needs nothing else: no script, and no font, style or image from
elsewhere. Its size is bounded whatever the data: pictures are counted, lists are cut.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from regraft.data.audit import SEVERITIES, Finding, Inspection, Severity, describe
from regraft.data.dataset import PARTS, Dataset, Sample
from regraft.data.decode import decode_image
from regraft.errors import RegraftError, counted
from regraft.evaluation.names import one_line, shorten
from regraft.files import write_text

#: Longer side of a thumbnail, and side of a mean image, in pixels.
THUMB, MEAN = 128, 96
#: Sets, or single images, that a finding shows; images that a set shows; thumbnails in all findings together.
SETS, SINGLES, OF_A_SET, IN_FINDINGS = 12, 24, 8, 480
#: Names in a folded list; findings.
NAMES, FINDINGS = 200, 200
#: Classes that are shown, the largest and the smallest; rows of the folded table of the others.
CLASSES, ROWS = 40, 1000
#: Images of a class that are shown, and from which its mean is made; the latter also in all, and in pixels to decode.
SAMPLES, MEAN_OF, MEAN_OF_ALL, MEAN_PIXELS = 8, 64, 800, 200_000_000
#: Characters of all thumbnails together.
ROOM = 6_500_000

_BINS = 24


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
    classes = _Classes.of(dataset, seed)
    evidence = _gather(inspection)
    wanted = [path for item in evidence for entry in item.pictured for path in entry.shown]
    pictures = _read(dataset, wanted, classes, progress)
    write_text(file, _page(inspection, evidence, classes, pictures, seed))


# What is shown: chosen before any image is read.


@dataclass(frozen=True)
class _Entry:
    """One entry of a finding: a file, or a set of files; `shown` are those of them that get a picture."""

    paths: tuple[str, ...]
    detail: str
    shown: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Evidence:
    """A finding, its entries with pictures, and those without."""

    finding: Finding
    pictured: tuple[_Entry, ...]
    named: tuple[_Entry, ...]


def _gather(inspection: Inspection) -> list[_Evidence]:
    """Which entries of which findings are shown in pictures, while there is room."""
    needed = {path for finding in inspection.findings for paths in finding.files for path in paths}
    samples = {s.path: s for s in inspection.dataset.samples if s.path in needed}
    room = IN_FINDINGS
    found = []
    for finding in inspection.findings[:FINDINGS]:
        limit = SETS if any(len(paths) > 1 for paths in finding.files) else SINGLES
        pictured: list[_Entry] = []
        named: list[_Entry] = []
        for paths, detail in zip_longest(finding.files, finding.details[: len(finding.files)], fillvalue=""):
            assert not isinstance(paths, str)
            shown: list[Sample] = []
            if len(pictured) < limit:
                shown = _varied([samples[path] for path in paths if path in samples])[: min(OF_A_SET, room)]
            room -= len(shown)
            entry = _Entry(paths, detail, tuple(s.path for s in shown))
            (pictured if shown else named).append(entry)
        found.append(_Evidence(finding, tuple(pictured), tuple(named)))
    return found


def _varied(samples: Sequence[Sample]) -> list[Sample]:
    """The same samples; the first ones have as many different labels and parts as there are."""
    turn: Counter[tuple[str, str | None]] = Counter()
    turns = []
    for sample in samples:
        turns.append(turn[sample.label, sample.part])
        turn[sample.label, sample.part] += 1
    return [samples[i] for i in sorted(range(len(samples)), key=turns.__getitem__)]


@dataclass(frozen=True)
class _Classes:
    """Class names, the largest class first, which of them are shown, and the samples drawn of each that is."""

    counts: Mapping[str, int]
    largest: tuple[str, ...]
    others: tuple[str, ...]
    smallest: tuple[str, ...]
    drawn: Mapping[str, tuple[Sample, ...]]

    @classmethod
    def of(cls, dataset: Dataset, seed: int) -> _Classes:
        """Draw so many of each class that means can be made of them in good time."""
        counts = dataset.counts()
        order = sorted(counts, key=lambda name: -counts[name])
        some = len(order) > CLASSES
        largest = order[: CLASSES // 2] if some else order
        smallest = order[-CLASSES // 2 :] if some else []
        shown = [*largest, *smallest]
        members: dict[str, list[Sample]] = {name: [] for name in shown}
        for sample in dataset.samples:
            if sample.label in members:
                members[sample.label].append(sample)
        pixels = float(np.median([s.size[0] * s.size[1] for s in dataset.samples if s.size] or [1]))
        each = min(MEAN_OF, MEAN_OF_ALL // max(1, len(shown)), int(MEAN_PIXELS / pixels / max(1, len(shown))))
        drawn = {}
        for number, name in enumerate(shown):
            those = members[name]
            count = min(len(those), max(SAMPLES, each))
            order_drawn = np.random.default_rng((seed, number)).permutation(len(those))
            drawn[name] = tuple(those[i] for i in order_drawn[:count])
        return cls(counts, tuple(largest), tuple(order[len(largest) : len(order) - len(smallest)]), tuple(smallest),
                   drawn)  # fmt: skip


# The pictures: each image is read once.


@dataclass(frozen=True)
class _Pictures:
    """Thumbnails by path, and the mean of each class with the number of images in it; as data URIs.

    An image that could not be read is not in it.
    """

    thumbs: Mapping[str, str]
    means: Mapping[str, tuple[str, int]]


def _read(
    dataset: Dataset, wanted: Iterable[str], classes: _Classes, progress: Callable[[int, int], None] | None
) -> _Pictures:
    """Read every image that is to be seen, or to go into a mean."""
    thumbs = {*wanted, *(s.path for those in classes.drawn.values() for s in those[:SAMPLES])}
    averaged = {s.path for those in classes.drawn.values() for s in those}
    jobs = [s for s in dataset.samples if s.path in thumbs or s.path in averaged]

    def work(sample: Sample) -> tuple[str | None, np.ndarray | None]:
        try:
            pixels = decode_image(dataset.source(sample), max_pixels=dataset.max_pixels, at_least=THUMB)
        except (RegraftError, OSError, ValueError):  # the file has changed, or is gone
            return None, None
        image = Image.fromarray(pixels)
        small = None
        if sample.path in averaged:
            small = np.asarray(image.resize((MEAN, MEAN), Image.Resampling.BILINEAR, reducing_gap=2.0))
        return _data_uri(image) if sample.path in thumbs else None, small

    made: dict[str, str] = {}
    sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros((MEAN, MEAN, 3)))
    numbers: Counter[str] = Counter()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        try:
            for done, (sample, (thumb, small)) in enumerate(zip(jobs, pool.map(work, jobs), strict=True), 1):
                if thumb:
                    made[sample.path] = thumb
                if small is not None:
                    sums[sample.label] += small
                    numbers[sample.label] += 1
                if progress:
                    progress(done, len(jobs))
        except BaseException:  # Ctrl-C: the images that wait are not read
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    means = {
        name: (_data_uri(Image.fromarray(np.rint(total / numbers[name]).astype(np.uint8))), numbers[name])
        for name, total in sums.items()
    }
    return _Pictures(made, means)


def _data_uri(image: Image.Image) -> str:
    """A JPEG that fits the thumbnail's square; small images are not enlarged, and kept in better quality."""
    fits = max(image.size) <= THUMB
    image.thumbnail((THUMB, THUMB), Image.Resampling.LANCZOS, reducing_gap=2.0)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=90 if fits else 70, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


# The markup: whatever is not `_Html` is escaped.


class _Html(str):
    """Markup. Only `_tag` and `_joined` make it of text, so that no text gets into the page as it is."""

    __slots__ = ()


_LINE = _Html("\n")
#: Elements that hold nothing, and have no end.
_EMPTY = frozenset({"img", "link", "meta", "wbr"})


def _tag(name: str, /, *inside: str, **attributes: str | float | None) -> _Html:
    """An element; an attribute's trailing `_` is dropped, others become `-`; None leaves it out."""
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    opening = name + "".join(f' {key}="{_escaped(str(value))}"' for key, value in pairs)
    return _Html(f"<{opening}>" if name in _EMPTY else f"<{opening}>{_joined(*inside)}</{name}>")


def _joined(*inside: str) -> _Html:
    return _Html("".join(map(_escaped, inside)))


def _escaped(text: str) -> str:
    if isinstance(text, _Html):
        return text
    return html.escape(text if text.isascii() and text.isprintable() else one_line(text))


def _list(items: Iterable[str], *, ordered: bool = False, class_: str | None = None) -> _Html:
    # The role is lost to some screen readers where the style shows no bullets.
    name = "ol" if ordered else "ul"
    return _joined(_LINE, _tag(name, *(_tag("li", item) for item in items), class_=class_, role="list"))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str, class_: str | None = None) -> _Html:
    """Of each row the first cell is its header."""
    columns = _tag("tr", *(_tag("th", cell, scope="col") for cell in head))
    body = [
        _joined(_LINE, _tag("tr", _tag("th", first, scope="row"), *(_tag("td", cell) for cell in rest)))
        for first, *rest in rows
    ]
    table = _tag("table", _tag("caption", caption), _tag("thead", columns), _tag("tbody", *body), class_=class_)
    # What is scrolled must be reached by the keyboard.
    return _joined(_LINE, _tag("div", table, class_="scroll", role="region", aria_label=caption, tabindex=0))


def _folded(summary: str, *inside: str) -> _Html:
    return _joined(_LINE, _tag("details", _tag("summary", summary), *inside))


def _name(text: str, width: int = 160) -> _Html:
    """A name from the data; one that is written from right to left leaves the text around it in its order."""
    return _tag("bdi", shorten(one_line(text), width))


def _path(path: str) -> _Html:
    """The name of a file; a narrow column breaks it after a slash rather than anywhere."""
    words = shorten(one_line(path), 120).split("/")
    pieces = [piece for word in words for piece in ("/", _tag("wbr"), word if word.isascii() else _tag("bdi", word))]
    return _tag("bdi", *pieces[2:], dir="ltr")


class _Album:
    """Puts the thumbnails into the page, in its order, while there is room."""

    def __init__(self, thumbs: Mapping[str, str]) -> None:
        self.thumbs, self.room = thumbs, ROOM

    def picture(self, path: str, alt: str) -> _Html:
        """The image, or a word in its place."""
        source = self.thumbs.get(path)
        if source is None:
            return _tag("span", "unreadable", class_="frame none")
        if len(source) > self.room:
            return _tag("span", "not shown: the page is full", class_="frame none")
        self.room -= len(source)
        return _image(source, alt)


def _image(source: str, alt: str) -> _Html:
    return _tag("img", class_="frame", src=source, alt=shorten(one_line(alt), 160), decoding="async")


# The page and its sections, from the top.


def _page(
    inspection: Inspection, evidence: Sequence[_Evidence], classes: _Classes, pictures: _Pictures, seed: int
) -> str:
    dataset = inspection.dataset
    album = _Album(pictures.thumbs)
    sections = [
        ("findings", "Findings", _findings(inspection, evidence, album)),
        ("classes", "Classes", _class_tables(dataset, classes)),
        ("samples", "Samples", _samples(classes, pictures, album, seed)),
        ("measures", "Sizes and looks", _measures(dataset)),
        ("notes", "Notes", _notes(inspection)),
    ]
    title = shorten(one_line(_title(dataset)), 120)
    links = _list((_tag("a", heading, href=f"#{key}") for key, heading, _ in sections), class_="contents")
    body = _tag(
        "body",
        _tag("a", "Skip to the findings", href="#findings", class_="skip"),
        _tag("header", _tag("p", "What is in the data", class_="over"), _tag("h1", _name(title, 120)),
             _numbers(dataset), _verdict(inspection)),
        _LINE, _tag("nav", links, aria_label="Contents"),
        _LINE, _tag("main", *(
            _joined(_tag("section", _tag("h2", heading, id=f"{key}-heading"), content, id=key,
                         aria_labelledby=f"{key}-heading"), _LINE)
            for key, heading, content in sections)),
        _footer(inspection.findings),
    )  # fmt: skip
    return f"<!doctype html>\n{_tag('html', _head(title), _LINE, body, lang='en')}\n"


def _title(dataset: Dataset) -> str:
    root = dataset.root
    if isinstance(root, Path) and dataset.storage is not None:  # such as the folder that one is in
        root = root.absolute()
    return PurePosixPath(root).name or "Images in memory"


def _head(title: str) -> _Html:
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return _tag(
        "head",
        _tag("meta", charset="utf-8"),
        _tag("meta", http_equiv="Content-Security-Policy", content=policy),
        _tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _tag("meta", name="color-scheme", content="light dark"),
        _tag("meta", name="referrer", content="no-referrer"),
        _tag("title", f"{title}: what is in the data"),
        _tag("link", rel="icon", href="data:,"),  # or browsers ask the server for one
        _tag("style", _Html(_STYLE)),
    )


def _numbers(dataset: Dataset) -> _Html:
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
    tiles = (_tag("div", _tag("dt", what), _tag("dd", number)) for number, what in numbers)
    return _tag("dl", *tiles, class_="numbers")


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


def _verdict(inspection: Inspection) -> _Html:
    counts = Counter(finding.severity for finding in inspection.findings)
    badges = (
        _tag("span", counted(counts[s], *_WORDS[s]), class_=f"badge {s if counts[s] else 'zero'}") for s in SEVERITIES
    )
    words = (*badges, _tag("span", _VERDICTS[inspection.worst]))
    return _tag("p", *(piece for word in words for piece in (word, " ")), class_="verdict")


def _findings(inspection: Inspection, evidence: Sequence[_Evidence], album: _Album) -> _Html:
    if not evidence:
        return _tag("p", "None.", class_="muted")
    samples = {path for item in evidence for entry in item.pictured for path in entry.shown}
    by_path = {s.path: s for s in inspection.dataset.samples if s.path in samples}
    links = (
        _tag("a", _tag("span", item.finding.kind.replace("_", " ")),
             *([" ", _tag("span", f"{len(item.finding.files):,}", class_="muted")] if item.finding.files else []),
             href=f"#finding-{number}", class_=item.finding.severity)
        for number, item in enumerate(evidence, 1)
    )  # fmt: skip
    more = len(inspection.findings) - len(evidence)
    return _joined(
        *([_tag("nav", _list(links, class_="chips"), aria_label="Findings")] if len(evidence) > 1 else []),
        *(_finding(number, item, by_path, album) for number, item in enumerate(evidence, 1)),
        *([_more(more, "findings")] if more else []),
    )


def _finding(number: int, evidence: _Evidence, by_path: Mapping[str, Sample], album: _Album) -> _Html:
    finding = evidence.finding
    heading = _tag(
        "h3", _tag("span", _WORDS[finding.severity][0], class_=f"badge {finding.severity}"), " ",
        _tag("span", shorten(one_line(finding.title), 600)), id=f"finding-{number}-heading",
    )  # fmt: skip
    advice = _tag("p", shorten(one_line(finding.advice), 600), " ", _tag("code", finding.kind), class_="advice")
    if any(len(entry.paths) > 1 for entry in evidence.pictured):
        sets = (_set(entry, by_path, album) for entry in evidence.pictured)
        shown = _list(sets, ordered=True, class_="sets")
    else:
        shown = _list(
            (_figure(entry.shown[0], by_path, album, entry.detail) for entry in evidence.pictured), class_="pictures"
        )
    content = [
        *([shown] if evidence.pictured else []),
        *_named(evidence),
        *([_list((_name(d, 240) for d in finding.details[:NAMES]), class_="plain")] if not finding.files else []),
    ]
    return _joined(_LINE, _tag("article", heading, advice, *content, class_=f"finding {finding.severity}",
                              id=f"finding-{number}", aria_labelledby=f"finding-{number}-heading"))  # fmt: skip


def _set(entry: _Entry, by_path: Mapping[str, Sample], album: _Album) -> _Html:
    """Files that belong together, side by side; where their labels or parts differ, these stand out."""
    shown = [by_path[path] for path in entry.shown]
    differ = {word for words in ({s.label for s in shown}, {s.part for s in shown}) if len(words) > 1 for word in words}
    figures = _list((_figure(s.path, by_path, album, differ=differ) for s in shown), class_="pictures")
    seen = set(entry.shown)
    rest = [path for path in entry.paths if path not in seen]
    folded = _folded(f"{len(rest):,} more of this set", _names(((path,), "") for path in rest)) if rest else ""
    return _joined(*([_tag("p", _name(entry.detail), class_="what")] if entry.detail else []), figures, folded)


def _figure(
    path: str, by_path: Mapping[str, Sample], album: _Album, detail: str = "", differ: Iterable[str | None] = ()
) -> _Html:
    sample = by_path[path]
    tags = [
        _tag("span", _name(word, 40), class_="tag differs" if word in differ else "tag")
        for word in (sample.label, sample.part)
        if word is not None
    ]
    return _tag(
        "figure",
        album.picture(path, f"{sample.label}: {path.rsplit('/', 1)[-1]}"),
        _tag("figcaption", *([_tag("span", _name(detail, 120), class_="detail")] if detail else []),
             _tag("span", _path(path), class_="path"), _tag("span", *tags, class_="tags")),
    )  # fmt: skip


def _named(evidence: _Evidence) -> Iterator[_Html]:
    """The entries without pictures: the first of them are seen where no others are, the rest is folded."""
    entries = evidence.named
    seen = 0 if evidence.pictured else SINGLES
    if entries[:seen]:
        yield _names((entry.paths, entry.detail) for entry in entries[:seen])
    if rest := entries[seen:]:
        what = "more sets" if any(len(entry.paths) > 1 for entry in rest) else "more files"
        summary = f"{len(rest):,} {what[:-1] if len(rest) == 1 else what}, by name"
        yield _folded(summary, _names((entry.paths, entry.detail) for entry in rest))


def _names(entries: Iterable[tuple[Sequence[str], str]]) -> _Html:
    """Names of files, one entry a line, and in all no more than `NAMES`; what is said of all is said once."""
    entries = list(entries)
    common = entries[0][1] if len(entries) > 1 and len({detail for _, detail in entries}) == 1 else ""
    items: list[_Html] = []
    room = NAMES
    for paths, detail in entries:
        shown = paths[:room]
        if not shown:
            break
        room -= len(shown)
        words = [word for path in shown for word in (" · ", _path(path))][1:]
        if len(paths) > len(shown):
            words.append(f" and {len(paths) - len(shown):,} more")
        if detail and not common:
            words += [" ", _tag("span", _name(detail, 240), class_="muted")]
        items.append(_joined(*words))
    left = len(entries) - len(items)
    return _joined(
        *([_tag("p", _name(common, 240), class_="what")] if common else []),
        _list(items, class_="plain short" if all(len(paths) == 1 for paths, _ in entries) else "plain"),
        *([_more(left)] if left else []),
    )


def _more(number: int, what: str = "") -> _Html:
    whole = _tag("code", "regraft inspect DATA --json")
    return _tag("p", f"and {number:,} more{' ' + what if what else ''}; ", whole, " lists them all.", class_="muted")


def _class_tables(dataset: Dataset, classes: _Classes) -> _Html:
    if not classes.counts:
        return _tag("p", "None.", class_="muted")
    parts = [part for part in PARTS if any(s.part == part for s in dataset.samples)]
    by_part = Counter((s.label, s.part) for s in dataset.samples)
    most = max(1, *classes.counts.values())

    def row(name: str) -> list[str]:
        numbers = [by_part[name, part] for part in parts]
        bar = _bar(list(zip(parts, numbers, strict=True)) if parts else [("all", classes.counts[name])], most)
        return [_joined(_name(name, 80), bar), f"{classes.counts[name]:,}", *(f"{number:,}" for number in numbers)]

    def table(names: Sequence[str], caption: str) -> _Html:
        swatches = [_joined(_swatch(part), part) for part in parts]
        return _table(["Class", "Images", *swatches], map(row, names), caption, "classes")

    tables = [table(classes.largest, f"The {len(classes.largest)} largest classes" if classes.smallest else
                    "Images of each class, the largest first")]  # fmt: skip
    if classes.others:
        shown, left = classes.others[:ROWS], len(classes.others) - ROWS
        inner = [table(shown, "The classes between")]
        tables.append(_folded(f"{len(classes.others):,} classes between these", *inner,
                              *([_more(left, "classes")] if left > 0 else [])))  # fmt: skip
    if classes.smallest:
        tables.append(table(classes.smallest, f"The {len(classes.smallest)} smallest classes"))
    return _joined(_tag("p", _balance(classes.counts)), *tables)


def _balance(counts: Mapping[str, int]) -> str:
    most, least, typical = max(counts.values()), min(counts.values()), float(np.median(list(counts.values())))
    if most == least:
        return f"Each class has {counted(most, 'image')}."
    times = f"{most / least:.3g} times as many as the smallest ({least:,})" if least else "and the smallest has none"
    return f"The largest class has {counted(most, 'image')}, {times}; the median is {typical:,.0f}."


def _bar(pieces: Sequence[tuple[str, int]], most: int) -> _Html:
    """The numbers beside it say the same, so it is hidden from those who do not see it."""
    rectangles, start = [], 0.0
    for kind, number in pieces:
        width = 100 * number / most
        rectangles.append(_tag("rect", x=f"{start:.2f}%", width=f"{width:.2f}%", height="100%", class_=kind))
        start += width
    return _tag("svg", *rectangles, class_="bar", aria_hidden="true")


def _swatch(part: str) -> _Html:
    return _tag("svg", _tag("rect", width="100%", height="100%", class_=part), class_="swatch", aria_hidden="true")


def _samples(classes: _Classes, pictures: _Pictures, album: _Album, seed: int) -> _Html:
    if not any(classes.drawn.values()):
        return _tag("p", "None.", class_="muted")
    some = f" The {CLASSES // 2} largest and the {CLASSES // 2} smallest classes are shown." if classes.smallest else ""
    about = (
        f"Up to {SAMPLES} images of each class, drawn by chance (seed {seed}). First comes the mean of some images "
        f"of the class, each squeezed into a square: what it shows clearly, most of them have in the same place.{some}"
    )
    groups = []
    for name, drawn in classes.drawn.items():
        if not drawn:
            continue
        items = [_tag("figure", album.picture(s.path, f"{s.label}: {s.path}")) for s in drawn[:SAMPLES]]
        if name in pictures.means:
            source, number = pictures.means[name]
            caption = _tag("figcaption", f"mean of {number}")
            items.insert(0, _tag("figure", _image(source, f"Mean image of {name}"), caption, class_="mean"))
        heading = _tag("h3", _name(name, 80), " ", _tag("span", counted(classes.counts[name], "image"), class_="muted"))
        groups.append(_joined(_LINE, _tag("div", heading, _list(items, class_="samples"), class_="class")))
    return _joined(_tag("p", about), *groups)


@dataclass(frozen=True)
class _Measure:
    """A number of each image: its name, its axis in words, how to write it, and the numbers, float64 (N,)."""

    name: str
    axis: str
    write: Callable[[float], str]
    values: np.ndarray


def _measures(dataset: Dataset) -> _Html:
    sizes = [s.size for s in dataset.samples if s.size]
    facts = [s.facts for s in dataset.samples if s.facts is not None]
    measures = [
        _Measure("Shorter side", "pixels", "{:,.0f}".format, np.array([min(size) for size in sizes], float)),
        _Measure("Aspect ratio", "width / height", "{:.3g}".format, np.array([w / h for w, h in sizes], float)),
        _Measure("Size of the file", "as stored", _size, np.array([f.bytes for f in facts], float)),
        _Measure("Brightness", "mean grey value: 0 black, 1 white", "{:.2f}".format,
                 np.array([f.brightness for f in facts], float)),
        _Measure("Contrast", "standard deviation of grey values", "{:.2f}".format,
                 np.array([f.contrast for f in facts], float)),
        _Measure("Sharpness", "step between neighbouring greys", "{:.3g}".format,
                 np.array([f.sharpness for f in facts], float)),
    ]  # fmt: skip
    drawn = [measure for measure in measures if measure.values.size]
    if not drawn:
        return _tag("p", "Nothing is known of them.", class_="muted")
    figures = (_tag("figure", _tag("figcaption", m.name), _histogram(m)) for m in drawn)
    tables = [
        _counts("Sizes", "Width x height", Counter(f"{w:,} x {h:,}" for w, h in sizes)),
        *([_counts("Formats", "Format", Counter(f.format for f in facts))] if facts else []),
        *([_counts("Colour modes", "Mode of Pillow", Counter(f.mode for f in facts))] if facts else []),
    ]
    return _joined(
        *([] if facts else [_tag("p", "These images are arrays: nothing is known of files.", class_="muted")]),
        _list(figures, class_="histograms"),
        _tag("div", *tables, class_="tables"),
        *([_quantiles(dataset)] if facts else []),
    )


#: The chart's size, and that of the room for bars in it, in units of its own.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 320, 172, 56, 312, 24, 128


def _histogram(measure: _Measure) -> _Html:
    values, write = measure.values, measure.write
    low, median, high = float(values.min()), float(np.median(values)), float(values.max())
    if write(low) == write(high):
        words = _tag("text", f"all {write(low)}", x=_WIDTH / 2, y=30, text_anchor="middle", class_="same")
        axis = _tag("text", measure.axis, x=_WIDTH / 2, y=52, text_anchor="middle")
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
        _tag("rect", x=f"{across(start) + 0.5:.1f}", width=f"{across(end) - across(start) - 1:.1f}",
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
        _tag("path", d=f"M{_LEFT} {_BOTTOM}H{_RIGHT}", class_="axis"),
        _tag("path", d=f"M{middle:.1f} {_TOP - 6}V{_BOTTOM}", class_="median"),
        _tag("text", f"median {write(median)}", x=f"{middle:.1f}", y=_TOP - 10, text_anchor=anchor, class_="strong"),
        _tag("text", f"{int(heights.max()):,}", x=_LEFT - 6, y=_TOP + 8, text_anchor="end"),
        _tag("text", "images", x=_LEFT - 6, y=_TOP + 23, text_anchor="end"),
        _tag("text", "0", x=_LEFT - 6, y=_BOTTOM, text_anchor="end"),
        _tag("text", write(low), x=_LEFT, y=_BOTTOM + 16),
        _tag("text", write(high), x=_RIGHT, y=_BOTTOM + 16, text_anchor="end"),
        _tag("text", measure.axis + (", log scale" if is_log else ""), x=_WIDTH / 2, y=_BOTTOM + 36,
             text_anchor="middle"),
    )  # fmt: skip


def _chart(words: str, *inside: str, height: int = _HEIGHT) -> _Html:
    return _tag("svg", *inside, viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=words, class_="chart")


def _counts(caption: str, head: str, counts: Counter[str], shown: int = 8) -> _Html:
    """The commonest values."""
    rows = [(name, f"{number:,}") for name, number in counts.most_common(shown)]
    if rest := len(counts) - shown if len(counts) > shown else 0:
        rows.append((f"{rest:,} others", f"{counts.total() - sum(n for _, n in counts.most_common(shown)):,}"))
    return _table([head, "Images"], rows, caption)


def _quantiles(dataset: Dataset) -> _Html:
    head = ["Measure", "minimum", "5 %", "25 %", "median", "75 %", "95 %", "maximum"]

    def write(name: str, value: float) -> str:
        return _size(value) if name == "file_bytes" else f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"

    rows = (
        (name.replace("_", " "), *(write(name, value) for value in values))
        for name, values in describe(dataset)["quantiles"].items()
    )
    return _folded("All in numbers", _table(head, rows, "Quantiles"))


def _notes(inspection: Inspection) -> _Html:
    notes = [*inspection.dataset.notes, *inspection.notes]
    ignored = inspection.dataset.ignored
    folded = ""
    if ignored:
        summary = f"{counted(len(ignored), 'file')} whose ending is not an image's"
        folded = _folded(summary, _names(((path,), "") for path in ignored))
    shown = _list((_tag("span", shorten(one_line(note), 600)) for note in islice(notes, NAMES)), class_="plain")
    left = len(notes) - NAMES
    return _joined(shown if notes else _tag("p", "None.", class_="muted"), *([_more(left)] if left > 0 else []), folded)


def _footer(findings: Sequence[Finding]) -> _Html:
    commands = [("regraft inspect DATA --json", "All of this in plain values, with every file by name.")]
    if kinds := dict.fromkeys(f.kind for f in findings if f.files and f.severity != "info"):
        commands.append((
            f"regraft clean DATA --drop {','.join(kinds)} --out clean.csv",
            "A manifest without what these findings name; leave out of the list what should stay. No image is touched.",
        ))  # fmt: skip
    rows = (_tag("div", _tag("dt", _tag("code", command)), _tag("dd", words)) for command, words in commands)
    return _tag("footer", _tag("dl", *rows), _tag("p", "Made by regraft. Nothing on this page comes from elsewhere."))


def _size(number: float) -> str:
    """Bytes, in decimal units and three digits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.0f} TB"


#: The colours are those of `regraft.report.style`, which takes matplotlib to import; lighter ones serve on dark ground.
_STYLE = """
:root {
  color-scheme: light dark;
  --ground: #FFFFFF; --shade: #F3F6F9; --line: #E4E7EB; --edge: #B8C2CC; --ink: #1F2933; --muted: #616E7C;
  --blue: #0072B2; --orange: #E69F00; --green: #009E73; --red: #CC3311; --link: #0072B2;
  --on-blue: #FFFFFF; --on-orange: #1F2933; --on-red: #FFFFFF;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --ground: #14191F; --shade: #1D242C; --line: #2E3740; --edge: #52606D; --ink: #E4E7EB; --muted: #A6B1BC;
    --blue: #5AB0E0; --orange: #F0B433; --green: #35C79C; --red: #F0785F; --link: #7CC4EE;
    --on-blue: #14191F; --on-orange: #14191F; --on-red: #14191F;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2.5rem 1.5rem 3rem; max-width: 76rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
  overflow-wrap: anywhere;
}
h1, h2, h3, p, ul, ol, dl, dd, figure { margin: 0; padding: 0; }
h1 { font-size: 2rem; line-height: 1.2; font-weight: 650; letter-spacing: -0.01em; }
h2 { font-size: 1.375rem; line-height: 1.3; font-weight: 650; margin-bottom: 1rem; }
h3 { font-size: 1.0625rem; line-height: 1.45; font-weight: 600; }
ul, ol { list-style: none; }
a { color: var(--link); text-underline-offset: 0.2em; }
code { font: 0.875em/1.4 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }
:focus-visible { outline: 3px solid var(--blue); outline-offset: 2px; border-radius: 2px; }
.muted, caption, figcaption { color: var(--muted); font-weight: 400; }
.skip { position: absolute; left: -100rem; }
.skip:focus { left: 1rem; top: 0.5rem; padding: 0.25rem 0.75rem; background: var(--ground); }

.over { color: var(--muted); font-size: 0.9375rem; }
.numbers { display: flex; flex-wrap: wrap; gap: 0.75rem 2.25rem; margin: 1.25rem 0; }
.numbers div { display: flex; flex-direction: column-reverse; }
.numbers dd { font-size: 1.375rem; line-height: 1.3; font-weight: 600; font-variant-numeric: tabular-nums; }
.numbers dt { color: var(--muted); font-size: 0.875rem; }
.badge {
  display: inline-block; padding: 0.0625rem 0.5625rem; border-radius: 1rem; font-size: 0.8125rem; font-weight: 600;
  white-space: nowrap; border: 1px solid transparent; print-color-adjust: exact; -webkit-print-color-adjust: exact;
}
.badge.error { background: var(--red); color: var(--on-red); }
.badge.warning { background: var(--orange); color: var(--on-orange); }
.badge.info { background: var(--blue); color: var(--on-blue); }
.badge.zero { border-color: var(--edge); color: var(--muted); }
.verdict { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0.375rem 0.5rem; }
.contents { display: flex; flex-wrap: wrap; gap: 0.25rem 1.5rem; margin-top: 1.5rem; padding: 0.75rem 0;
  border: solid var(--line); border-width: 1px 0; }
.contents a, .chips a { text-decoration: none; }
.contents a:hover, .chips a:hover { text-decoration: underline; }
section { padding-top: 2.5rem; }
section > p { max-width: 46rem; }

.chips { display: flex; flex-wrap: wrap; gap: 0.5rem; margin-bottom: 1.5rem; }
.chips a { display: block; padding: 0.125rem 0.75rem; border: 1px solid var(--line); border-left: 4px solid var(--line);
  border-radius: 4px; color: var(--ink); font-size: 0.9375rem; }
.finding { border-left: 4px solid var(--line); padding: 0.125rem 0 0.125rem 1.25rem; margin-bottom: 2.5rem; }
.finding.error, .chips a.error { border-left-color: var(--red); }
.finding.warning, .chips a.warning { border-left-color: var(--orange); }
.finding.info, .chips a.info { border-left-color: var(--blue); }
.finding h3, .advice { max-width: 56rem; }
.advice { margin: 0.25rem 0 1rem; }
.advice code { color: var(--muted); border: 1px solid var(--line); border-radius: 3px; padding: 0 0.3125rem;
  white-space: nowrap; }
.sets { display: flex; flex-wrap: wrap; gap: 1rem; }
.sets > li { border: 1px solid var(--line); border-radius: 6px; padding: 0.75rem; min-width: 0; }
.what { font-size: 0.875rem; margin-bottom: 0.5rem; width: 0; min-width: 100%; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem 0.625rem; }
.pictures > li { width: 8rem; }
.frame { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--shade);
  border-radius: 4px; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.frame.none { display: flex; align-items: center; justify-content: center; padding: 0.5rem; text-align: center;
  border: 1px dashed var(--edge); color: var(--muted); font-size: 0.8125rem; }
figcaption { font-size: 0.75rem; line-height: 1.35; margin-top: 0.375rem; }
figcaption > span { display: block; }
.detail { color: var(--ink); font-weight: 600; }
.tags { margin-top: 0.25rem; }
.tag { display: inline-block; border: 1px solid var(--line); border-radius: 3px; padding: 0 0.3125rem;
  margin: 0 0.25rem 0.25rem 0; color: var(--ink); }
.tag.differs { border-color: var(--ink); font-weight: 600; }
.plain > li { padding: 0.25rem 0; border-bottom: 1px solid var(--line); font-size: 0.875rem; }
.short { columns: 20rem; column-gap: 2rem; }
.short > li { break-inside: avoid; }
.plain + .muted { margin-top: 0.5rem; }
details { margin-top: 0.75rem; }
summary { cursor: pointer; color: var(--link); font-size: 0.9375rem; padding: 0.125rem 0; width: fit-content; }
details > :not(summary) { margin-top: 0.5rem; }

.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin-top: 1rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-size: 0.9375rem; padding-bottom: 0.375rem; }
th, td { padding: 0.375rem 0 0.375rem 1rem; text-align: right; white-space: nowrap; font-size: 0.9375rem;
  border-bottom: 1px solid var(--line); vertical-align: baseline; }
th:first-child { padding-left: 0; text-align: left; }
thead th { color: var(--muted); font-weight: 400; font-size: 0.875rem; }
tbody th { font-weight: 400; white-space: normal; }
.classes th:first-child { width: 100%; min-width: 7rem; }
.bar { display: block; width: 100%; height: 0.5rem; margin: 0.1875rem 0 0.125rem; }
.swatch { width: 0.625rem; height: 0.625rem; margin-right: 0.375rem; }
rect.all, rect.train { fill: var(--blue); }
rect.val { fill: var(--orange); }
rect.test { fill: var(--green); }

.class { margin-top: 1.5rem; }
.samples { display: grid; grid-template-columns: repeat(9, 1fr); gap: 0.5rem; margin-top: 0.5rem; }
.mean figcaption { text-align: center; }

.histograms { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr));
  gap: 1.5rem 2rem; }
.histograms figcaption { color: var(--ink); font-size: 1rem; font-weight: 600; margin: 0 0 0.25rem; }
.chart { display: block; width: 100%; max-width: 26rem; height: auto; }
.chart text { font-size: 12px; fill: var(--muted); }
.chart .strong { fill: var(--ink); font-weight: 600; }
.chart .same { fill: var(--ink); font-size: 16px; }
.axis { stroke: var(--edge); fill: none; }
.median { stroke: var(--ink); stroke-width: 1.5; fill: none; }
.tables { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); gap: 0.5rem 2rem;
  margin-top: 1rem; }

footer { margin-top: 3rem; padding-top: 1.25rem; border-top: 1px solid var(--line); color: var(--muted);
  font-size: 0.9375rem; }
footer dl div { margin-bottom: 0.5rem; }
footer dt { color: var(--ink); }
footer p { margin-top: 0.75rem; }

@media (max-width: 44rem) {
  body { padding: 1.5rem 1rem 2rem; }
  h1 { font-size: 1.625rem; }
  .numbers { gap: 0.75rem 1.5rem; }
  .finding { padding-left: 0.75rem; }
  .sets > li { width: 100%; padding: 0.625rem; }
  .pictures > li { width: calc(50% - 0.3125rem); }
  .samples { grid-template-columns: repeat(3, 1fr); }
  th, td { padding-left: 0.625rem; font-size: 0.875rem; }
  .classes th:first-child { min-width: 5.5rem; }
  .swatch { display: block; margin: 0 0 0.125rem auto; }
  .frame.none { padding: 0; font-size: 0.75rem; }
  .contents a, .chips a, summary { padding-top: 0.25rem; padding-bottom: 0.25rem; }
}
@media print {
  @page { margin: 14mm; }
  body { padding: 0; max-width: none; font-size: 10pt; }
  nav, .skip { display: none; }
  h2, h3, .advice, .what, section > p, caption { break-after: avoid; }
  h3, figure, tr, .sets > li, .class, .histograms > li { break-inside: avoid; }
  .sets { display: block; }
  .sets > li { display: inline-block; vertical-align: top; margin: 0 0.5rem 0.5rem 0; padding: 0.5rem; width: auto; }
  .finding { padding-left: 0.75rem; }
  .pictures { gap: 0.5rem 0.375rem; }
  .pictures > li { width: 4.75rem; }
  .tag { padding: 0 0.1875rem; margin-right: 0.125rem; }
  .histograms { grid-template-columns: repeat(2, 1fr); gap: 1rem; }
  .tables { grid-template-columns: repeat(3, 1fr); gap: 1rem; }
  figcaption { font-size: 0.625rem; }
  .samples { grid-template-columns: repeat(9, 1fr); }
  .scroll { overflow: visible; }
  rect { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
