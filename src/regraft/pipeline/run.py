"""A run: one training, and the folder that holds all it left.

Enters: a folder. Leaves: its model, history, metrics and predictions, read when they are asked for.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from regraft.data.dataset import Part
from regraft.data.decode import ImageSource
from regraft.errors import RunError, UsageError
from regraft.evaluation.abstention import Selection, conformal_threshold, threshold_for
from regraft.evaluation.metrics import Evaluation
from regraft.evaluation.metrics import evaluate as evaluate_predictions
from regraft.evaluation.predictions import Predictions
from regraft.models.checkpoint import load_classifier, read_description
from regraft.models.classifier import Classifier
from regraft.models.inference import Prediction, Tta, one_or_many, predict_images
from regraft.shown import Several, Shown

CONFIG, SOURCE, SPLIT, STANDING, HISTORY, METRICS, PREDICTIONS = (
    "config.toml",
    "source.json",
    "split.csv",
    "checkpoints/last.safetensors",
    "history.csv",
    "metrics.json",
    "predictions.csv",
)


class Run(Shown, by="regraft.pipeline.notebook.run"):
    """A trained model with everything that is known about it."""

    def __init__(self, path: Path | str, classifier: Classifier | None = None) -> None:
        """Open a run's folder.

        Raises:
            UsageError: There is no such folder.
            RunError: It holds no model.
        """
        self.path = Path(path)
        if not self.path.exists():
            raise UsageError(
                f"{self.path} does not exist. Expected the folder of a run; `regraft train DATA --out {self.path}` "
                "would make one."
            )
        self.description = read_description(self.path)
        if classifier is not None:
            self.classifier = classifier

    def __repr__(self) -> str:
        """Name the folder."""
        return f"Run({str(self.path)!r})"

    @cached_property
    def classifier(self) -> Classifier:
        """The model, on the CPU."""
        return load_classifier(self.path)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in output order."""
        return tuple(self.description["classes"])

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """What `metrics.json` says."""
        try:
            value: dict[str, Any] = json.loads(self._text(METRICS))
        except ValueError as error:
            raise RunError(f"{self.path / METRICS} is damaged: {error}") from error
        return value

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """One row an epoch; numbers as numbers, empty cells as None."""
        return [
            {name: _number(cell) for name, cell in row.items()}
            for row in csv.DictReader(self._text(HISTORY).splitlines())
        ]

    @cached_property
    def predictions(self) -> Predictions:
        """The probabilities of the validation and test images at the end of training."""
        self._text(PREDICTIONS)
        return Predictions.read_csv(self.path / PREDICTIONS)

    def predict(
        self, sources: ImageSource | Iterable[ImageSource], *, batch_size: int = 32, tta: Tta = "none"
    ) -> list[Prediction]:
        """Predict one image or many; see `regraft.predict`."""
        return Several(self.stream(one_or_many(sources), batch_size=batch_size, tta=tta))

    def stream(
        self, sources: Iterable[ImageSource], *, batch_size: int = 32, tta: Tta = "none"
    ) -> Iterator[Prediction]:
        """Predict any number of images, one answer after the other."""
        return predict_images(self.classifier, sources, batch_size=batch_size, tta=tta)

    def evaluate(self, part: Part | None = None) -> Evaluation:
        """Evaluate the kept predictions of one part; default: test, or val where there is no test part.

        Raises:
            UsageError: The run keeps no predictions of this part.
        """
        present = set(self.predictions.parts)
        chosen = part or ("test" if "test" in present else "val")
        if chosen not in present:
            raise UsageError(f"{self.path} keeps predictions of {', '.join(sorted(present))}; {chosen} needs the data.")
        return evaluate_predictions(self.predictions.part(chosen))

    def threshold(self, accuracy: float) -> Selection:
        """The confidence from which on so large a share of the validation images' answers is right.

        Raises:
            UsageError: The run has no validation images, or none are so sure.
        """
        return threshold_for(self._validation(), accuracy)

    def least_probability(self, coverage: float) -> float:
        """The least probability of a class in a set that holds the true one with this probability.

        Raises:
            UsageError: The run has no validation images, or the coverage is none.
        """
        return conformal_threshold(self._validation(), coverage)

    def least_familiarity(self, share: float) -> float:
        """The familiarity at or below which an image is unknown, where so large a share of familiar ones may be.

        Raises:
            UsageError: The run does not know what is familiar, or from too few images for this share.
        """
        if not 0 < share < 1:
            raise UsageError(f"A share of {share:g} familiar images; expected one above 0 and below 1.")
        shape = self.description.get("familiarity")
        if not shape:
            raise UsageError(
                f"{self.path} does not know what is familiar: that needs validation images, two training images of a "
                "class, and a training that came to its end with this version. Train anew."
            )
        least = 1 / (shape[-1] + 1)
        if share < least:
            raise UsageError(
                f"{shape[-1]} validation images cannot tell the strangest {100 * share:g} % of familiar images from "
                f"others; expected at least {100 * least:.2g} %."
            )
        return share

    def _validation(self) -> Predictions:
        val = self.predictions.part("val")
        if not len(val):
            raise UsageError(f"{self.path} has no validation images to choose a threshold by. Train with some.")
        return val

    def _text(self, name: str) -> str:
        file = self.path / name
        if not file.is_file():
            raise RunError(f"{self.path} has no {name}: the run was stopped before it was evaluated.")
        return file.read_text(encoding="utf-8")


def load(path: Path | str) -> Run:
    """Open the folder of a run.

    Raises:
        UsageError: There is no such folder.
        RunError: It holds no model.
    """
    return Run(path)


def _number(cell: str) -> Any:
    if cell in ("True", "False"):
        return cell == "True"
    if cell == "":
        return None
    try:
        return int(cell) if cell.lstrip("-").isdigit() else float(cell)
    except ValueError:
        return cell
