"""Attribution methods by name, and what they suit; without torch, so that a command lists them fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from regraft.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from regraft.data.labels import Task

Method = Literal["gradcam", "gradcam++", "hirescam", "layercam", "eigencam", "scorecam", "integrated-gradients"]
#: What a map of a number explains, in the order of its targets: why it is not lower, and why it is not higher.
DIRECTIONS = ("higher", "lower")
METHODS: tuple[Method, ...] = get_args(Method)


def check_method(method: Method, task: Task) -> None:
    """Raise `UnknownNameError` for no method, and `UsageError` for one that says nothing about a model of the task."""
    if method not in METHODS:
        raise UnknownNameError("method", method, list(METHODS))
    if method == "eigencam" and task == "regression":
        others = ", ".join(name for name in METHODS if name != method)
        raise UsageError(
            "method eigencam does not depend on what the model says, so it cannot tell what raises a number from what "
            f"lowers it. Expected {others}."
        )
