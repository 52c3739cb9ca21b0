"""Summarize the layers of a run, or of the model that a training would start with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from regraft.cache import Cache
from regraft.config import Config
from regraft.errors import suggest_names
from regraft.models.classifier import Classifier
from regraft.models.summary import Summary, summary_of
from regraft.models.weights import WeightsRecord
from regraft.runs.prepare import build_for
from regraft.runs.run import Run, classifier_of
from regraft.runs.scan_and_split import scan_with
from regraft.training.callbacks import ProgressReporter
from regraft.training.phase_plan import finetunes_members, plan_phases


@suggest_names
def summary(model: Run | Path | str | Classifier) -> Summary:
    """List the layers of a model with output shapes and parameters, as Keras's `model.summary()`.

    Args:
        model: A run or its folder, or a model from `build`.

    Returns:
        The layers and their totals; `print` shows them as a table.

    Raises:
        UsageError: The model is something else.

    Examples:
        >>> print(regraft.summary("runs/photos"))
        efficientnet_lite0, 3 classes, input 64 x 64 pixels...
    """
    return summary_of(classifier_of(model))


def model_before_training(data: Path | str, config: Config, reporter: ProgressReporter) -> tuple[Classifier, str]:
    """The model for the classes of the data with random weights and its freeze boundary, and what of it will train."""
    dataset = scan_with(config, data, Cache() if config.training.cache_gb else None, reporter)
    random = config.model_copy(update={"model": replace(config.model, weights="none"), "run": type(config.run)()})
    model, training, weights = build_for(random, dataset), config.training, config.model.weights
    if weights != "none" and not (weights == "auto" and not model.spec.pretrained):
        model.weights = WeightsRecord(weights)  # a network without weights would train as a whole
    phases = plan_phases(model, training)
    model.freeze(phases.boundary)
    head = {
        "lbfgs": "The head is fitted by L-BFGS.",
        "epochs": f"The head trains for {training.head_epochs} epochs.",
        "none": "The head is not trained alone.",
    }[phases.head]
    if finetunes_members(model, training):
        return model, f"Each backbone is fine-tuned alone, for {training.finetune_epochs} epochs. {head}"
    finetuning = f" Fine-tuning trains from {phases.boundary_name} on, for {training.finetune_epochs} epochs."
    return model, head + (finetuning if phases.finetunes else " There is no fine-tuning.")
