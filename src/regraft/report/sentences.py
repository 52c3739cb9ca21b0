"""What the numbers of a run say whose model gives an image one class, in sentences.

Input: its record. Output: sentences as tuples of plain text and `Name`s, which a page and a model card escape in
their own ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from regraft.data.pooling import Counted
from regraft.errors import UsageError
from regraft.evaluation.abstention import select, threshold_for
from regraft.evaluation.calibration import MIN_IMAGES, Calibration
from regraft.evaluation.hierarchy import TARGET_ACCURACY, Hierarchy
from regraft.evaluation.metrics import MAX_UNTESTED, Evaluation
from regraft.evaluation.multilabel.calibration import MultilabelCalibration
from regraft.report.html import Name, interval, percent
from regraft.report.record import WITHHELD, ClassificationRecord
from regraft.report.task_report import Sentence
from regraft.text import pluralize

PARTS = {"train": "training", "val": "validation", "test": "test"}


def name_classes(names: Sequence[str], limit: int = 100) -> Sentence:
    """The names of classes in a sentence, at most `limit` of them."""
    pieces = [piece for name in names[:limit] for piece in (", ", Name(name))][1:]
    return (*pieces, f", and {len(names) - limit:,} more") if len(names) > limit else tuple(pieces)


def quality(record: ClassificationRecord) -> Iterator[Sentence]:
    """Yield the sentences that say how good the model is."""
    if record.part is None:
        return
    evaluation = record.evaluations[record.part]
    correct, part = int(np.trace(evaluation.confusion)), PARTS[record.part]
    low, high = evaluation.intervals["macro_f1"]
    yield (
        f"{correct:,} of {pluralize(evaluation.count, f'{part} {record.counted}')} are classified correctly: "
        f"{percent(evaluation.accuracy)} accuracy (95 % confidence interval "
        f"{interval(evaluation.accuracy_interval)}). Macro-F1: {evaluation.macro_f1:.3f} "
        f"({low:.3f} to {high:.3f})", *_of_tested(evaluation), ".",
    )  # fmt: skip
    if at_chance := objection(evaluation):
        yield (*at_chance, f" {WITHHELD}")
    yield from _per_class(evaluation)
    if evaluation.hierarchy:
        yield from _under_tree(evaluation.hierarchy, record.counted)
    if evaluation.ordinal:
        yield (evaluation.ordinal.describe(),)


def confidence(record: ClassificationRecord) -> Iterator[Sentence]:
    """Yield the sentences about calibration and about accepting confident predictions only."""
    yield from _calibration(record)
    yield from _threshold(record)


def objection(evaluation: Evaluation) -> Sentence:
    """Return why what the model says about single images is not to be believed; () if it is clearly better."""
    before, name, after = evaluation.majority.objection([row.name for row in evaluation.per_class], evaluation.counted)
    return (before, Name(name), after) if before else ()


def _of_tested(evaluation: Evaluation) -> Iterator[str]:
    """What `Evaluation.of_tested` says, with the names of the classes apart."""
    untested, total = evaluation.untested, len(evaluation.per_class)
    if not untested:
        return
    yield f" over the {total - len(untested)} of {total} classes that were tested (not "
    for number, name in enumerate(untested[:MAX_UNTESTED]):
        yield from ("“" if number == 0 else "”, “", Name(name))
    yield f"”, and {len(untested) - MAX_UNTESTED:,} more)" if len(untested) > MAX_UNTESTED else "”)"


def confused(confusion: np.ndarray, limit: int) -> list[tuple[int, int, int]]:
    """Return the most frequent confusions as (true class, predicted class, images); equal ones in class order."""
    errors = confusion.copy()
    np.fill_diagonal(errors, 0)
    rows, columns = np.nonzero(errors)
    counts = errors[rows, columns]
    order = np.argsort(-counts, kind="stable")[:limit]
    return [(int(rows[i]), int(columns[i]), int(counts[i])) for i in order]


def calibration_errors(
    before: Calibration | MultilabelCalibration, after: Calibration | MultilabelCalibration
) -> Iterator[tuple[str, str, str]]:
    """Yield rows of a table: the calibration error before and after, and the same of a perfectly calibrated model."""
    yield ("Expected calibration error", f"{before.ece:.4f}", f"{after.ece:.4f}")
    if after.chance is not None:
        first, then = (
            "" if one.chance is None or one.chance_interval is None
            else f"{one.chance:.4f} ({one.chance_interval[0]:.4f} to {one.chance_interval[1]:.4f})"
            for one in (before, after)
        )  # fmt: skip
        yield ("The same of a perfectly calibrated model, by chance (95 %)", first, then)


def _per_class(evaluation: Evaluation) -> Iterator[Sentence]:
    support = evaluation.confusion.sum(axis=1)
    largest = int(np.argmax(support))
    names = [row.name for row in evaluation.per_class]
    share = percent(float(support[largest] / evaluation.count))
    yield ("Majority-class baseline (“", Name(names[largest]), f"”): {share} accuracy.")
    present = [row for row in evaluation.per_class if row.support]
    weakest = min(present, key=lambda row: row.recall)
    if weakest.recall < 1 and len(present) > 1:
        images = pluralize(weakest.support, evaluation.counted)
        bounds = interval(weakest.recall_interval)
        yield ("Lowest recall: “", Name(weakest.name), f"”, {percent(weakest.recall)} of its {images} ({bounds}).")
    if pairs := confused(evaluation.confusion, 1):
        true, predicted, count = pairs[0]
        images = pluralize(count, evaluation.counted)
        yield ("Most frequent confusion: “", Name(names[true]), "” predicted as “", Name(names[predicted]),
               f"” ({images}).")  # fmt: skip


def _calibration(record: ClassificationRecord) -> Iterator[Sentence]:
    if record.calibrations is None:
        return
    before, after = record.calibrations
    calibration = record.metrics["calibration"]
    if not calibration["fitted_on"]:
        how = "the confidence is not calibrated"
    elif after.images < MIN_IMAGES:
        how = f"the temperature is {calibration['temperature']:.2f}"
    else:
        fitted_on = PARTS[calibration["fitted_on"]]
        how = (f"it was {100 * before.ece:.1f} points before temperature scaling (temperature "
               f"{calibration['temperature']:.2f}, fitted on the {fitted_on} {record.counted}s)")  # fmt: skip
    yield (f"Expected calibration error: {after.describe(record.counted)}; {how}.",)


def _under_tree(hierarchy: Hierarchy, counted: Counted) -> Iterator[Sentence]:
    """What a tree adds; how the confidence of its answers was chosen, if it was."""
    low, high = hierarchy.intervals["f1"]
    levels = "".join(f"; {percent(level.accuracy)} at level {level.level}" for level in hierarchy.levels)
    yield (f"Under the tree of classes, the hierarchical F1 is {hierarchy.f1:.3f} ({low:.3f} to {high:.3f}). Accuracy "
           f"above the classes{levels.replace(';', ':', 1)}.",)  # fmt: skip
    if text := hierarchy.describe_answers(counted):
        yield (f"{text} The confidence was chosen for {100 * TARGET_ACCURACY:.0f} % on the validation {counted}s.",)


def _threshold(record: ClassificationRecord) -> Iterator[Sentence]:
    if record.part != "test" or record.predictions is None or record.evaluations[record.part].hierarchy:
        return
    val, test = record.predictions.part("val"), record.predictions.part("test")
    if not len(val):
        return
    try:
        chosen = threshold_for(val, TARGET_ACCURACY)
    except UsageError:
        target = f"{100 * TARGET_ACCURACY:.0f} % accuracy"
        yield (f"No confidence threshold reaches {target} on the validation {record.counted}s.",)
        return
    selection = select(test, chosen.threshold)
    if 0 < selection.coverage < 1:
        yield (
            f"With a confidence threshold of {percent(chosen.threshold)} ({percent(chosen.accuracy)} accuracy on the "
            f"validation {record.counted}s), the model accepts {percent(selection.coverage)} of the test "
            f"{record.counted}s with "
            f"{percent(selection.accuracy)} accuracy ({interval(selection.accuracy_interval)}).",
        )  # fmt: skip
