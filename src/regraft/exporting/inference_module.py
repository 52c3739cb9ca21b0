"""The network that is exported: from pixels to calibrated probabilities, in one graph."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from regraft.models.classifier import Classifier


class InferenceModule(nn.Module):
    """A copy of a model with normalization, backbone, head, softmax and temperature, on the CPU, without gradients.

    `conversions` holds intermediate graphs by name, which several formats begin with.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        # Not channels-last, which PyTorch's CPU kernels like but which adds transpositions to the exported graph.
        self.model = copy.deepcopy(model).cpu().eval().requires_grad_(False).to(memory_format=torch.contiguous_format)
        self.eval()
        for layer in self.model.modules():
            if hasattr(layer, "inplace"):  # converters take such operations apart, which is slow
                layer.inplace = False  # type: ignore[assignment]
        self.conversions: dict[str, Any] = {}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map RGB images, uint8 (N, S, S, 3), to probabilities, float32 (N, classes)."""
        logits: torch.Tensor = self.model(images.permute(0, 3, 1, 2))
        head = self.model.head
        if head.activation == "softmax":
            return (logits / head.temperature).softmax(dim=1)
        # Normalized powers of sigmoids, which are a softmax of their logarithms: log sigmoid(x) = -softplus(-x).
        return (-functional.softplus(-logits) / head.temperature).softmax(dim=1)

    def example_input(self) -> torch.Tensor:
        """Return two black images."""
        size = self.model.preprocessing.size
        return torch.zeros(2, size, size, 3, dtype=torch.uint8)

    def exported_program(self) -> torch.export.ExportedProgram:
        """Return the graph for any number of images, without stack traces, which name files of this machine."""
        if "program" not in self.conversions:
            batch = torch.export.Dim("batch", min=1, max=4096)
            program = torch.export.export(self, (self.example_input(),), dynamic_shapes={"images": {0: batch}})
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)
            self.conversions["program"] = program
        return self.conversions["program"]  # type: ignore[no-any-return]
