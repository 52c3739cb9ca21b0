"""Add up gradients over the processes of a training.

Input: the gradients of each process for its part of a batch, weighted so that their sum is the gradient of the mean
over the whole batch. Output: that sum, on every process. All of them travel in one flat buffer after the backward pass,
with the few numbers that the processes must agree on, and a process without images takes part, too. Why this is not
`DistributedDataParallel`: docs/decisions/processes.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from regraft import distributed


class GradientSum:
    """Sums of the gradients of some parameters, and of a few values, in one operation; nothing in one process.

    The sums of the gradients are divided by `divisor`, where the loss was multiplied by it.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], *, divisor: int = 1) -> None:
        self.parameters, self.divisor = list(parameters), divisor

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Replace each gradient by its sum over the processes; returns the sums of `values`, float32 (k,).

        A parameter without a gradient on any process has none afterwards, so that its optimizer leaves it alone.
        """
        if not distributed.is_distributed():
            return values
        if not self.parameters:
            return distributed.all_reduce_sum(values)
        given = [float(parameter.grad is not None) for parameter in self.parameters]
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        parts = [values, torch.tensor(given, device=values.device), *(gradient.flatten() for gradient in gradients)]
        sums = distributed.all_reduce_sum(torch.cat(parts))
        own, present, *rest = torch.split(sums, [part.numel() for part in parts])
        torch._foreach_copy_(gradients, [part.view(old.shape) for part, old in zip(rest, gradients, strict=True)])
        if self.divisor > 1:
            torch._foreach_div_(gradients, self.divisor)
        if min(given) == 0:  # else the answer is known without waiting for the device
            for parameter, is_present in zip(self.parameters, present.tolist(), strict=True):
                parameter.grad = parameter.grad if is_present else None
        return own
