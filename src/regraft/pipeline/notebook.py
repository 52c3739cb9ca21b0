"""What a notebook shows of runs, answers and what is made of them.

Enters: results of the verbs. Leaves: HTML for the output of a cell, made of the same pieces as the pages.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from regraft.data.decode import MAX_PIXELS
from regraft.errors import counted
from regraft.evaluation.learning_curve import Curve, Range, describe_gain
from regraft.exporting.exported import ExportedModel
from regraft.exporting.parity import Parity
from regraft.models.inference import Prediction
from regraft.pipeline.compare import Comparison
from regraft.pipeline.crossval import CrossValidation
from regraft.pipeline.explain import Explanation
from regraft.pipeline.export import Exported
from regraft.pipeline.learning_curve import LearningCurve
from regraft.pipeline.report import REPORT, record_of
from regraft.pipeline.run import Run
from regraft.pipeline.tuning import Tuning
from regraft.report import run_page
from regraft.report.heat import overlay
from regraft.report.learning_curve import plot_learning_curve
from regraft.report.markup import Html, bidi, file_name, fold, joined, table_of, tag
from regraft.report.notebook import CARDS, answer, card, cards, output, picture_of, say
from regraft.report.thumbs import data_uri, read_thumbs
from regraft.report.words import interval, percent

#: Likeliest classes of an answer; likely wrong labels that are named.
_LIKELIEST, _SUSPECTS = 3, 10


def run(found: Run) -> str:
    """The numbers, what they say, and the pictures of the run."""
    record = record_of(found)
    pictures = found.path / "plots"
    samples = picture_of(pictures / "sample_predictions.png", "Right and wrong predictions")
    reliability = picture_of(pictures / "reliability.png", "Confidence against truth")
    page = found.path / REPORT
    return output(
        run_page.numbers(record),
        run_page.summary(record),
        run_page.training(record),
        *([fold("What is taken for what", run_page.confusion(record.evaluations[record.part]))] if record.part else []),
        *([fold("Right and wrong predictions", samples)] if samples else []),
        *([fold("Whether confidence can be believed", reliability)] if reliability else []),
        tag("p", "All of it: ", tag("code", str(page if page.is_file() else found.path)), class_="muted"),
    )


def prediction(found: Prediction) -> str:
    """The picture, where it is a file, and the likeliest classes."""
    return several([found])


def explanation(found: Explanation) -> str:
    """The picture, and under the map of each class."""
    return several([found])


def exported(found: Exported) -> str:
    """What the gate measured."""
    return several([found])


def several(found: Sequence[Any]) -> str:
    """Answers, explanations or exports, one beside the other."""
    if not found:
        return output(say("None.", "muted"))
    if isinstance(found[0], Exported):
        return output(_exports(found))
    if isinstance(found[0], Explanation):
        return output(cards([_explained(one) for one in found[:CARDS]], len(found)))
    files = [one.source for one in found[:CARDS] if Path(one.source).is_file()]
    thumbs = read_thumbs(files, Path, MAX_PIXELS)
    return output(cards([_answered(one, thumbs.get(one.source)) for one in found[:CARDS]], len(found)))


def _answered(found: Prediction, picture: str | None) -> Html:
    name = file_name(Path(found.source).name) if found.source else ""
    if found.error is not None:
        return card(None, found.source, name, tag("p", bidi(found.error), class_="wrong"), instead="unreadable")
    return card(picture, found.source, name, answer(found.top(_LIKELIEST)))


def _explained(found: Explanation) -> Html:
    name = file_name(Path(found.source).name) if found.source else ""
    if found.error is not None:
        return card(None, found.source, name, tag("p", bidi(found.error), class_="wrong"), instead="unreadable")
    maps = (
        card(data_uri(Image.fromarray(overlay(found.image, heat))), f"Evidence for {target}",
             tag("p", "evidence for", class_="muted"), answer([(target, found.probability(target))]))
        for target, heat in zip(found.targets, found.heat, strict=True)
    )  # fmt: skip
    return joined(card(data_uri(Image.fromarray(found.image)), found.source, name), *maps)


def comparison(found: Comparison) -> str:
    """The conclusion, the table and the picture."""
    failed = (say(f"{name} could not be trained: {reason}", "wrong") for name, reason in found.failed.items())
    return output(
        run_page.comparison_table(found.to_json()),
        picture_of(found.path / "comparison.png", "Accuracy against training time"),
        *failed,
    )


def cross_validation(found: CrossValidation) -> str:
    """The accuracy of held-out images, in all, by fold, and by class."""
    count = len(found.predictions)
    folds = [
        (f"Repeat {number}" if len(found.accuracies) > 1 else "Accuracy", *map(percent, row.tolist()))
        for number, row in enumerate(found.accuracies, 1)
    ]
    suspects = [
        (file_name(path), bidi(label, 40), bidi(looks_like, 40), percent(probability))
        for path, label, looks_like, probability in found.suspects[:_SUSPECTS]
    ]
    wrong = f"{counted(len(found.suspects), 'label')} that may be wrong"
    return output(
        tag("p", tag("b", f"{percent(found.accuracy)} of {counted(count, 'image')} right"),
            f" (95 % interval {interval(found.accuracy_interval)}), each judged by a head that did not see it."),
        table_of(["Held out", *map(str, range(1, found.k + 1))], folds, f"Each of {found.k} folds"),
        run_page.per_class(found.evaluation, "Each class"),
        run_page.confusion(found.evaluation),
        *([fold(wrong, table_of(["Image", "Label", "Looks like", ""], suspects, "The likeliest first"))]
          if suspects else []),
    )  # fmt: skip


def learning_curve(found: LearningCurve) -> str:
    """What twice the images would bring, and the curves."""

    def within(value: Range) -> str:
        return f"{percent(value.value)} ({interval((value.low, value.high))})"

    def rows(curve: Curve) -> list[tuple[str, str]]:
        known = [(f"{size:,.0f}", within(value)) for size, value in zip(curve.sizes, curve.measured, strict=True)]
        ahead = zip(curve.ahead_sizes, curve.ahead, strict=True)
        return known + [(f"{size:,.0f}, by the law", within(value)) for size, value in ahead]

    with tempfile.TemporaryDirectory() as folder:
        plot_learning_curve(found.accuracy, found.classes, Path(folder) / "curve.png")
        picture = picture_of(Path(folder) / "curve.png", "Accuracy by the number of images")
    gain = describe_gain(found.accuracy.gain, found.accuracy.verdict)
    return output(
        tag("p", tag("b", "Twice as many images: "), gain, "."),
        table_of(["Images", "Accuracy (95 %)"], rows(found.accuracy), "Accuracy by the number of images"),
        picture,
    )


def tuning(found: Tuning) -> str:
    """What was changed, what it brought, and the trials."""
    best = found.best.record
    changed = [(tag("code", name), str(before), str(after)) for name, (before, after) in found.changes.items()]
    complete = sum(record.state == "complete" for record in found.trials)
    loss, accuracy = (None, None) if best.loss is None else (f"{best.loss:.4f}", best.accuracy)
    gain = []
    if found.gain is not None:
        gain = [say(f"The loss of a validation image is {found.gain[0]:.3f} lower than the base's (standard error "
                    f"{found.gain[1]:.3f}); it was chosen by these images, so others will show less.")]  # fmt: skip
    return output(
        tag("p", tag("b", f"Best of {counted(len(found.trials), 'trial')} ({complete:,} complete): {best.number}"),
            f", validation loss {loss}, accuracy {'' if accuracy is None else percent(accuracy)}."),
        table_of(["Setting", "Base", "Best"], changed, "What it changes") if changed
        else say("The base configuration was not beaten."),
        *gain,
        picture_of(found.path / "plots" / "history.png", "Every trial"),
        tag("p", "Settings: ", tag("code", str(found.path / "best.toml")),
            *([" Run: ", tag("code", str(found.run.path))] if found.run else []), class_="muted"),
    )  # fmt: skip


def _exports(found: Sequence[Exported]) -> Html:
    rows = [
        (
            tag("code", str(one.path)), percent(one.parity.agreement), f"{one.parity.largest_difference:.1g}",
            percent(one.parity.accuracy), percent(one.parity.model_accuracy), f"{one.megabytes:.0f} MB",
            f"{one.milliseconds[0]:.1f} ms", f"{one.model_milliseconds[0]:.1f} ms",
        )
        for one in found
    ]  # fmt: skip
    head = [
        "Export",
        "Same answers",
        "Largest difference",
        "Accuracy",
        "The run's",
        "On disk",
        "One image",
        "The run's",
    ]
    parity = found[0].parity
    caption = f"Accepted: compared with the run on {counted(parity.images, f'{found[0].part} image file')}"
    return table_of(head, rows, caption)


def parity(found: Parity) -> str:
    """Whether the answers are the same, in numbers."""
    rows = [
        ("Same likeliest class", percent(found.agreement), f"at least {percent(found.limits.agreement)}"),
        ("Largest difference of a probability", f"{found.largest_difference:.2g}", f"{found.limits.difference:g}"),
        ("Accuracy", percent(found.accuracy), f"{percent(found.model_accuracy)} before"),
    ]
    said = "It does not answer as it must" if found.faults else "It answers as it must"
    return output(table_of(["", "Found", "Expected"], rows, f"{said}, on {counted(found.images, 'image')}"),
                  *(say(fault, "wrong") for fault in found.faults))  # fmt: skip


def export_of(found: ExportedModel) -> str:
    """What it is."""
    told = found.description
    rows = [
        ("Format", f"{told['format']}, {told.get('precision', '')}"),
        ("Input", f"{found.preprocessing.size} x {found.preprocessing.size} pixels"),
        ("Classes", joined(*(piece for name in found.classes[:20] for piece in (bidi(name, 40), " ")))),
    ]
    return output(table_of(["What", "Which"], rows, str(found.path), "wide-words"))
