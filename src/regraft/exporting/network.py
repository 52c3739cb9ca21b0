"""The network that is exported: from the pixels of an image file to calibrated probabilities, in one graph.

Enters: a `Classifier`. Leaves: a module from uint8 (N, S, S, 3) to float32 (N, classes).
"""

from __future__ import annotations

import copy
from typing import Any, Literal, get_args

import torch
from torch import nn

from regraft.models.classifier import Classifier

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
#: Name of the graph's input in every format; that of the output is "probabilities".
INPUT = "images"


class DeployedNetwork(nn.Module):
    """Normalisation, backbone, head, softmax and temperature: whoever runs it can get none of them wrong."""

    def __init__(self, model: Classifier) -> None:
        """Copy the model, for inference on the CPU."""
        super().__init__()
        # Formats have one order of axes; what is fast on a CPU with PyTorch only puts transpositions into the graph.
        self.model = copy.deepcopy(model).cpu().eval().requires_grad_(False).to(memory_format=torch.contiguous_format)
        self.eval()
        #: What formats made of it on the way, by name, for others that begin with the same.
        self.made: dict[str, Any] = {}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images, uint8 (N, S, S, 3), RGB, to probabilities, float32 (N, classes)."""
        logits: torch.Tensor = self.model(images.permute(0, 3, 1, 2))
        head = self.model.head
        if head.activation == "softmax":
            return (logits / head.temperature).softmax(dim=1)
        scores = logits.sigmoid() ** (1 / head.temperature)
        return scores / scores.sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)

    def example(self) -> torch.Tensor:
        """Two black images."""
        side = self.model.preprocessing.size
        return torch.zeros(2, side, side, 3, dtype=torch.uint8)

    def exported(self) -> torch.export.ExportedProgram:
        """Its graph, for any number of images, without what tells of this machine."""
        if "program" not in self.made:
            batch = torch.export.Dim("batch", min=1, max=4096)
            program = torch.export.export(self, (self.example(),), dynamic_shapes={INPUT: {0: batch}})
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)
            self.made["program"] = program
        return self.made["program"]  # type: ignore[no-any-return]
