"""What the report of a run says in its task's own way: one value for each task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from regraft.report.record import RunRecord

Sentence = tuple[str, ...]
R = TypeVar("R", bound=RunRecord)


@dataclass(frozen=True)
class TaskReport(Generic[R]):
    """The parts of a report that depend on the task; the functions take the record of a run of this task.

    Attributes:
        page: Template of the page: `run.html.jinja`, or one that extends it.
        card: Template of the model card: `model_card.md.jinja`, or one that extends it.
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
        card_view: The same for the card's; `metrics` are type, name and value of its front matter, and `limitations`
            sentences.
    """

    page: str
    card: str
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
    card_view: Callable[[R], Mapping[str, Any]]
