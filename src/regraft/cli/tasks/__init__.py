"""What the terminal says of a run, an evaluation and predictions in the words of their task: a module for each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console

from regraft.cli.tasks import classification, multilabel, regression

if TYPE_CHECKING:
    from regraft.data.dataset import Part
    from regraft.data.labels import Task
    from regraft.runs.run import Run


class TaskOutput(Protocol):
    """The functions of each module, which take evaluations and predictions of its task."""

    #: Name of the picture that `plot` draws, what the share of right images is called, and what the calibration error.
    PLOT: str
    ACCURACY: str
    CALIBRATION_ERROR: str

    def print_report(self, console: Console, evaluation: Any, rest: str) -> None:
        """Print an evaluation; of many classes only the weakest, and where the `rest` is."""

    def print_part(self, console: Console, run: Run, part: Part) -> None:
        """Print the metrics of one part of a run."""

    def print_note(self, console: Console, run: Run) -> None:
        """Print what follows the table of a run."""

    def print_cross_validation(self, console: Console, result: Any) -> None:
        """Print the scores out of fold."""

    def learning_curve_lines(self, curve: Any) -> list[str]:
        """Scores by the number of images, and what twice as many bring, in lines of markup."""

    def describe_test(self, test: Mapping[str, Any]) -> str:
        """The most important metrics of the test images, from `metrics.json`, in a line of markup."""

    def measure_calibration(self, predictions: Any) -> Any:
        """The calibration, which has `describe`, `to_json` and `is_miscalibrated`."""

    def plot(self, evaluation: Any, predictions: Any, path: Path, title: str) -> None:
        """Draw an evaluation into a PNG."""

    def write(self, predictions: Any, folder: Path) -> str:
        """Write predictions into a folder; returns a sentence for the user, or ""."""

    def advice(self, run: Path) -> str:
        """What to try after an evaluation of stored predictions."""

    def cautions(self, evaluation: Any) -> list[str]:
        """What limits an evaluation of given images."""


OUTPUTS: Mapping[Task, TaskOutput] = {
    "classification": classification,
    "multilabel": multilabel,
    "regression": regression,
}
