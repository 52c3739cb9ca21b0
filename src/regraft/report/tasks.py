"""The reports of all tasks, and what each task says of a run in a few sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from regraft.data.labels import Task
from regraft.data.samples import PARTS
from regraft.report import classification
from regraft.report.distillation import describe_lesson, describe_result
from regraft.report.earlier_run import describe_earlier
from regraft.report.multilabel import report as multilabel
from regraft.report.record import RANDOM_WEIGHTS, RunRecord
from regraft.report.regression import report as regression
from regraft.report.task_report import Sentence, TaskReport
from regraft.text import pluralize

REPORTS: Mapping[Task, TaskReport[Any]] = {
    "classification": classification.REPORT,
    "multilabel": multilabel.REPORT,
    "regression": regression.REPORT,
}


def count_answers(metrics: Mapping[str, Any], part: str) -> str:
    """How many answers of a part the metrics are of: `60 images`, or groups where each of these has one."""
    return pluralize(metrics[part]["count"], "group" if "groups" in metrics else "image")


def describe_groups(metrics: Mapping[str, Any]) -> str:
    """What has one answer, if that is a group of pictures, in sentences; "" where each image has one."""
    if not (groups := metrics.get("groups")):
        return ""
    counts = ", ".join(f"{groups[part]['text']} ({part})" for part in PARTS if part in groups)
    return (
        f"Each answer is for several pictures of one thing ({groups['by']}), from their mean features: {counts}. "
        "Metrics, calibration and predictions count groups; tables of the data count pictures."
    )


def summary(record: RunRecord) -> list[Sentence]:
    """Return the sentences that say how good the model is, and what limits this statement."""
    report = REPORTS[record.task]
    sentences: list[Sentence] = [(RANDOM_WEIGHTS,)] if record.has_random_weights else []
    sentences += [(text,) for text in record.missing]
    if text := describe_groups(record.metrics):
        sentences.append((text,))
    sentences += report.quality(record)
    if distillation := record.metrics.get("distillation"):
        sentences += [(text,) for text in (describe_lesson(distillation), *describe_result(distillation))]
    if earlier := record.metrics.get("earlier_run"):
        sentences += [(text,) for text in describe_earlier(earlier)]
    sentences += report.confidence(record)
    sentences += [(str(note),) for note in (record.metrics.get("training") or {}).get("notes", ())]
    if record.suspects:
        count, what = len({suspect.path for suspect in record.suspects}), f"validation or test {record.counted}"
        text = pluralize(count, f"{what} has", f"{what}s have")
        sentences.append((f"{text} a label that may be wrong.",))
    return sentences
