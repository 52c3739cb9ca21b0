"""Which loss, output and metric of the best epoch a task has: the defaults, and what has no meaning for it.

It is asked before the images are read, and does not import PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from regraft.data.labels import Task
from regraft.errors import UnknownNameError, UsageError
from regraft.training.options import Loss, Monitor, TrainingOptions

if TYPE_CHECKING:
    from regraft.models.head import Activation

_INDICES = "A class is given by its name, or by its index from 0 in the order of the classes."

#: The losses of each task; the first is the default.
_LOSSES: dict[Task, tuple[Loss, ...]] = {
    "classification": ("cross_entropy", "binary_cross_entropy"),
    "multilabel": ("binary_cross_entropy", "asymmetric"),
    "regression": ("squared_error", "huber", "absolute_error"),
}

#: What chooses the best epoch of each task by default. Of several labels, the share of right answers hardly moves where
#: labels are rare: a model that always says no has a high one.
_MONITOR_OF: dict[Task, Monitor] = {
    "classification": "val_accuracy",
    "multilabel": "val_loss",
    "regression": "val_loss",
}


def loss_of(options: TrainingOptions, task: Task) -> Loss:
    """The loss by name; raise `UsageError` if it is none of this task."""
    if options.loss == "auto":
        return _LOSSES[task][0]
    if options.loss not in _LOSSES[task]:
        raise UsageError(
            f"training.loss = {options.loss} is no loss of the task {task}. Expected {' or '.join(_LOSSES[task])}."
        )
    return options.loss


def monitor_of(options: TrainingOptions, task: Task) -> Monitor:
    """The metric of the best epoch; numbers have neither accuracy nor F1, so theirs is always the loss."""
    return _MONITOR_OF[task] if options.monitor == "auto" or task == "regression" else options.monitor


def output_activation(options: TrainingOptions, task: Task) -> Activation:
    """The activation of the last layer; raise `UsageError` if the loss has no meaning over it."""
    loss = loss_of(options, task)
    if task == "multilabel" and options.output_activation == "softmax":
        raise UsageError(
            "training.output_activation = softmax gives an image one class, and the task is multilabel. Expected "
            "sigmoid."
        )
    if task == "regression":
        if options.output_activation != "auto":
            raise UsageError(
                f"training.output_activation = {options.output_activation} gives probabilities, and the task is "
                "regression. Leave it out: the output is the number."
            )
        return "linear"
    if options.output_activation == "auto":
        return "softmax" if loss == "cross_entropy" else "sigmoid"
    if options.output_activation == "sigmoid" and loss == "cross_entropy":
        raise UsageError(
            "training.output_activation = sigmoid with training.loss = cross_entropy, which needs probabilities that "
            "add up to 1. Set loss = binary_cross_entropy, or output_activation = softmax."
        )
    return options.output_activation


def check_order(options: TrainingOptions, ordered: bool) -> None:
    """Raise `UsageError` for a monitor of classes with an order where there is none, or a loss that ignores one."""
    if options.monitor == "val_quadratic_kappa" and not ordered:
        raise UsageError(
            "training.monitor = val_quadratic_kappa is for classes that have an order (data.task = ordinal), and these "
            "have none. Expected val_loss, val_accuracy or val_macro_f1."
        )
    if ordered and output_activation(options, "classification") != "softmax":
        raise UsageError(
            f"training.loss = {options.loss} judges each class by itself, and with task = ordinal the classes have an "
            "order. Leave it out, or use cross_entropy, which is then the likelihood of cumulative logits."
        )


def given_weights(option: Mapping[str, float], classes: Sequence[str]) -> dict[str, float]:
    """Weights by the names of classes, from names and indices; a class that is called like an index is meant.

    Raises `UsageError` for a name that is neither a class nor the index of one.
    """
    by_index = {str(index): name for index, name in enumerate(classes) if str(index) not in classes}
    for name in option:
        if name not in classes and name not in by_index:
            raise UnknownNameError("class in training.class_weights", name, classes, _INDICES)
    return {by_index.get(name, name): weight for name, weight in option.items()}
