"""What a training makes of its predictions, one module for each task; `TASKS` has them by task."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from regraft.data.labels import Task
from regraft.models.classifier import Classifier
from regraft.runs.sample_predictions import SamplePredictions
from regraft.runs.tasks.base import TaskResults
from regraft.runs.tasks.classification import ClassificationResults
from regraft.runs.tasks.multilabel import MultilabelResults
from regraft.runs.tasks.regression import RegressionResults
from regraft.training.options import TrainingOptions

__all__ = ["TASKS", "TaskResults"]

#: Fits what the head still lacks, such as a temperature, to the val images among the predicted ones, and changes it.
TASKS: Mapping[Task, Callable[[Classifier, SamplePredictions, TrainingOptions], TaskResults]] = {
    "classification": ClassificationResults.calibrated,
    "multilabel": MultilabelResults.calibrated,
    "regression": RegressionResults.calibrated,
}
