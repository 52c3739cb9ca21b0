"""PyTorch's exported program, which PyTorch runs without timm and regraft."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from regraft.exporting.formats.base import ExportJob, Format, Runtime, ScriptParts
from regraft.silence import quiet


class ExportedProgramFormat(Format):
    """A `torch.export` archive (`.pt2`)."""

    name = "exported-program"
    files = ("model.pt2",)
    runs_code = True
    script = ScriptParts(
        requirements="PyTorch, NumPy and Pillow",
        imports="import torch",
        load='model = torch.export.load(here / "model.pt2").module()',
        predict="model(torch.tensor(np.asarray(image)[None]))[0].detach().numpy()",
    )

    def write(self, folder: Path, job: ExportJob) -> None:
        """Write one archive of graph and tensors."""
        import torch

        with quiet():
            program = job.module.exported_program()
            program._example_inputs = None  # PyTorch would pickle them
            content = io.BytesIO()  # PyTorch's writer of files ends the process when the disk is full
            torch.export.save(program, content, extra_files=dict(job.metadata))
        (folder / self.files[0]).write_bytes(content.getvalue())

    def _load(self, folder: Path, threads: int) -> Runtime:
        import torch

        model = torch.export.load(folder / self.files[0]).module()

        def predict(images: np.ndarray) -> Any:
            with torch.inference_mode():
                return model(torch.from_numpy(images)).numpy()

        return Runtime(predict)
