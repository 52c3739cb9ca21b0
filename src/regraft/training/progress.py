"""What training tells while it works, and the rows that it leaves."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Epoch:
    """One row of `history.csv`.

    Attributes:
        phase: `head` or `finetune`.
        epoch: From 1 within the phase; of a solved head, the place on its path of strengths.
        train_loss: Mean over the training images as they were seen (augmented, smoothed, mixed).
        train_accuracy: Likewise, 0..1.
        val_loss: On the plain validation images; None without any.
        val_accuracy: Likewise, 0..1.
        val_macro_f1: Likewise, 0..1.
        lr: Learning rate at the end of the epoch; of a solved head, None.
        strength: Of the solved head's penalty; else None.
        seconds: That the epoch took.
        images_per_second: Training images.
        kept: Whether the model that training hands on is the one of this row.
    """

    phase: str
    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    val_macro_f1: float | None
    lr: float | None
    strength: float | None
    seconds: float
    images_per_second: float
    kept: bool = False

    def to_row(self) -> dict[str, Any]:
        """Plain values by column name."""
        return asdict(self)


class Listener(Protocol):
    """Whoever wants to know how far the work is."""

    def work(self, name: str, done: int, total: int, detail: str = "") -> None:
        """`done` of `total` units of the work called `name` are done."""

    def epoch(self, row: Epoch) -> None:
        """An epoch is over."""

    def note(self, text: str) -> None:
        """Something that a person should know, in a sentence."""


class Silence:
    """A listener that says nothing."""

    def work(self, name: str, done: int, total: int, detail: str = "") -> None:
        """Say nothing."""

    def epoch(self, row: Epoch) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""
