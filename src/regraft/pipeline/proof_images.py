"""The images that an export is proved on, and those that int8 is calibrated on.

Enters: a run whose images can still be read. Leaves: their pixels, from the files' bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regraft.errors import DataError, ImageError, UsageError
from regraft.exporting.form import EightBits
from regraft.exporting.network import DeployedNetwork
from regraft.exporting.sensitivity import sensitive_layers
from regraft.pipeline.images import SourceOf, images_of, split_rows
from regraft.pipeline.run import Run
from regraft.training.progress import Listener

#: Images that the answers are compared on: at most, and at least whatever their size; bytes of their pixels, at most.
_COMPARED, _LEAST, _PIXELS = 2000, 32, 2**30
#: Images that int8 is calibrated on, and those of them by which layers are judged, at most.
_CALIBRATION, _JUDGED = 200, 32


@dataclass(frozen=True)
class ProofImages:
    """Labelled images of a run that it was not trained on.

    Attributes:
        part: val, or test of a run without.
        names: Of N images.
        labels: int64 (N,).
        pixels: uint8 (N, S, S, 3).
        source: Reads one of their files.
    """

    part: str
    names: tuple[str, ...]
    labels: np.ndarray
    pixels: np.ndarray
    source: SourceOf


def validation_images(run: Run, data: Path | str | None) -> ProofImages:
    """The run's validation images (its test images where there are none) from their files."""
    source = images_of(run, data)
    if source is None:
        raise UsageError(
            f"{run.path} does not say where its images are now, and an export is proved on them. Expected --data, or "
            "data= in Python."
        )
    known, preprocessing = run.predictions, run.classifier.preprocessing
    name = "val" if "val" in known.parts else "test"
    part = known.part(name)
    if not len(part):
        raise UsageError(f"{run.path} has no validation and no test images, and an export is proved on them.")
    most = max(_LEAST, min(_COMPARED, _PIXELS // (3 * preprocessing.size**2)))
    chosen = spread(len(part), most)
    pixels = np.empty((len(chosen), preprocessing.size, preprocessing.size, 3), np.uint8)
    for row, i in enumerate(chosen):
        pixels[row] = _prepared(run, source, part.ids[i])
    return ProofImages(name, tuple(part.ids[i] for i in chosen), part.labels[chosen], pixels, source)


class Calibration:
    """Images for int8, and which layers to leave in float when all of them are too many."""

    def __init__(self, run: Run, network: DeployedNetwork, source: SourceOf, listener: Listener) -> None:
        """Read them.

        Args:
            run: Which part of its images was train.
            network: By which layers are judged.
            source: Reads a file.
            listener: Told how far that is.

        Raises:
            UsageError: The run does not say what it was trained on.
            DataError: An image is gone, or another one.
        """
        names = [row["path"] for row in split_rows(run.path) if row.get("part") == "train"]
        if not names:
            raise UsageError(f"{run.path} does not say which images it was trained on, and int8 is calibrated on them.")
        chosen = spread(len(names), _CALIBRATION)
        self.network, self.listener = network, listener
        self.images = np.stack([_prepared(run, source, names[i]) for i in chosen])
        self.order: list[str] | None = None

    def tries(self) -> Iterator[EightBits]:
        """All of the backbone in 8 bits, then without its 1, 2, 4, ... most sensitive layers, up to half of them."""
        yield EightBits(self.images)
        if self.order is None:
            some = self.images[spread(len(self.images), _JUDGED)]
            self.order = sensitive_layers(
                self.network, some, lambda done, total: self.listener.work("sensitivity", done, total, "layers")
            )
        count = 1
        while count <= len(self.order) // 2:
            yield EightBits(self.images, tuple(self.order[:count]))
            count *= 2


def spread(count: int, most: int) -> np.ndarray:
    """Some of so many numbers, over all of them: images are in the order of their names, and so of their classes."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _prepared(run: Run, source: SourceOf, name: str) -> np.ndarray:
    try:
        return run.classifier.preprocessing(source(name))
    except ImageError as error:
        raise DataError(f"{name}: {error.reason}. An export is proved on the run's own images.") from error
