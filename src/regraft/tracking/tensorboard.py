"""TensorBoard: event files `tracking/tensorboard/events.out.tfevents.*` in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from regraft.tracking.tracker import Status, require


class TensorBoard:
    """Write event files; a thread of TensorBoard's own does the writing."""

    title = "TensorBoard"

    def __init__(self) -> None:
        """Import the writer, or raise `MissingExtraError`."""
        require("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer_class, self._settings = SummaryWriter, dict[str, Any]()

    def start(self, settings: Mapping[str, Any], folder: Path, known: dict[str, Any]) -> str:
        """See `Tracker.start`."""
        self._settings = dict(settings)
        self._writer = self._writer_class(str(folder / "tracking" / "tensorboard"))
        if not known:
            table = "".join(f"    {name} = {value}\n" for name, value in settings.items())
            self._writer.add_text("settings", table)
            known["begun"] = True
        return f"tensorboard --logdir {folder.parent}"

    def epoch(self, phase: str, epoch: int, scalars: Mapping[str, float]) -> None:
        """See `Tracker.epoch`."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def finish(self, status: Status, scalars: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        """See `Tracker.finish`."""
        self._writer.add_text("status", status)
        for name, file in pictures.items():
            with Image.open(file) as image:
                self._writer.add_image(name, np.array(image.convert("RGB")), dataformats="HWC")
        self._writer.flush()
        # Last, because it writes a file of its own; run_name="." puts that into the same folder, and so the same run.
        self._writer.add_hparams(self._settings, dict(scalars), run_name=".")
        self._writer.close()
