"""What a notebook shows of data, findings, numbers and the work under way.

Enters: values of the steps before. Leaves: HTML for the output of a cell: small, readable on light and dark ground,
without scripts; whatever comes from the data is escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Protocol

from PIL import Image

from regraft.data.audit import Inspection
from regraft.data.dataset import Dataset, Split
from regraft.errors import counted
from regraft.evaluation.metrics import Evaluation
from regraft.evaluation.names import one_line, shorten
from regraft.evaluation.predictions import Predictions
from regraft.report.charts import bar
from regraft.report.gallery import Classes
from regraft.report.inspection import class_tables, verdict
from regraft.report.markup import Html, bidi, file_name, fold, image_of, joined, list_of, table_of, tag
from regraft.report.run_page import coded, confusion, per_class
from regraft.report.thumbs import read_thumbs
from regraft.report.words import interval, percent

#: Classes with pictures and pictures of each; rows of a table of images; pictures of a finding; cards.
_CLASSES, _PICTURES, _ROWS, _OF_FINDING, CARDS = 6, 8, 10, 4, 24
#: Lines of the history and sentences while the work goes on, and how many of these are not folded.
_EPOCHS, _NOTES, _LAST = 24, 40, 3
#: Longer side of a picture that was drawn, in pixels.
_SIDE = 1100


def output(*inside: str) -> str:
    """What a cell shows, with its style."""
    return str(tag("div", tag("style", Html(_style())), *inside, class_="regraft"))


@cache
def _style() -> str:
    return resources.files("regraft.report").joinpath("notebook.css").read_text(encoding="utf-8")


def say(text: str, class_: str | None = None) -> Html:
    """A sentence."""
    return tag("p", coded(text), class_=class_)


# Data.


def dataset(data: Dataset) -> str:
    """Images of each class, and some of them."""
    unread = [joined(file_name(file.path), ": ", bidi(file.reason)) for file in data.bad[:_ROWS]]
    return output(
        _heading(data),
        _class_tables(data),
        *_strips(data),
        *([fold(f"{counted(len(data.bad), 'file')} that cannot be read", list_of(unread))] if unread else []),
        *(say(note, "muted") for note in data.notes[:_NOTES]),
    )


def split(parts: Split) -> str:
    """Images of each class in each part."""
    numbers = ", ".join(f"{len(parts[part]):,} {part}" for part in parts)
    return output(_heading(parts.dataset, numbers), _class_tables(parts.dataset))


def _heading(data: Dataset, more: str = "") -> Html:
    many = f"{counted(len(data), 'image')} in {counted(len(data.classes), 'class', 'classes')}"
    return tag("p", tag("b", many), f": {more}" if more else f" from {shorten(one_line(str(data.root)), 80)}")


def _class_tables(data: Dataset) -> Html | str:
    return class_tables(data, Classes.of(data, 0)) if data.samples else ""


def _strips(data: Dataset) -> Iterable[Html]:
    """A few images of each class, evenly out of their order."""
    chosen = {}
    for name in data.classes[:_CLASSES]:
        paths = [sample.path for sample in data.samples if sample.label == name]
        chosen[name] = [paths[i * len(paths) // _PICTURES] for i in range(min(_PICTURES, len(paths)))]
    thumbs = _thumbs(data, [path for paths in chosen.values() for path in paths])
    for name, paths in chosen.items():
        if shown := [image_of(thumbs[path], f"{name}: {path}") for path in paths if path in thumbs]:
            yield tag("div", tag("p", bidi(name, 80), class_="muted"), tag("div", *shown, class_="strip"))


def _thumbs(data: Dataset, paths: Iterable[str]) -> dict[str, str]:
    by_path = {sample.path: sample for sample in data.samples}
    there = [path for path in paths if path in by_path]
    return read_thumbs(there, lambda path: data.source(by_path[path]), data.max_pixels)


def inspection(found: Inspection) -> str:
    """The findings as a table, the gravest first, each with some of its images."""
    shown = {
        number: [path for files in finding.files for path in files][:_OF_FINDING]
        for number, finding in enumerate(found.findings)
    }
    thumbs = _thumbs(found.dataset, [path for paths in shown.values() for path in paths])
    rows = [
        (
            tag("span", finding.severity, class_=f"badge {finding.severity}"),
            joined(shorten(one_line(finding.title), 400), " ", tag("span", shorten(one_line(finding.advice), 400),
                                                                   class_="muted")),
            tag("div", *(image_of(thumbs[path], path) for path in shown[number] if path in thumbs), class_="strip"),
        )
        for number, finding in enumerate(found.findings)
    ]  # fmt: skip
    table = table_of(["", "What was found, and what to do", "Some of them"], rows, "Findings", "wide-words")
    notes = (say(note, "muted") for note in found.notes[:_NOTES])
    return output(_heading(found.dataset), verdict(found), *([table] if rows else []), *notes)


# Numbers.


def evaluation(found: Evaluation) -> str:
    """The report with its intervals, and the confusion matrix."""
    rows = [
        ("Accuracy", percent(found.accuracy), interval(found.accuracy_interval)),
        ("Macro-F1", f"{found.macro_f1:.3f}", "{:.3f} to {:.3f}".format(*found.intervals["macro_f1"])),
        ("Balanced accuracy", percent(found.balanced_accuracy), interval(found.intervals["balanced_accuracy"])),
        ("Log loss", f"{found.loss:.3f}", ""),
    ]
    return output(
        table_of(["", "Value", "95 % interval"], rows, f"On {counted(found.count, 'image')}"),
        per_class(found, "Each class"),
        confusion(found),
        *(_caution(text) for text in found.cautions()),
    )


def _caution(text: str) -> Html:
    return tag("p", tag("span", "careful", class_="badge warning"), " ", shorten(one_line(text), 600))


def predictions(found: Predictions) -> str:
    """The first of them, and how many are right."""
    right = int((found.predicted == found.labels).sum())
    rows = [
        (
            file_name(found.ids[i]),
            bidi(found.classes[found.labels[i]], 40),
            tag("span", bidi(found.classes[found.predicted[i]], 40),
                class_=None if found.predicted[i] == found.labels[i] else "wrong"),
            percent(float(found.confidence[i])),
        )
        for i in range(min(_ROWS, len(found)))
    ]  # fmt: skip
    caption = f"{right:,} of {counted(len(found), 'prediction')} right" + ("; the first" if len(found) > _ROWS else "")
    return output(table_of(["Image", "Label", "Predicted", "Confidence"], rows, caption))


def answer(pairs: Sequence[tuple[str, float]]) -> Html:
    """The likeliest classes with their probabilities as bars."""
    return tag("div", *(
        piece for name, share in pairs
        for piece in (bidi(name, 24), tag("span", percent(share)), bar([("all", round(1000 * share))], 1000))
    ), class_="answer")  # fmt: skip


def card(picture: str | None, alt: str, *inside: str, instead: str = "no picture") -> Html:
    """A picture with words below it; of bytes and arrays, which have no name, the words alone."""
    shown = tag("span", instead, class_="frame none") if alt else ""
    return tag("div", shown if picture is None else image_of(picture, alt), *inside, class_="card")


def cards(items: Sequence[str], number: int) -> Html:
    """Cards beside one another, and how many more there are."""
    more = [tag("p", f"and {number - len(items):,} more", class_="muted")] if number > len(items) else []
    return tag("div", list_of(items, class_="cards"), *more)


def picture_of(file: Path, alt: str) -> Html | str:
    """A picture that was drawn, no larger than a notebook can show; nothing where it is not there."""
    try:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
    except OSError:
        return ""
    return drawn(image, alt)


def drawn(image: Image.Image, alt: str) -> Html:
    """The same of an image."""
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=85, optimize=True)
    source = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
    return tag("img", src=source, alt=shorten(one_line(alt), 160), class_="picture")


# Work under way.


class Row(Protocol):
    """What is told of an epoch; `regraft.training.progress.Epoch`."""

    @property
    def phase(self) -> str:
        """`head` or `finetune`."""

    @property
    def epoch(self) -> int:
        """From 1."""

    @property
    def train_loss(self) -> float:
        """Of the images as they were seen."""

    @property
    def val_loss(self) -> float | None:
        """Of validation."""

    @property
    def val_accuracy(self) -> float | None:
        """Of validation."""

    @property
    def images_per_second(self) -> float:
        """Of training."""


def progress(bars: Mapping[str, tuple[int, int, str]], notes: Sequence[str], epochs: Sequence[Row]) -> str:
    """How far the work is.

    Args:
        bars: Name -> units done, units in all, a word about them.
        notes: Sentences that were said.
        epochs: That are over.
    """
    rows = [
        (
            f"{row.phase} {row.epoch}", f"{row.train_loss:.4f}",
            "" if row.val_loss is None else f"{row.val_loss:.4f}",
            "" if row.val_accuracy is None else percent(row.val_accuracy),
            f"{row.images_per_second:,.0f}",
        )
        for row in _of_last_training(epochs)[-_EPOCHS:]
    ]  # fmt: skip
    head = ["Phase, epoch", "Training loss", "Validation loss", "Validation accuracy", "Images a second"]
    said = [say(note, "muted") for note in notes[-_NOTES:]]
    earlier, last = said[:-_LAST], said[-_LAST:]
    return output(
        *([fold(f"{counted(len(earlier), 'sentence')} before", *earlier)] if earlier else []),
        *last,
        *([table_of(head, rows, "Training")] if rows else []),
        *(
            tag("p", shorten(one_line(name), 40), tag("progress", value=done, max=max(1, total)),
                tag("span", f"{done:,} of {total:,} {shorten(one_line(detail), 40)}", class_="muted"))
            for name, (done, total, detail) in bars.items()
        ),
    )  # fmt: skip


def _of_last_training(epochs: Sequence[Row]) -> Sequence[Row]:
    """A comparison trains one model after the other."""
    begun = [i for i, row in enumerate(epochs) if (row.phase, row.epoch) == ("head", 1)]
    return epochs[begun[-1] :] if begun else epochs
