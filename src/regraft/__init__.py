"""Transfer learning for image classification: a folder of labelled images in, a classifier you can trust out.

    import regraft

    dataset = regraft.scan("photos")
    parts = regraft.split(dataset, train=0.8, val=0.1, test=0.1)
    model = regraft.build("efficientnet_lite0", classes=parts.classes)
    run = regraft.train(model, parts, out="runs/photos")
    print(regraft.evaluate(run).report())
    print(regraft.predict(run, "new.jpg")[0].top(3))

Names are imported when they are first used, so that importing the package takes no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regraft.data.audit import Finding, Inspection
    from regraft.data.augmentation import Augmentation
    from regraft.data.dataset import BadFile, Dataset, Sample, Split
    from regraft.data.scan import scan
    from regraft.data.split import folds, split
    from regraft.errors import RegraftError
    from regraft.evaluation.metrics import Evaluation
    from regraft.evaluation.predictions import Predictions
    from regraft.exporting.exported import ExportedModel
    from regraft.models.classifier import Classifier, build
    from regraft.models.inference import Prediction
    from regraft.pipeline.compare import Comparison, compare
    from regraft.pipeline.crossval import CrossValidation, cross_validate
    from regraft.pipeline.evaluate import evaluate
    from regraft.pipeline.evidence import EvidenceAudit, audit_evidence
    from regraft.pipeline.explain import Explanation, explain
    from regraft.pipeline.export import export, verify
    from regraft.pipeline.inspect import inspect
    from regraft.pipeline.learning_curve import LearningCurve, learning_curve
    from regraft.pipeline.predict import predict
    from regraft.pipeline.report import write_report
    from regraft.pipeline.run import Run, load
    from regraft.pipeline.serve import serve
    from regraft.pipeline.train import train
    from regraft.pipeline.tune import tune
    from regraft.pipeline.tuning import Tuning

__version__ = "0.1.0"

_HOMES = {
    "Augmentation": "regraft.data.augmentation",
    "BadFile": "regraft.data.dataset",
    "Classifier": "regraft.models.classifier",
    "Comparison": "regraft.pipeline.compare",
    "CrossValidation": "regraft.pipeline.crossval",
    "Dataset": "regraft.data.dataset",
    "Evaluation": "regraft.evaluation.metrics",
    "EvidenceAudit": "regraft.pipeline.evidence",
    "Explanation": "regraft.pipeline.explain",
    "ExportedModel": "regraft.exporting.exported",
    "Finding": "regraft.data.audit",
    "Inspection": "regraft.data.audit",
    "LearningCurve": "regraft.pipeline.learning_curve",
    "Prediction": "regraft.models.inference",
    "Predictions": "regraft.evaluation.predictions",
    "RegraftError": "regraft.errors",
    "Run": "regraft.pipeline.run",
    "Sample": "regraft.data.dataset",
    "Split": "regraft.data.dataset",
    "Tuning": "regraft.pipeline.tuning",
    "build": "regraft.models.classifier",
    "compare": "regraft.pipeline.compare",
    "cross_validate": "regraft.pipeline.crossval",
    "audit_evidence": "regraft.pipeline.evidence",
    "evaluate": "regraft.pipeline.evaluate",
    "explain": "regraft.pipeline.explain",
    "export": "regraft.pipeline.export",
    "folds": "regraft.data.split",
    "inspect": "regraft.pipeline.inspect",
    "learning_curve": "regraft.pipeline.learning_curve",
    "load": "regraft.pipeline.run",
    "predict": "regraft.pipeline.predict",
    "scan": "regraft.data.scan",
    "serve": "regraft.pipeline.serve",
    "split": "regraft.data.split",
    "train": "regraft.pipeline.train",
    "tune": "regraft.pipeline.tune",
    "verify": "regraft.pipeline.export",
    "write_report": "regraft.pipeline.report",
}

__all__ = [  # noqa: RUF022 - functions first, in the order of use
    "scan",
    "inspect",
    "split",
    "folds",
    "build",
    "train",
    "load",
    "evaluate",
    "predict",
    "explain",
    "audit_evidence",
    "export",
    "verify",
    "serve",
    "cross_validate",
    "compare",
    "write_report",
    "tune",
    "learning_curve",
    "Augmentation",
    "BadFile",
    "Classifier",
    "Comparison",
    "CrossValidation",
    "Dataset",
    "Evaluation",
    "EvidenceAudit",
    "Explanation",
    "ExportedModel",
    "Finding",
    "Inspection",
    "LearningCurve",
    "Prediction",
    "Predictions",
    "RegraftError",
    "Run",
    "Sample",
    "Split",
    "Tuning",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'regraft' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
