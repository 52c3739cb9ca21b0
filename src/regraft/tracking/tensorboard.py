"""TensorBoard: event files in the run's own folder, so that a look at `runs` shows all runs side by side.

Enters: scalars and pictures. Leaves: `tracking/tensorboard/events.out.tfevents.*`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from regraft.tracking.tracker import Status, require


class TensorBoard:
    """Writes event files."""

    title = "TensorBoard"

    def __init__(self) -> None:
        """Import what writes.

        Raises:
            MissingExtraError: tensorboard is not installed.
        """
        require("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer_of, self._settings = SummaryWriter, dict[str, Any]()

    def start(self, settings: Mapping[str, Any], folder: Path, known: dict[str, Any]) -> str:
        """See `Tracker.start`."""
        self._settings = dict(settings)
        self._writer = self._writer_of(str(folder / "tracking" / "tensorboard"))
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
        # Last, because it writes a file of its own. "." puts it into the same folder, which makes it the same run.
        self._writer.add_hparams(self._settings, dict(scalars), run_name=".")
        self._writer.close()
