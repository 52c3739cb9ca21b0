"""A run as a model card: the page that stands beside the weights on the Hugging Face Hub.

Enters: a `RunRecord`. Leaves: Markdown with a front matter in YAML. Names from the data are written so that they are
text in both.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from regraft.data.dataset import PARTS
from regraft.errors import counted
from regraft.evaluation.metrics import ClassReport, Evaluation
from regraft.evaluation.names import one_line, shorten
from regraft.report import words
from regraft.report.record import RunRecord
from regraft.report.words import Name, Sentence, interval, percent

#: Classes that are named; rows of the table of classes, the weakest first.
_NAMED, _ROWS = 100, 50

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "`": "&#96;"}
_MARKS = re.compile(r"([\\*_{}\[\]()#+!~:@$^])")


def escape_markdown(text: str, width: int = 80) -> str:
    """Text from the data as text in Markdown, in a table too: one line, no markup, no link, no mention.

    Args:
        text: Anything.
        width: Columns; the middle of a wider text is left out.
    """
    line = shorten(one_line(text), width).strip()
    marked = _MARKS.sub(r"\\\1", line).replace("www.", "www\\.")
    return "".join(_ENTITIES.get(character, character) for character in marked)


def model_card(record: RunRecord) -> str:
    """The card.

    Args:
        record: What to tell. Of paths only the last name is told, because a card is made to be published.
    """
    sections = [
        ("", _opening(record)),
        ("Intended use", _use(record)),
        ("Training data", _data(record)),
        ("Training", _training(record)),
        ("Evaluation", _evaluation(record)),
        ("Calibration", _calibration(record)),
        ("Limitations", _limitations(record)),
        ("How to use it", _how(record)),
    ]
    text = "\n\n".join((f"## {heading}\n\n" if heading else "") + "\n".join(lines) for heading, lines in sections)
    text = text.replace("\N{NO-BREAK SPACE}", " ")  # searched more often than it is set
    return f"---\n{_front_matter(record)}---\n\n{text}\n"


# The front matter.


def _yaml(value: str | float) -> str:
    """A scalar in YAML; of text a quoted one, as JSON writes it, without what YAML forbids."""
    if not isinstance(value, str):
        return json.dumps(value)
    text = one_line(value).translate({0xFFFE: 0xFFFD, 0xFFFF: 0xFFFD, 0x7F: 0x20})
    return json.dumps(text, ensure_ascii=False)


def _front_matter(record: RunRecord) -> str:
    lines = [
        "# license: say under which licence you publish it, such as apache-2.0; that of the images counts too",
        "library_name: regraft",
        "pipeline_tag: image-classification",
        "tags:",
        *(f"- {_yaml(word)}" for word in ("image-classification", "transfer-learning", "regraft", record.backbone)),
    ]
    if record.part is not None:
        evaluation = record.evaluations[record.part]
        metrics = [("accuracy", "Accuracy", evaluation.accuracy), ("f1", "Macro F1", evaluation.macro_f1)]
        if record.calibrations:
            metrics.append(("expected_calibration_error", "Expected calibration error", record.calibrations[1].ece))
        data = {
            "name": _title(record),
            "type": "imagefolder",
            "split": "validation" if record.part == "val" else "test",
        }
        lines += [
            "model-index:",
            f"- name: {_yaml(record.name)}",
            "  results:",
            "  - task:",
            "      type: image-classification",
            "      name: Image classification",
            "    dataset:",
            *(f"      {key}: {_yaml(value)}" for key, value in data.items()),
            "    metrics:",
        ]
        for kind, name, value in metrics:
            lines += [f"    - type: {kind}", f"      name: {_yaml(name)}", f"      value: {_yaml(round(value, 6))}"]
    return "\n".join(lines) + "\n"


def _title(record: RunRecord) -> str:
    """The data's own name."""
    return PurePosixPath(record.source.replace("\\", "/")).name or record.name


# The text.


def _sentences(sentences: Sequence[Sentence]) -> Iterator[str]:
    for sentence in sentences:
        yield "- " + "".join(escape_markdown(piece) if isinstance(piece, Name) else piece for piece in sentence)


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> Iterator[str]:
    """Cells are Markdown; the first column is text, the others are numbers."""
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'---:|' * (len(head) - 1)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _opening(record: RunRecord) -> list[str]:
    return [
        f"# {escape_markdown(record.name)}",
        "",
        f"An image classifier with {counted(len(record.classes), 'class', 'classes')}, made of {record.backbone} by "
        "transfer learning with regraft.",
        "",
        *_sentences(words.summary(record)),
    ]


def _use(record: RunRecord) -> list[str]:
    names = ", ".join(escape_markdown(name, 60) for name in record.classes[:_NAMED])
    more = len(record.classes) - _NAMED
    return [
        f"It tells which of these an image shows: {names}{f', and {more:,} more' if more > 0 else ''}.",
        "",
        "It is meant for images like those that it learnt from: of the same kind, taken in the same way. It always "
        "names one of its classes, also for an image that shows none of them"
        + (", unless it is asked what is unknown (below)." if record.description.get("familiarity") else "."),
    ]


def _data(record: RunRecord) -> list[str]:
    parts = [part for part in PARTS if part in record.counts]
    lines = [f"Images of “{escape_markdown(_title(record))}”, each labelled with one class."]
    if not parts:
        return [*lines, "", "How many is not known."]
    order = sorted(record.classes, key=lambda name: -sum(record.counts[part].get(name, 0) for part in parts))
    rows = ((escape_markdown(name), *(f"{record.counts[part].get(name, 0):,}" for part in parts))
            for name in order[:_NAMED])  # fmt: skip
    lines += ["", *_table(["Class", *parts], rows)]
    if len(order) > _NAMED:
        lines += ["", f"And {len(order) - _NAMED:,} smaller classes."]
    totals = ", ".join(f"{sum(record.counts[part].values()):,} {part}" for part in parts)
    lines += ["", f"In all: {totals}. split.csv names every image with its part and SHA-256."]
    if bad := (record.metrics.get("data") or {}).get("bad"):
        lines += [
            "",
            f"{counted(len(bad), 'file')} could not be read and {'was' if len(bad) == 1 else 'were'} left out.",
        ]
    return lines


def _training(record: RunRecord) -> list[str]:
    weights, model = record.description.get("weights") or {}, record.metrics.get("model")
    name = escape_markdown(str(record.description["backbone"].get("timm_name", record.backbone)))
    source = ", ".join(escape_markdown(str(weights[key]).replace("\\", "/").rsplit("/", 1)[-1])
                       for key in ("source", "name") if weights.get(key))  # fmt: skip
    lines = [f"- Backbone: {name}; pretrained weights: {source or 'not known'}"]
    if weights.get("licence"):
        lines.append(f"- Licence of these weights: {escape_markdown(str(weights['licence']))}")
    if model:
        tuned = (
            f"fine-tuned from {model['finetuned_from']}" if model["finetuned_from"] else "the head alone was trained"
        )
        lines.append(
            f"- {model['image_size']} pixels a side, {model['parameters']:,} parameters; {escape_markdown(tuned)}"
        )
    if seconds := (record.metrics.get("time") or {}).get("train_seconds"):
        device = (record.metrics.get("training") or {}).get("device", "")
        lines.append(f"- Trained in {seconds:,.0f} s on {escape_markdown(str(device))}")
    lines.append("- config.toml has every setting, history.csv every epoch")
    return lines


def _evaluation(record: RunRecord) -> list[str]:
    if record.part is None:
        return [*(record.missing[:1] or ["It was not evaluated."])]
    evaluation = record.evaluations[record.part]
    which = {"test": "test images, on which nothing was chosen", "val": "validation images, on which choices were made"}
    means = [("Accuracy", evaluation.accuracy, evaluation.accuracy_interval)]
    means += [(label, getattr(evaluation, key), evaluation.intervals[key]) for label, key in (
        ("Macro F1", "macro_f1"), ("Balanced accuracy", "balanced_accuracy"),
        ("Weighted F1", "weighted_f1"))]  # fmt: skip
    rows = ((label, percent(value), interval(bounds)) for label, value, bounds in means)
    order = sorted((row for row in evaluation.per_class if row.support), key=lambda row: row.f1)
    lines = [
        f"On {counted(evaluation.count, 'image')} ({which[record.part]}). Intervals are of 95 %: Wilson for shares, a "
        "Bayesian bootstrap for the rest. They take the images for independent ones.",
        "",
        *_table(["Measure", "Value", "95 % interval"], rows),
        "",
        *_table(["Class, the weakest first", "Images", "Recall", "Precision", "F1"], map(_class_row, order[:_ROWS])),
    ]
    return [*lines, *(["", f"And {len(order) - _ROWS:,} stronger classes."] if len(order) > _ROWS else [])]


def _class_row(row: ClassReport) -> Sequence[str]:
    cells = ((row.recall, row.recall_interval), (row.precision, row.precision_interval), (row.f1, row.f1_interval))
    return (escape_markdown(row.name), f"{row.support:,}", *(f"{percent(v)} ({interval(b)})" for v, b in cells))


def _calibration(record: RunRecord) -> list[str]:
    if record.calibrations is None:
        return ["It was not measured."]
    before, after = record.calibrations
    calibration = record.metrics["calibration"]
    fitted = calibration["fitted_on"]
    how = (f"Temperature {calibration['temperature']:.3f}, fitted to the {words.PARTS[fitted]} images." if fitted
           else "Confidence was not calibrated: there were no validation images.")  # fmt: skip
    rows = iter([
        ("Expected calibration error", f"{before.ece:.4f}", f"{after.ece:.4f}"),
        ("Brier score", f"{before.brier:.4f}", f"{after.brier:.4f}"),
        ("Log loss", f"{before.loss:.4f}", f"{after.loss:.4f}"),
    ])  # fmt: skip
    return [how, "", *_table([f"On the {words.PARTS[str(record.part)]} images", "before", "after"], rows)]


def _limitations(record: RunRecord) -> list[str]:
    lines = [f"- {escape_markdown(text, 600)}" for text in words.cautions(record)]
    if record.part is not None:
        lines += [f"- {escape_markdown(text, 600)}" for text in _weak(record.evaluations[record.part])]
    if record.suspects:
        lines.append(f"- {counted(len(record.suspects), 'label', 'labels')} of the held-out images may be wrong "
                     "(label_errors.csv), which moves every number here.")  # fmt: skip
    lines += [f"- {escape_markdown(text, 600)}" for text in record.missing]
    return [
        *lines,
        "- What is measured holds for images like the held-out ones. Other cameras, places or times may give less.",
        "- What the images are biased in, the model is biased in; so were the images of its pretrained weights.",
    ]


def _weak(evaluation: Evaluation) -> Iterator[str]:
    """Classes of which it is certain that fewer than half are found."""
    names = [row.name for row in evaluation.per_class if row.support and row.recall_interval[1] < 0.5]
    if names:
        shown = ", ".join(shorten(one_line(name), 40) for name in names[:10])
        more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
        yield f"Fewer than half of the images are found of {shown}{more}."


def _how(record: RunRecord) -> list[str]:
    known = record.description.get("familiarity") or (0,)
    share = max(0.01, math.ceil(100 / (known[-1] + 1)) / 100)  # fewer images cannot tell a hundredth
    unknown = f'regraft predict RUN photos --unknown {share:.2f}   # "unknown" where a photo shows something else'
    return [
        "```sh",
        "pip install regraft",
        "regraft predict RUN photo.jpg               # RUN: the folder in which this card lies",
        'regraft predict RUN photos --sure 0.95      # "not sure" where validation was right less often',
        *([unknown] if record.description.get("familiarity") else []),
        "```",
        "",
        "```python",
        "import regraft",
        "",
        'run = regraft.load("RUN")',
        'for prediction in regraft.predict(run, ["photo.jpg"]):',
        "    print(prediction.source, prediction.top(3))",
        "```",
        "",
        "Images are resized and normalised as `model.json` says, by the same code as in training.",
    ]
