"""The network that is exported: from pixels to calibrated probabilities, or to a number, in one graph."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from regraft.attribution.cam import maps_of_stage
from regraft.attribution.evidence import evidence_weights
from regraft.models.classifier import Classifier
from regraft.models.cumulative import CumulativeLayer


class InferenceModule(nn.Module):
    """A copy of a model with normalization, backbone, head, softmax and temperature, on the CPU, without gradients.

    `conversions` holds intermediate graphs by name, which several formats begin with. `with_maps` the module also
    returns the logits, and the evidence for each class at each position of the stage with the index `stage`.
    """

    def __init__(self, model: Classifier, *, with_maps: bool = False) -> None:
        """Copy the model; raises UsageError if it has no maps as `evidence_weights` says."""
        super().__init__()
        # Not channels-last, which PyTorch's CPU kernels like but which adds transpositions to the exported graph.
        self.model = copy.deepcopy(model).cpu().eval().requires_grad_(False).to(memory_format=torch.contiguous_format)
        if isinstance(last := self.model.head.classifier, CumulativeLayer):
            self.model.head.classifier = last.constant()  # type: ignore[assignment]
        self.eval()
        for layer in self.model.modules():
            if hasattr(layer, "inplace"):  # converters take such operations apart, which is slow
                layer.inplace = False  # type: ignore[assignment]
        self.conversions: dict[str, Any] = {}
        self.stage: int | None = None
        if with_maps:
            self.stage, weights = evidence_weights(self.model)
            self.register_buffer("evidence_weights", weights[..., None, None], persistent=False)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what `forward` returns."""
        return ("probabilities",) if self.stage is None else ("probabilities", "logits", "evidence")

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Map images, uint8 (N, S, S, C), to probabilities, float32 (N, classes); or to numbers, float32 (N, 1).

        With maps also to logits, float32 (N, classes), and evidence, float32 (N, classes, H, W).
        """
        pixels = images.permute(0, 3, 1, 2)
        if self.stage is None:
            return self._probabilities(self.model(pixels))
        below = self.model.activations(pixels, self.stage + 1)
        logits = self.model.forward_from(below, self.stage + 1)
        maps = maps_of_stage(self.model, self.stage)(below.values)
        return self._probabilities(logits), logits, functional.conv2d(maps, self.get_buffer("evidence_weights"))

    def _probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        head = self.model.head
        if head.task == "regression":
            center, scale = head.units or (0.0, 1.0)
            return logits if (center, scale) == (0.0, 1.0) else logits * scale + center
        if head.task == "multilabel":
            return logits.sigmoid()
        if head.activation == "softmax":
            return (logits / head.temperature).softmax(dim=1)
        # Normalized powers of sigmoids, which are a softmax of their logarithms: log sigmoid(x) = -softplus(-x).
        return (-functional.softplus(-logits) / head.temperature).softmax(dim=1)

    def example_input(self) -> torch.Tensor:
        """Return two black images."""
        return torch.zeros(2, *self.model.preprocessing.pixel_shape, dtype=torch.uint8)

    def exported_program(self) -> torch.export.ExportedProgram:
        """Return the graph for any number of images, without stack traces, which name files of this machine."""
        if "program" not in self.conversions:
            batch = torch.export.Dim("batch", min=1, max=4096)
            program = torch.export.export(self, (self.example_input(),), dynamic_shapes={"images": {0: batch}})
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)
            self.conversions["program"] = program
        return self.conversions["program"]  # type: ignore[no-any-return]
