"""A run as a page: how good it is, on what, and how it came about.

Enters: a `RunRecord` and thumbnails. Leaves: one HTML file that needs nothing else: no script, and no font, style or
image from elsewhere. What the run lacks is said in its place.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regraft.data.dataset import PARTS
from regraft.errors import counted
from regraft.evaluation.abstention import risk_coverage
from regraft.evaluation.metrics import ClassReport, Evaluation
from regraft.evaluation.names import one_line, shorten
from regraft.files import write_text
from regraft.report import words
from regraft.report.charts import bar, swatch
from regraft.report.curves import heat_map, learning_curve, reliability, risk_coverage_curve, whisker
from regraft.report.markup import LINE, Html, bidi, document, file_name, fold, joined, list_of, table_of, tag
from regraft.report.record import RunRecord
from regraft.report.run_pictures import names_of, pictures, suspects
from regraft.report.thumbs import Album
from regraft.report.words import Name, Sentence, interval, percent

#: Classes up to which the confusion matrix has numbers; up to which it is drawn; rows of a table that are not folded.
NUMBERS, DRAWN, ROWS = 24, 100, 40
#: Notes, pairs of confused classes, characters of the configuration.
NOTES, PAIRS, CONFIG = 200, 20, 20_000


def write_run_page(
    record: RunRecord,
    file: Path,
    thumbs: Mapping[str, str],
    heat: Mapping[str, str] | None = None,
    *,
    instead: str = "not there",
) -> None:
    """Write the page; the same record and thumbnails give the same page.

    Args:
        record: What to tell.
        file: The HTML file to write; replaced if it exists.
        thumbs: Pictures by image name, as data URIs; of `record.pictured()`, as far as they are there.
        heat: The same under their heat maps, of the best and worst answers; None: they were not asked for.
        instead: What stands in the place of one that is not.
    """
    write_text(file, run_page(record, thumbs, heat, instead=instead))


def run_page(
    record: RunRecord, thumbs: Mapping[str, str], heat: Mapping[str, str] | None = None, *, instead: str = "not there"
) -> str:
    """The page as text; see `write_run_page`."""
    album = Album(thumbs, instead)
    heat_album = None if heat is None else Album(heat, "no map")
    sections = [
        ("summary", "Summary", summary(record)),
        ("data", "Data", _data(record)),
        ("training", "Training", training(record)),
        ("confusion", "What is taken for what", _confusion(record)),
        ("classes", "Each class", _per_class(record)),
        ("confidence", "Confidence", _confidence(record)),
        ("pictures", "Best and worst", pictures(record, album, heat_album) if record.told else _unknown(record)),
        ("suspects", "Labels that may be wrong", suspects(record, album) if record.told else _unknown(record)),
        *([("comparison", "Comparison", comparison_table(record.comparison))] if record.comparison else []),
        ("reproduce", "How to make it again", _reproduce(record)),
    ]
    title = shorten(one_line(record.name), 120)
    links = list_of((tag("a", heading, href=f"#{key}") for key, heading, _ in sections), class_="contents")
    over = f"Report of a run: {record.backbone}, {counted(len(record.classes), 'class', 'classes')}"
    body = tag(
        "body",
        tag("a", "Skip to the summary", href="#summary", class_="skip"),
        tag("header", tag("p", over, class_="over"), tag("h1", bidi(title, 120)), numbers(record)),
        LINE, tag("nav", links, aria_label="Contents"),
        LINE, tag("main", *(
            joined(tag("section", tag("h2", heading, id=f"{key}-heading"), content, id=key,
                       aria_labelledby=f"{key}-heading"), LINE)
            for key, heading, content in sections)),
        tag("footer", tag("p", "Made by regraft. Nothing on this page comes from elsewhere.")),
    )  # fmt: skip
    return document(f"{title}: report of a run", body)


def numbers(record: RunRecord) -> Html:
    """How good, how many, how large, how long."""
    found: list[tuple[str, str]] = []
    if record.part is not None:
        evaluation = record.evaluations[record.part]
        found += [
            (percent(evaluation.accuracy), f"{record.part} accuracy ({interval(evaluation.accuracy_interval)})"),
            (f"{evaluation.macro_f1:.3f}", "macro-F1"),
            (f"{evaluation.count:,}", f"{record.part} images"),
        ]
    found += [(f"{sum(names.values()):,}", f"{part} images") for part, names in record.counts.items()
                if part != record.part]  # fmt: skip
    if model := record.metrics.get("model"):
        found += [
            (f"{model['parameters'] / 1e6:.1f} M", "parameters"),
            (f"{model['megabytes']:.0f} MB", "of weights"),
        ]
    if seconds := (record.metrics.get("time") or {}).get("train_seconds"):
        found.append((f"{seconds:,.0f} s", "of training"))
    return tag("dl", *(tag("div", tag("dt", what), tag("dd", number)) for number, what in found), class_="numbers")


def _sentence(sentence: Sentence) -> Html:
    return joined(*(bidi(piece, 60) if isinstance(piece, Name) else coded(piece) for piece in sentence))


def coded(text: str) -> Html:
    """A text in which commands stand between backquotes."""
    pieces = shorten(one_line(text), 600).split("`")
    return joined(*(tag("code", piece) if i % 2 else piece for i, piece in enumerate(pieces)))


def _none(text: str) -> Html:
    return tag("p", coded(text), class_="muted")


def summary(record: RunRecord) -> Html:
    """What the numbers say, and what they are too few to say."""
    shown = list_of((_sentence(sentence) for sentence in words.summary(record)), class_="said")
    notes = [joined(tag("span", "careful", class_="badge warning"), " ", shorten(one_line(text), 600))
             for text in words.cautions(record)]  # fmt: skip
    return joined(shown, *([list_of(notes, class_="said")] if notes else []))


# What it learnt from, and how.


def _data(record: RunRecord) -> Html:
    parts = [part for part in PARTS if part in record.counts]
    if not parts:
        return _none("The run does not say what it learnt from.")
    total = {name: sum(record.counts[part].get(name, 0) for part in parts) for name in record.classes}
    most = max(1, *total.values())
    order = sorted(record.classes, key=lambda name: -total[name])

    def row(name: str) -> list[str]:
        numbers = [record.counts[part].get(name, 0) for part in parts]
        pieces = list(zip(parts, numbers, strict=True))
        return [joined(bidi(name, 80), bar(pieces, most)), f"{total[name]:,}", *(f"{n:,}" for n in numbers)]

    head = ["Class", "Images", *(joined(swatch(part), part) for part in parts)]
    data = record.metrics.get("data") or {}
    unread = [joined(file_name(bad["path"]), " ", tag("span", shorten(one_line(bad["reason"]), 120), class_="muted"))
              for bad in data.get("bad", ())]  # fmt: skip
    notes = [coded(note) for note in data.get("notes", ())[:NOTES]]
    return joined(
        _folded(order, row, head, "Images of each class, the largest first", "classes"),
        *([list_of(notes, class_="plain")] if notes else []),
        *([names_of(unread, f"{counted(len(unread), 'file')} that cannot be read")] if unread else []),
    )


def _folded(names: Sequence[Any], row: Any, head: Sequence[str], caption: str, class_: str) -> Html:
    """A table; where it is long, its second part is folded."""
    first = names if len(names) <= ROWS else names[: ROWS // 2]
    table = table_of(head, map(row, first), caption, class_)
    if len(first) == len(names):
        return table
    rest = names[len(first) :]
    return joined(table, fold(f"{len(rest):,} more classes", table_of(head, map(row, rest), "The others", class_)))


def training(record: RunRecord) -> Html:
    """The curves of both phases."""
    model = record.metrics.get("model")
    said = []
    if model:
        tuned = f"fine-tuned from {model['finetuned_from']}" if model["finetuned_from"] else "only the head was trained"
        said.append(tag("p", f"{model['backbone']} at {model['image_size']} pixels, {tuned}."))
    if not record.history:
        return joined(*said, _none("The run holds no history: training was stopped before its end."))
    key = tag("p", *(tag("span", tag("svg", tag("rect", width="100%", height="100%", class_=part), class_="swatch",
                                     aria_hidden="true"), f"{words.PARTS[part]} ") for part in ("train", "val")),
              tag("span", "The ring marks the model that was kept."), class_="key")  # fmt: skip
    charts = (
        tag("figure", tag("figcaption", measure.capitalize()), learning_curve(record.history, measure))
        for measure in ("loss", "accuracy")
    )
    return joined(*said, key, list_of(charts, class_="charts"))


# How good it is.


def _unknown(record: RunRecord) -> Html:
    return _none("Not known: the summary says why." if record.missing else "Not known.")


def _confusion(record: RunRecord) -> Html:
    return _unknown(record) if record.part is None else confusion(record.evaluations[record.part])


def confusion(evaluation: Evaluation) -> Html:
    """The matrix, and the commonest mistakes."""
    names = [row.name for row in evaluation.per_class]
    pairs = words.confused(evaluation, PAIRS)
    support = evaluation.confusion.sum(axis=1)
    rows = ((joined(bidi(names[true], 60), " \N{RIGHTWARDS ARROW} ", bidi(names[said], 60)), f"{number:,}",
             percent(number / int(support[true]), 0)) for true, said, number in pairs)  # fmt: skip
    if len(names) <= NUMBERS:
        shown = _matrix(evaluation, names)
    elif len(names) <= DRAWN:
        shown = tag("div", heat_map(evaluation.confusion, names), class_="scroll", role="region",
                    aria_label="Confusion matrix", tabindex=0)  # fmt: skip
    else:
        shown = _none(f"A matrix of {len(names):,} classes cannot be read; metrics.json has it.")
    if len(names) <= DRAWN:
        about = "Rows: the true class. Columns: what was predicted. The darker, the larger the share of the row."
        shown = joined(tag("p", about), shown)
    if not pairs:
        return joined(shown, tag("p", "No image was taken for another class."))
    table = table_of(["True class, and what it is taken for", "Images", "Of the true class"], rows,
                     "The commonest mistakes", "wordy")  # fmt: skip
    return joined(shown, table if len(names) > 2 else "")


def _matrix(evaluation: Evaluation, names: Sequence[str]) -> Html:
    """A table of counts; the darker a cell, the larger its share of the row."""
    confusion = evaluation.confusion
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    turned = "turned" if len(names) > 5 else None
    head = tag("tr", tag("td", "true class"), *(
        tag("th", tag("span", bidi(name, 18), class_=turned), scope="col") for name in names))  # fmt: skip
    body = [
        joined(LINE, tag("tr", tag("th", bidi(name, 24), scope="row"), *(
            tag("td", f"{int(confusion[i, j]):,}",
                class_=f"{'hit' if i == j else 'miss'} heat-{int(np.ceil(np.sqrt(share[i, j]) * 8))}")
            for j in range(len(names)))))
        for i, name in enumerate(names)
    ]  # fmt: skip
    caption = "Images"
    table = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body), class_="matrix")
    return joined(LINE, tag("div", table, class_="scroll", role="region", aria_label=caption, tabindex=0))


def _per_class(record: RunRecord) -> Html:
    if record.part is None:
        return _unknown(record)
    return per_class(record.evaluations[record.part], f"Each class on the {record.part} images")


def per_class(evaluation: Evaluation, caption: str) -> Html:
    """Recall, precision and F1 of each class with their intervals, the weakest first."""
    order = sorted(evaluation.per_class, key=lambda row: (row.support == 0, row.f1))

    def row(report: ClassReport) -> list[str]:
        if not report.support:
            return [bidi(report.name, 60), "0", "", "", ""]
        values = (report.recall, report.recall_interval), (report.precision, report.precision_interval)
        cells = [*values, (report.f1, report.f1_interval)]
        return [
            joined(bidi(report.name, 60), whisker(report.recall, *report.recall_interval)),
            f"{report.support:,}",
            *(joined(percent(value), " ", tag("span", interval(bounds), class_="within")) for value, bounds in cells),
        ]

    about = (
        "Recall: the share of a class's images that is found. Precision: the share of what is taken for the class that "
        "is of it. F1: their harmonic mean. Beside each its 95 % interval; the line shows that of the recall."
    )
    head = ["Class, the weakest first", "Images", "Recall", "Precision", "F1"]
    return joined(tag("p", about), _folded(order, row, head, caption, "classes"))


def _confidence(record: RunRecord) -> Html:
    told, found = record.told, record.calibrations
    if told is None or record.part is None:
        return _unknown(record)
    charts: list[Html] = []
    table: Html | str = ""
    if found:
        before, after = found
        temperature = record.metrics["calibration"]["temperature"]
        titles = "As trained", f"At temperature {temperature:.2f}"
        charts += [tag("figure", tag("figcaption", title), reliability(one, title))
                   for title, one in zip(titles, found, strict=True)]  # fmt: skip
        rows = [
            ("Expected calibration error", f"{100 * before.ece:.2f} points", f"{100 * after.ece:.2f} points"),
            ("Brier score", f"{before.brier:.4f}", f"{after.brier:.4f}"),
            ("Log loss", f"{before.loss:.4f}", f"{after.loss:.4f}"),
        ]
        table = table_of(["Measure", *titles], rows, "The less, the better", "wordy")
    charts.append(tag("figure", tag("figcaption", "Answering only what is sure"),
                      risk_coverage_curve(*risk_coverage(told))))  # fmt: skip
    about = (
        "On the dashed line an answer is right as often as it says; lines are 95 % intervals, grey bars how many "
        "images have that confidence. `regraft predict --sure 0.95` answers only where validation was right so often."
    )
    return joined(tag("p", coded(about)), list_of(charts, class_="charts"), table)


# Beside others, and again.


def comparison_table(comparison: Mapping[str, Any]) -> Html:
    """The conclusion, and what each model gave."""
    head = ["Model", "Test accuracy", "Macro-F1", "Training", "Parameters", "One image", "32 images"]

    def row(model: Mapping[str, Any]) -> list[str]:
        bounds = model.get("test_accuracy_interval")
        accuracy = _if(model.get("test_accuracy"), percent)
        within = [" ", tag("span", interval((bounds[0], bounds[1])), class_="within")] if bounds else []
        return [
            bidi(str(model["name"]), 60), joined(accuracy, *within), _if(model.get("test_macro_f1"), "{:.3f}".format),
            _if(model.get("train_seconds"), "{:,.0f} s".format), _if(model.get("parameters"), "{:,}".format),
            _if(model.get("predict_ms_1"), "{:.1f} ms".format), _if(model.get("predict_ms_32"), "{:.1f} ms".format),
        ]  # fmt: skip

    said = [shorten(one_line(str(text)), 600) for text in comparison.get("conclusion", ())]
    return joined(list_of(said, class_="said") if said else "",
                  table_of(head, map(row, comparison["models"]), "Models trained on the same images"))  # fmt: skip


def _if(value: Any, write: Any) -> str:
    return "" if value is None else str(write(value))


def _told(values: Mapping[str, Any], *keys: str) -> str:
    return ", ".join(str(values[key]) for key in keys if values.get(key))


def _reproduce(record: RunRecord) -> Html:
    if record.source:
        command = f"regraft train {shlex.quote(one_line(record.source))} --config config.toml --out AGAIN"
        same = "With this run's config.toml, the same data and versions on the same machine give the same numbers."
        made = joined(tag("pre", tag("code", command)), tag("p", same))
    else:
        made = tag("p", "It was trained from Python: ", tag("code", "regraft.train(model, parts, ...)"), ".")
    weights, spent = record.description.get("weights") or {}, record.metrics.get("time") or {}
    hardware = record.metrics.get("training") or {}
    facts = [
        ("Backbone", record.description["backbone"].get("timm_name", record.backbone)),
        (
            "Pretrained weights",
            ", ".join(str(weights[key]) for key in ("source", "name", "licence") if weights.get(key)),
        ),
        ("SHA-256 of these", weights.get("sha256", "")),
        ("Device", _told(hardware, "device", "precision", "engine")),
        ("Time", ", ".join(f"{name} {seconds:.1f} s" for name, seconds in (spent.get("steps") or {}).items())),
        ("Prediction from a file", _if(spent.get("predict_ms_per_image"), "{:.1f} ms an image".format)),
        ("Peak memory", _if((record.metrics.get("memory") or {}).get("peak_megabytes"), "{:,.0f} MB".format)),
        ("Versions", ", ".join(f"{name} {number}" for name, number in record.description.get("versions", {}).items())),
    ]
    rows = [(name, tag("span", shorten(one_line(value), 400))) for name, value in facts if value]
    hashes = [(tag("code", name), tag("code", value)) for name, value in record.hashes.items()]
    config = record.config if len(record.config) <= CONFIG else record.config[:CONFIG] + "\n…"
    # Line by line, because what is escaped loses its ends of lines.
    lines = tag("pre", tag("code", *(piece for line in config.splitlines() for piece in (line, LINE))))
    return joined(
        made,
        table_of(["What", "Which"], rows, "What it was made with", "wide-words"),
        *([table_of(["File", "SHA-256"], hashes, "Its files", "wide-words")] if hashes else []),
        *([fold("config.toml", lines)] if record.config else []),
    )
