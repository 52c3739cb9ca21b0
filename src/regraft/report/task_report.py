"""What the report of a run says in its task's own way: one value for each task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from regraft.report.record import RunRecord

Sentence = tuple[str, ...]
#: Names of columns, and rows of as many texts.
Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
R = TypeVar("R", bound=RunRecord)


@dataclass(frozen=True, kw_only=True)
class DocumentView:
    """What documents about a run, such as its model card, say in its task's own way.

    Attributes:
        kind: What the model is, in a few words.
        pipeline: Name of the task on the Hugging Face Hub.
        answers: What it answers for an image.
        always_answers: That it has an answer for any image, in a sentence; "" if it may have none.
        labels: What each image of the data has, after a comma.
        decides: How the answer follows from the outputs, in a sentence.
        metrics: Type, name and value of the most important metrics, for the front matter of a model card.
        scores: Name, value and 95 % interval of each metric; empty where it was not evaluated.
        about_scores: What the metrics are, and where the intervals are from, in sentences.
        classes: A row of metrics for each class; without rows if there are no classes.
        more_classes: What the classes are that a document leaves out, after their number.
        calibration: How probabilities or intervals were calibrated, in a sentence, with a table; () if they were not.
        limitations: Sentences beyond those of all tasks.
        printed: Python code for the answer of a `prediction`.
        rejects: Whether predictions below a confidence can be rejected.
    """

    kind: Sentence
    pipeline: str = "image-classification"
    answers: Sentence
    always_answers: str = ""
    labels: str
    decides: str
    metrics: Sequence[tuple[str, str, float]]
    scores: Sequence[tuple[str, str, str]]
    about_scores: str
    classes: Table = ((), [])
    more_classes: str = ""
    calibration: tuple[str, Table] | tuple[()] = ()
    limitations: Sequence[str] = ()
    printed: str
    rejects: bool = False


@dataclass(frozen=True)
class TaskReport(Generic[R]):
    """The parts of a report that depend on the task; the functions take the record of a run of this task.

    Attributes:
        page: Template of the page: `run.html.jinja`, or one that extends it.
        sections: Titles of the page's sections after the training curves, by the template's blocks.
        numbers: The most important numbers, each with its name.
        train_accuracy: What the accuracy of the training images and of the epochs is; "" if there is none.
        quality: Sentences that say how good the model is.
        confidence: Sentences about its probabilities.
        objection: Why what it says about single images is not to be believed; () if it is.
        suspect_columns: Header of `label_errors.csv`.
        suspect_row: The cells of a likely label error in it.
        details: Values for the display of a run in a notebook.
        page_view: Values that the page's template needs besides those of all tasks.
        document: What documents say.
    """

    page: str
    sections: Callable[[R], Mapping[str, str]]
    numbers: Callable[[R], list[tuple[str, str]]]
    train_accuracy: str
    quality: Callable[[R], Iterable[Sentence]]
    confidence: Callable[[R], Iterable[Sentence]]
    objection: Callable[[R], Sentence]
    suspect_columns: tuple[str, ...]
    suspect_row: Callable[[Any], tuple[Any, ...]]
    details: Callable[[R], Mapping[str, Any]]
    page_view: Callable[[R], Mapping[str, Any]]
    document: Callable[[R], DocumentView]
