"""What a training reports while it runs, and its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch

    from regraft.training.refit import LinearWeights


@dataclass(frozen=True)
class Epoch:
    """One row of `history.csv`: scores are in 0..1, validation values None without validation images.

    Numbers have no accuracy and no F1, which are None; their loss is in squares of the standard deviation.
    """

    phase: str  # `head` or `finetune`
    epoch: int  # number within the phase, from 1
    train_loss: float  # mean over the images as they were trained on: augmented, smoothed, mixed
    train_accuracy: float | None  # on the same images
    val_loss: float | None
    val_accuracy: float | None
    val_macro_f1: float | None
    lr: float  # at the end of the epoch
    seconds: float  # duration of the training pass
    images_per_second: float
    kept: bool = False  # whether the final model has the weights of this epoch

    def to_row(self) -> dict[str, Any]:
        """Plain values by column name."""
        return asdict(self)


@dataclass(frozen=True)
class HeadFit:
    """One row of `head_path.csv`: the linear head fitted by L-BFGS at one L2 strength, with accuracy in 0..1."""

    l2: float
    train_loss: float  # mean without the penalty, as `val_loss`
    val_loss: float | None  # None without validation images
    val_accuracy: float | None  # None also of numbers
    seconds: float
    chosen: bool = False  # whether the head got these weights

    def to_row(self) -> dict[str, Any]:
        """Plain values by column name."""
        return asdict(self)


def known(score: float) -> float | None:
    """A score, or None for NaN: numbers have no accuracy."""
    return None if math.isnan(score) else score


@dataclass(frozen=True)
class HeadScore:
    """Loss per image at the best temperature, and accuracy, 0..1."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class HeadChoice:
    """Which head several backbones have, and why.

    `scores` are those of the head on all features (`joint`), of the averaged heads (`averaged`) and of each backbone's
    alone, by its name, on `images` images: the validation images, or the training images, predicted by heads that were
    fitted without them. Without scores nothing could be compared.
    """

    chosen: Literal["joint", "averaged"]
    by: Literal["validation", "cross-validation", "none"]
    images: int
    scores: Mapping[str, HeadScore]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> HeadChoice:
        """Read the values that `dataclasses.asdict` returned."""
        scores = {name: HeadScore(**score) for name, score in value["scores"].items()}
        return cls(value["chosen"], value["by"], value["images"], scores)

    def __str__(self) -> str:
        """One sentence for people."""
        if not self.scores:
            why = "there are too few validation images for a new head on features that have seen the training images"
            if self.chosen == "joint":
                return "One head reads all backbones; nothing could be compared."
            return f"The averaged heads of the backbones are taken: {why}."
        joint, averaged = (
            f"{self.scores[name].loss:.3f} (accuracy {100 * self.scores[name].accuracy:.1f} %)"
            for name in ("joint", "averaged")
        )
        taken = "One head on all features is" if self.chosen == "joint" else "The averaged heads of the backbones are"
        alone = ", ".join(
            f"{name} {100 * score.accuracy:.1f} %"
            for name, score in self.scores.items()
            if name not in ("joint", "averaged")
        )
        return (
            f"{taken} taken: loss {joint} with one head, {averaged} with averaged heads, by {self.by} on {self.images} "
            f"images. Alone: {alone}."
        )


@dataclass
class Training:
    """How a training went."""

    history: list[Epoch] = field(default_factory=list)
    head_path: list[HeadFit] = field(default_factory=list)  # in order; empty for a head trained in epochs
    head_choice: HeadChoice | None = None  # of several backbones
    seconds: dict[str, float] = field(default_factory=dict)  # by step: `decode`, `prefix`, `head`, `finetune`, `total`
    boundary: str = "head"  # name of the first stage that was fine-tuned, or `head`
    finetuned: bool = False  # whether the final model is the fine-tuned one
    val_logits: torch.Tensor | None = field(default=None, repr=False)  # float32 (N, C); None: no val, or stopped before
    #: The head that was fitted on training and validation images together; None: there is none, or it is not kept.
    refitted: LinearWeights | None = field(default=None, repr=False)
    #: Accuracy on the plain training images, 0..1; None if the task is regression, or the training stopped earlier.
    train_accuracy: float | None = None
    #: Numbers of some training images, int64 (K,), and what the head embeds of them, float32 (K, E); None: stopped.
    train_features: tuple[torch.Tensor, torch.Tensor] | None = field(default=None, repr=False)
    device: str = "cpu"
    precision: str = "float32"
    prefix_backend: Literal["torch", "openvino"] = "torch"
    interrupted: bool = False  # whether Ctrl-C ended the training early
    error: str | None = None  # message of the error that ended the training early
    notes: list[str] = field(default_factory=list)  # messages for the user, in whole sentences
    #: Seconds of this process in training steps, and of those in communication; empty without epochs.
    processes: dict[str, float] = field(default_factory=dict)
    #: How many images without labels there were, and what cross-validation said of them; empty without any.
    unlabeled: dict[str, Any] = field(default_factory=dict)
    #: Whether training images pass the frozen layers in 8 bits, and what was measured; empty if nothing was.
    int8: dict[str, Any] = field(default_factory=dict)
    cache_too_small: bool = False  # whether pixels and activations went to a temporary folder: the cache has no space


class ProgressReporter(Protocol):
    """Receives the progress of long work."""

    def on_progress(self, name: str, done: int, total: int, detail: str = "") -> None:
        """Report that `done` of `total` units of the step `name` are complete."""

    def on_head_path(self, path: Sequence[HeadFit]) -> None:
        """Report the fitted linear heads, from strong to weak penalties, once the best is chosen."""

    def on_epoch_end(self, row: Epoch) -> None:
        """Report a finished epoch."""

    def on_message(self, text: str) -> None:
        """Report something that the user should know, in whole sentences."""


class NullReporter:
    """A reporter that ignores everything."""

    def on_progress(self, name: str, done: int, total: int, detail: str = "") -> None:
        """Ignore it."""

    def on_head_path(self, path: Sequence[HeadFit]) -> None:
        """Ignore it."""

    def on_epoch_end(self, row: Epoch) -> None:
        """Ignore it."""

    def on_message(self, text: str) -> None:
        """Ignore it."""


class EpochCallback(Protocol):
    """An object that is called after each epoch of a training."""

    def on_epoch_end(self, epoch: int, metrics: Mapping[str, Any]) -> bool | None:
        """Return True to end the training after this epoch; `metrics` has the columns of `history.csv`."""


#: An object with `on_epoch_end`, or a function with its arguments.
Callback = EpochCallback | Callable[[int, Mapping[str, Any]], bool | None]


def wants_to_stop(callbacks: Sequence[Callback], row: Epoch) -> bool:
    """Call every callback with the epoch's number and metrics; whether one of them returned True."""
    answers = []
    for callback in callbacks:
        function: Any = getattr(callback, "on_epoch_end", callback)
        answers.append(function(row.epoch, row.to_row()))
    return any(answers)
