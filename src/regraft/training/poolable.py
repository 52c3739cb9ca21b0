"""Which trainings have no answer for a group of images: refused before the images are read, and when all is decided."""

from __future__ import annotations

from typing import NoReturn

from regraft.data.dataset import Split
from regraft.errors import UsageError


def check_poolable(pool_by: str, *, is_linear: bool, is_fitted: bool) -> None:
    """Raise `UsageError` for a head whose answer for a group is not that of the mean features, or not tested yet."""
    if not is_linear:
        _refuse(pool_by, "the head has hidden layers, dropout or attention (model.head, model.dropout, model.pooling)")
    if not is_fitted:
        _refuse(pool_by, "the head is trained in epochs (training.head_optimizer, or a loss function)")


def check_pooled(head: str, activation: str, split: Split, *, is_linear: bool) -> None:
    """Raise as `check_poolable`, and for an output or images of which groups get no answer.

    `head` is that of the phases, and `activation` the one of the output.
    """
    data = split.dataset
    check_poolable(data.pool_by, is_linear=is_linear, is_fitted=head != "epochs")
    if data.task == "classification" and activation != "softmax":
        _refuse(data.pool_by, f"the output is a {activation} (training.loss, training.output_activation)")
    if split.stored is not None or split.unlabeled is not None:
        _refuse(data.pool_by, "images without files or without labels have no groups (--from, data.unlabelled)")


def _refuse(pool_by: str, reason: str) -> NoReturn:
    raise UsageError(
        f"data.pool_by = {pool_by!r} gives a group the answer of its mean features, for which the head must be one "
        f"linear layer that is fitted (head_optimizer = lbfgs), and {reason}. Remove one of them."
    )
