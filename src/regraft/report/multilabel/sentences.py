"""What the numbers of a run say whose model gives an image any number of classes, in sentences.

Input: its record. Output: sentences as tuples of plain text and `Name`s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from regraft.evaluation.multilabel.metrics import MultilabelEvaluation
from regraft.evaluation.multilabel.thresholds import wanted_precision
from regraft.report.html import Name, interval, percent
from regraft.report.multilabel.record import MultilabelRecord
from regraft.report.record import WITHHELD
from regraft.report.sentences import PARTS
from regraft.report.task_report import Sentence
from regraft.text import pluralize


def quality(record: MultilabelRecord) -> Iterator[Sentence]:
    """Yield the sentences that say how good the model is."""
    if record.part is None:
        return
    evaluation, part = record.evaluations[record.part], PARTS[record.part]
    low, high = evaluation.intervals["mean_average_precision"]
    low_f1, high_f1 = evaluation.intervals["macro_f1"]
    of_tested = ""
    if evaluation.untested:
        of_tested = f" over the {len(evaluation.tested)} of {len(evaluation.per_class)} classes that were tested"
    yield (
        f"On {pluralize(evaluation.count, f'{part} {record.counted}')}: mean average precision "
        f"{evaluation.mean_average_precision:.3f} (95 % confidence interval {low:.3f} to {high:.3f}), macro-F1 "
        f"{evaluation.macro_f1:.3f} ({low_f1:.3f} to {high_f1:.3f}), micro-F1 {evaluation.micro_f1:.3f}{of_tested}.",
    )
    yield (
        f"For {percent(evaluation.exact_match)} of the {record.counted}s ({interval(evaluation.exact_match_interval)}) "
        f"the answers for all classes are right; {percent(evaluation.hamming_loss)} of all answers are wrong.",
    )
    if record.at_chance:
        yield (f"{record.at_chance} {WITHHELD}",)
    yield from _weakest(evaluation)


def confidence(record: MultilabelRecord) -> Iterator[Sentence]:
    """Yield the sentences about thresholds and calibration."""
    if record.part is None:
        return
    evaluation, calibration = record.evaluations[record.part], record.metrics.get("calibration") or {}
    yield from thresholds(evaluation, calibration, record.part)
    if record.calibrations is None:
        return
    before, after = record.calibrations
    how = "the probabilities are not calibrated"
    if fitted_on := record.metrics["calibration"]["fitted_on"]:
        how = (f"it was {100 * before.ece:.1f} points before each class was calibrated on the {PARTS[fitted_on]} "
               f"{record.counted}s")  # fmt: skip
    yield (f"Expected calibration error, mean over the classes: {after.describe(record.counted)}; {how}.",)


def thresholds(evaluation: MultilabelEvaluation, calibration: Mapping[str, Any], part: str) -> Iterator[Sentence]:
    """Yield what the thresholds were chosen for, and what they achieve on a part.

    `calibration` is that of `metrics.json`.
    """
    counted = evaluation.counted
    if not calibration.get("fitted_on"):
        yield (f"There are no validation {counted}s to choose thresholds on: a class is said from a probability of "
               "50 % on.",)  # fmt: skip
        return
    precision = wanted_precision(calibration.get("thresholds_for", "f1"))
    achieved = (
        f"on the {PARTS[part]} {counted}s {percent(evaluation.micro_precision)} of the answers are right, and "
        f"{percent(evaluation.micro_recall)} of the {counted}s' classes are found"
    )
    if precision is None:
        yield (f"Each class's threshold is that with its highest F1 on the validation {counted}s: {achieved}.",)
        return
    never = [row.name for row in evaluation.per_class if row.threshold > 1]
    said = [row for row in evaluation.tested if row.threshold <= 1]
    # Not reached: the interval of the precision is below the wanted one.
    missed = [row.name for row in said if row.precision_interval[1] < precision]
    yield (
        f"Each class's threshold is the lowest from which on {100 * precision:g} % of its answers are right on the "
        f"validation {counted}s: {achieved}.",
    )
    if missed:
        yield (f"On the {PARTS[part]} {counted}s the precision is clearly below that for ", *_names(missed), ".")
    if never:
        yield ("No threshold has this precision, so the model never says ", *_names(never), ".")


def _weakest(evaluation: MultilabelEvaluation) -> Iterator[Sentence]:
    tested = evaluation.tested
    if len(tested) < 2:
        return
    weakest = min(tested, key=lambda row: row.average_precision)
    low, high = weakest.average_precision_interval
    yield (
        "Lowest average precision: “", Name(weakest.name),
        f"”, {weakest.average_precision:.3f} ({low:.3f} to {high:.3f}) with "
        f"{pluralize(weakest.support, evaluation.counted)}; a random order has about "
        f"{weakest.support / evaluation.count:.3f}.",
    )  # fmt: skip


def _names(names: list[str], shown: int = 5) -> Iterator[str]:
    for number, name in enumerate(names[:shown]):
        yield from ("“" if number == 0 else "”, “", Name(name))
    yield f"” and {len(names) - shown:,} more" if len(names) > shown else "”"
