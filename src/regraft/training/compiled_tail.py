"""The stages that are fine-tuned, compiled by `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from regraft.errors import TrainingError
from regraft.models.classifier import Classifier
from regraft.models.staged import StageOutput


def compiled_tail(model: Classifier) -> Callable[[StageOutput, int], torch.Tensor]:
    """Return `Classifier.forward_tail` of the model, compiled when it first runs.

    Raises `TrainingError`, then or now, if this machine cannot compile.
    """

    def failed(error: Exception) -> TrainingError:
        reason = " ".join(str(error).split("\n")[:2])
        return TrainingError(
            f"torch.compile cannot compile the fine-tuned stages ({reason}). Train with training.compile = false."
        )

    try:
        tail = torch.compile(model.forward_tail)
    except RuntimeError as error:  # this Python is newer than the compiler
        raise failed(error) from error

    def run(hidden: StageOutput, boundary: int) -> torch.Tensor:
        try:
            return tail(hidden, boundary)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise failed(error) from error

    return run
