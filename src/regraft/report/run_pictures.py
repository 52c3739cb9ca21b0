"""The pictures on a run's page: its best and worst answers, and the images whose label may be wrong.

Enters: a `RunRecord`, and an `Album` of thumbnails. Leaves: markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from regraft.errors import counted
from regraft.report.markup import Html, bidi, file_name, fold, joined, list_of, tag
from regraft.report.record import SHOWN, RunRecord
from regraft.report.thumbs import Album
from regraft.report.words import percent

#: Names in a folded list.
NAMES = 200


def pictures(record: RunRecord, album: Album, heat: Album | None) -> Html:
    """The mistakes that it is surest of, the right answers that it is surest of, and those that it is least sure of."""
    groups = [
        ("Wrong, and sure of it", record.worst(), "No answer is wrong."),
        ("Right, and sure of it", record.best(), "No answer is right."),
        ("The least sure", record.doubtful(), ""),
    ]
    wanted = record.pictured()
    gone = sum(path not in album.thumbs for path in wanted)
    said: list[Html] = []
    if gone:
        count = counted(len(wanted), "image")
        words = f"{gone} of the {count} on this page cannot be read where the data was, or changed. "
        command = tag("code", "regraft report RUN --data DATA")
        said.append(tag("p", words, command, " shows them from where the data is now.", class_="muted"))
    if heat and heat.thumbs:
        words = (
            "Beside each image, where the evidence for the answer lies (Grad-CAM): the brighter, the more of it. "
            "The map is coarse, and says where the network looks, not what it sees there; "
        )
        command = tag("code", "regraft explain RUN IMAGE")
        said.append(tag("p", words, command, " draws it large, also for other classes.", class_="muted"))
    elif heat and gone < len(wanted):
        said.append(_none("No heat maps: no stage of the backbone has places, or its weights are not with the run."))
    pairs = heat if heat and heat.thumbs else None
    shown = [
        joined(
            tag("h3", heading),
            list_of(_answers(record, those, album, pairs), class_="pictures pairs" if pairs else "pictures")
            if those
            else _none(empty),
        )
        for heading, those, empty in groups
    ]
    return joined(*said, *shown)


def _answers(record: RunRecord, those: Iterable[int], album: Album, heat: Album | None) -> Iterator[Html]:
    told = record.told
    assert told is not None
    predicted, confidence = told.predicted, told.confidence
    for i in those:
        label, answer = told.classes[told.labels[i]], told.classes[predicted[i]]
        word = "right" if label == answer else "wrong"
        tags = [tag("span", bidi(answer, 40), class_="tag")]
        if label != answer:
            tags = [
                tag("span", "is ", bidi(label, 40), class_="tag differs"),
                tag("span", "said ", bidi(answer, 40), class_="tag"),
            ]
        verdict = tag("span", f"{word}, {percent(float(confidence[i]))}", class_=word)
        yield _figure(record, told.ids[i], label, verdict, tags, album, heat)


def suspects(record: RunRecord, album: Album) -> Html:
    """The likeliest of the wrong labels in pictures, the others by name."""
    if not record.suspects:
        return _none("None was found among the images that the model did not learn from.")
    about = (
        "Confident learning on the validation and test images, which no weight was fitted to. A model that judges "
        "labels is itself not always right: look, and put right what is wrong. label_errors.csv has all of them."
    )
    figures = (
        _figure(
            record,
            suspect.path,
            suspect.label,
            tag("span", f"{percent(suspect.probability)} sure"),
            [
                tag("span", "labelled ", bidi(suspect.label, 40), class_="tag differs"),
                tag("span", "looks like ", bidi(suspect.suggested, 40), class_="tag"),
            ],
            album,
        )
        for suspect in record.suspects[:SHOWN]
    )
    rest = [
        joined(
            file_name(record.short(s.path)), " ",
            tag("span", "labelled ", bidi(s.label, 40), ", looks like ", bidi(s.suggested, 40),
                f" ({percent(s.probability)})", class_="muted"),
        )
        for s in record.suspects[SHOWN:]
    ]  # fmt: skip
    more = names_of(rest, f"{len(rest):,} more, by name") if rest else ""
    return joined(tag("p", about), list_of(figures, class_="pictures"), more)


def _figure(
    record: RunRecord,
    path: str,
    label: str,
    detail: Html,
    tags: Sequence[Html],
    album: Album,
    heat: Album | None = None,
) -> Html:
    caption = tag(
        "figcaption",
        tag("span", detail, class_="detail"),
        tag("span", *tags, class_="tags"),
        tag("span", file_name(record.short(path)), class_="path"),
    )
    name = f"{label}: {path.rsplit('/', 1)[-1]}"
    picture = album.picture(path, name)
    if heat is not None:
        picture = tag("div", picture, heat.picture(path, f"evidence in {name}"), class_="pair")
    return tag("figure", picture, caption)


def names_of(items: Sequence[Html], summary: str) -> Html:
    """A folded list, cut where it is long."""
    left = len(items) - NAMES
    more = [_none(f"and {left:,} more")] if left > 0 else []
    return fold(summary, list_of(items[:NAMES], class_="plain"), *more)


def _none(text: str) -> Html:
    return tag("p", text, class_="muted")
