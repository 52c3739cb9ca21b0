"""Divide weights, gradients and optimizer state of the fine-tuned stages among the processes: PyTorch's FSDP2.

Input: a `Classifier` that every process has whole. Output: a copy of its upper stages and head, of which each process
has a part; a stage is put together while it runs. Training steps run on the copy, and `publish` writes its weights back
into the model, from which everything else reads. So a process needs the weights once, and of what training adds to them
(gradients, moments, averages, a second copy) only its part.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from regraft import distributed
from regraft.models.classifier import Classifier
from regraft.models.staged import StageOutput


class ShardedTail(nn.Module):
    """The stages from the freeze boundary on; all processes call it, and the copy's head, equally often.

    Attributes:
        classifier: The copy, whose parameters are divided, except those outside of modules: their gradients are those
            of this process's images, and no mean.
    """

    classifier: Classifier
    _model: Classifier

    def __init__(self, model: Classifier) -> None:
        """Copy the stages that `model` trains."""
        super().__init__()
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        device = model.mean.device
        copy = Classifier.from_config(model.get_config(), model.weights)
        copy.load_state_dict(model.state_dict())
        for stage in copy.stages[: copy.boundary]:  # they run in the model
            for parameter in stage.parameters():
                parameter.data = parameter.new_empty(0)
        copy.to(device).to(memory_format=torch.contiguous_format)  # FSDP divides no other
        self.parts = nn.ModuleList(module for stage in copy.stages[copy.boundary :] for _, module in stage.modules)
        # Not as children, or the frozen stages would be divided, too.
        object.__setattr__(self, "classifier", copy)
        object.__setattr__(self, "_model", model)
        mesh = init_device_mesh(device.type, (distributed.world_size(),))
        for part in (*self.parts, copy.head):
            if any(True for _ in part.parameters()):
                fully_shard(part, mesh=mesh)
        fully_shard(self, mesh=mesh)

    def forward(self, inputs: StageOutput, boundary: int) -> torch.Tensor:
        """Features (N, F); the backward pass gives the mean of the processes' gradients."""
        return self.classifier.forward_tail(inputs, boundary)

    @torch.no_grad()
    def publish(self) -> None:
        """Write the weights of the copy into the model, in every process."""
        copied = dict(self.classifier.named_parameters())
        for name, parameter in self._model.trainable_parameters():
            parameter.copy_(whole(copied[name]))


def is_divided(tensor: torch.Tensor) -> bool:
    """Whether each process has only a part of a tensor."""
    return hasattr(tensor, "full_tensor")  # a DTensor, which takes long to import


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that may be divided; every process must ask for it."""
    divided: Any = tensor
    return divided.full_tensor() if is_divided(tensor) else tensor


def divided_like(tensor: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
    """A tensor, divided among the processes if the example is."""
    if not is_divided(example):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    pattern: Any = example
    return distribute_tensor(tensor.to(example.device), pattern.device_mesh, pattern.placements)
