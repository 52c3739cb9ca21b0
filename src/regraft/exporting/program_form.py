"""PyTorch's exported program, run by PyTorch without timm and regraft."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.errors import ExportError
from regraft.exporting.checks import check_program
from regraft.exporting.form import EightBits, Format, Metadata, Runtime, first_line, quiet

if TYPE_CHECKING:
    from regraft.exporting.network import DeployedNetwork, Precision


class Program(Format):
    """PyTorch's exported program, run by PyTorch without timm and regraft."""

    name = "exported-program"
    runs_code = True
    files = ("model.pt2",)
    precisions = ("fp32",)
    needs = "PyTorch, NumPy and Pillow"
    script = (
        "import torch",
        'model = torch.export.load(here / "model.pt2").module()',
        "model(torch.tensor(np.asarray(image)[None]))[0].detach().numpy()",
    )

    def write(
        self, network: DeployedNetwork, folder: Path, precision: Precision, metadata: Metadata,
        eight_bits: EightBits | None = None,
    ) -> None:  # fmt: skip
        """A zip archive of a graph and of tensors."""
        import torch

        with quiet():
            program = network.exported()
            program._example_inputs = None  # they would be pickled
            torch.export.save(program, folder / self.files[0], extra_files=dict(metadata))

    def open(self, folder: Path, threads: int = 0) -> Runtime:
        """By PyTorch; threads are those of the process."""
        import torch

        file = folder / self.files[0]
        check_program(file)
        try:
            with quiet():
                return _ProgramRuntime(torch.export.load(file).module())
        except Exception as error:  # whatever a damaged archive leads to
            raise ExportError(f"{file} cannot be loaded: {first_line(error)}") from error


class _ProgramRuntime(Runtime):
    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, images: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return np.asarray(self.module(torch.from_numpy(np.ascontiguousarray(images))).numpy(), np.float32)
