"""What a run's numbers say, in sentences.

Enters: a `RunRecord`. Leaves: sentences in pieces, in which names from the data are `Name`, so that a page and a card
can each write them safely.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from regraft.errors import UsageError, counted
from regraft.evaluation.abstention import select, threshold_for
from regraft.evaluation.metrics import Evaluation
from regraft.report.record import RunRecord


class Name(str):
    """Text from the data, which may hold anything."""

    __slots__ = ()


#: A sentence: plain words, and names among them.
Sentence = tuple[str, ...]

#: Share of right answers that the word about confidence asks for.
_WANTED = 0.95
PARTS = {"train": "training", "val": "validation", "test": "test"}


def percent(value: float, digits: int = 1) -> str:
    """A share as `90.1 %`, which no line divides."""
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def interval(bounds: tuple[float, float]) -> str:
    """An interval of a share as `87.0 to 92.6`, in percent."""
    return f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}"


def summary(record: RunRecord) -> list[Sentence]:
    """The few sentences by which one knows how good it is."""
    sentences: list[Sentence] = [(words,) for words in record.missing]
    if record.part is not None:
        evaluation, part = record.evaluations[record.part], PARTS[record.part]
        right = int(np.trace(evaluation.confusion))
        sentences.append((
            f"Of {counted(evaluation.count, f'{part} image')}, {right:,} "
            f"{'is' if right == 1 else 'are'} classified rightly: an accuracy of {percent(evaluation.accuracy)} "
            f"(95 % interval {interval(evaluation.accuracy_interval)}). The macro-F1 is {evaluation.macro_f1:.3f} "
            f"({evaluation.intervals['macro_f1'][0]:.3f} to {evaluation.intervals['macro_f1'][1]:.3f}).",
        ))  # fmt: skip
        sentences += _classes(evaluation)
    sentences += _confidence(record)
    sentences += [(str(note),) for note in (record.metrics.get("training") or {}).get("notes", ())]
    if record.suspects:
        number = counted(len(record.suspects), "label looks", "labels look")
        sentences.append((f"{number} wrong among the images that the model did not learn from.",))
    return sentences


def _classes(evaluation: Evaluation) -> Iterator[Sentence]:
    support = evaluation.confusion.sum(axis=1)
    largest = int(np.argmax(support))
    names = [row.name for row in evaluation.per_class]
    share = support[largest] / evaluation.count
    yield ("Always to answer “", Name(names[largest]), f"” would be right for {percent(float(share))}.")
    there = [row for row in evaluation.per_class if row.support]
    weakest = min(there, key=lambda row: row.recall)
    if weakest.recall < 1 and len(there) > 1:
        yield (
            "The class found least is “", Name(weakest.name), f"”: {percent(weakest.recall)} of its "
            f"{counted(weakest.support, 'image')} ({interval(weakest.recall_interval)}).",
        )  # fmt: skip
    if pairs := confused(evaluation, 1):
        true, predicted, number = pairs[0]
        yield (
            "The commonest mistake: “", Name(names[true]), "” is taken for “", Name(names[predicted]),
            f"”, {counted(number, 'time')}.",
        )  # fmt: skip


def confused(evaluation: Evaluation, limit: int) -> list[tuple[int, int, int]]:
    """Pairs of true and predicted class that are mistaken, and how often; the commonest first, then in class order."""
    wrong = evaluation.confusion.copy()
    np.fill_diagonal(wrong, 0)
    rows, columns = np.nonzero(wrong)
    numbers = wrong[rows, columns]
    order = np.argsort(-numbers, kind="stable")[:limit]
    return [(int(rows[i]), int(columns[i]), int(numbers[i])) for i in order]


def _confidence(record: RunRecord) -> Iterator[Sentence]:
    calibration, found = record.metrics.get("calibration"), record.calibrations
    if calibration and found:
        before, after = found
        fitted = calibration["fitted_on"]
        yield (
            f"Confidence is off by {100 * after.ece:.1f} points on average"
            + (f"; {100 * before.ece:.1f} before it was calibrated on {PARTS[fitted]} "
               f"(temperature {calibration['temperature']:.2f})." if fitted else "; it was not calibrated."),
        )  # fmt: skip
    if record.part != "test" or record.predictions is None:
        return
    val, test = record.predictions.part("val"), record.predictions.part("test")
    if not len(val):
        return
    try:
        chosen = threshold_for(val, _WANTED)
    except UsageError:
        yield (f"No confidence is right {100 * _WANTED:.0f} % of the time on the validation images.",)
        return
    told = select(test, chosen.threshold)
    if told.coverage < 1 and told.coverage > 0:
        yield (
            f"If it answers only where it is at least {percent(chosen.threshold)} sure, which was right "
            f"{percent(chosen.accuracy)} of the time on validation, it answers {percent(told.coverage)} of the test "
            f"images, and {percent(told.accuracy)} of these answers are right ({interval(told.accuracy_interval)}).",
        )  # fmt: skip


def cautions(record: RunRecord) -> list[str]:
    """What the images are too few to say; names in it are as they are in the data."""
    return [] if record.part is None else record.evaluations[record.part].cautions()
