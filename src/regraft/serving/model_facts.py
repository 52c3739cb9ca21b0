"""What a server accepts of a run's answers by default, and what its page says about the model."""

from __future__ import annotations

from typing import Any

from regraft.data.band_values import format_numbers
from regraft.data.preprocessing import Preprocessing
from regraft.errors import RegraftError, UsageError
from regraft.evaluation.calibration import read_calibration
from regraft.evaluation.regression.conformal import COVERAGE
from regraft.runs.run import METRICS, Run

#: Lines for the page, each a title and a text.
Facts = list[tuple[str, str]]
#: Default accuracy of accepted answers, and default rate of images from the training's distribution that are rejected.
MIN_ACCURACY, OOD_RATE = 0.95, 0.01


def choose_min_confidence(run: Run, min_accuracy: float | None) -> tuple[float | None, Facts]:
    """The confidence from which an answer is accepted, and a fact about it."""
    if min_accuracy == 0:
        return None, []
    if run.task == "multilabel":
        if min_accuracy is not None:
            raise UsageError(
                f"--min-accuracy is for models that give an image one class. {run.path} gives it any number of labels, "
                "each from a threshold of its own on. Serve it without --min-accuracy."
            )
        return None, [("Labels", "Each from a threshold of its own on, which was chosen on the validation images.")]
    if run.task == "regression":
        if min_accuracy is not None:
            raise UsageError(
                f"--min-accuracy is for models that give an image a class, and {run.path} gives it a number. Serve it "
                "without --min-accuracy."
            )
        return None, []
    try:
        if run.description.get("pool_by"):
            raise UsageError("Confidences are calibrated for groups, and each image is answered by itself.")
        chosen = run.confidence_threshold(MIN_ACCURACY if min_accuracy is None else min_accuracy)
    except RegraftError as error:
        if min_accuracy is not None:
            raise
        return None, [("Accepted answers", f"All. {error}")]
    low, high = (round(100 * value) for value in chosen.accuracy_interval)
    text = (
        f"Confidence of at least {100 * chosen.threshold:.1f} %. Of {chosen.count} validation images, "
        f"{100 * chosen.coverage:.0f} % are accepted, and {100 * chosen.accuracy:.0f} % of these are right (95 % "
        f"interval {low} to {high}).{chosen.describe_classes()}"
    )
    return chosen.threshold, [("Accepted answers", text)]


def choose_ood_threshold(run: Run, ood_rate: float | None, has_detector: bool) -> tuple[float | None, Facts]:
    """The p-value up to which an image is out-of-distribution, and a fact about it."""
    if ood_rate == 0:
        return None, []
    try:
        if not has_detector:
            raise UsageError("An export has no out-of-distribution detection. Serve with --engine same.")
        threshold = run.ood_threshold(OOD_RATE if ood_rate is None else ood_rate)
    except RegraftError as error:
        if ood_rate is not None:
            raise
        return None, [("Out-of-distribution images", f"Not detected. {error}")]
    text = f"Images farther from the training images than all but {100 * threshold:g} % of the validation images."
    return threshold, [("Out-of-distribution images", text)]


def group_facts(pool_by: str) -> Facts:
    """That the model was trained to give groups of images one answer each, if `pool_by` says what these are."""
    if not pool_by:
        return []
    text = f"The model was trained to give one answer for several pictures of one thing ({pool_by}), for which its "
    return [("Groups", f"{text}figures are. Here each image is answered by itself, less surely.")]


def band_facts(preprocessing: Preprocessing) -> Facts:
    """Which bands of an image the model reads, if these are not gray or colors."""
    if (bands := preprocessing.bands) is None:
        return []
    text = f"{format_numbers(bands.numbers)} of a TIFF or numpy file (.npy). {bands.describe_pictures()}"
    return [("Bands", text.rstrip())]


def facts_of(run: Run) -> Facts:
    """What the page says about a run: its backbone, metrics with intervals, training images and calibration."""
    facts = [("Backbone", str(run.description["backbone"]["name"]))]
    metrics: dict[str, Any] = run.metrics if (run.path / METRICS).is_file() else {}
    images = "groups" if metrics.get("groups") else "images"
    part = next((name for name in ("test", "val") if "accuracy" in metrics.get(name, {})), None)
    if part is not None:
        accuracy, (low, high) = metrics[part]["accuracy"], metrics[part]["accuracy_interval"]
        text = f"{100 * accuracy:.1f} % of {metrics[part]['count']:,} {part} {images}"
        facts.append(("Accuracy", f"{text} (95 % interval {100 * low:.1f} to {100 * high:.1f})"))
    ranked = next((name for name in ("test", "val") if "mean_average_precision" in metrics.get(name, {})), None)
    if ranked is not None:
        low, high = metrics[ranked]["intervals"]["mean_average_precision"]
        text = f"{metrics[ranked]['mean_average_precision']:.3f} on {metrics[ranked]['count']:,} {ranked} {images}"
        facts.append(("Mean average precision", f"{text} (95 % interval {low:.3f} to {high:.3f})"))
        low, high = metrics[ranked]["intervals"]["macro_f1"]
        text = f"{metrics[ranked]['macro_f1']:.3f} (95 % interval {low:.3f} to {high:.3f})"
        facts.append(("Macro-F1", text))
    numbers = next((name for name in ("test", "val") if "mae" in metrics.get(name, {})), None)
    if numbers is not None:
        scores, (low, high) = metrics[numbers], metrics[numbers]["intervals"]["mae"]
        text = f"{scores['mae']:.4g} on {scores['count']:,} {numbers} {images} (95 % interval {low:.4g} to {high:.4g})"
        facts.append(("Mean absolute error", text))
        if scores["coverage"] is not None:
            found = f"{100 * scores['coverage']:.0f} % of the true numbers of these {images} are in theirs"
            facts.append((f"{100 * COVERAGE:g} % prediction interval", f"±{scores['half_width']:.4g}; {found}"))
    if "train" in metrics:
        facts.append((f"Training {images}", f"{metrics['train']['count']:,}"))
    calibration = metrics.get("calibration")
    if part is not None and calibration and calibration.get("fitted_on"):
        described = read_calibration(calibration[part]["after"]).describe(run.counted)
        facts.append(("Calibration", f"Expected calibration error: {described}"))
    return facts
