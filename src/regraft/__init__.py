"""Transfer learning for image classification: from a folder of labeled images to a classifier you can trust.

    import regraft

    dataset = regraft.scan("photos")
    parts = regraft.split(dataset, train=0.8, val=0.1, test=0.1)
    model = regraft.build("efficientnet_lite0", classes=parts.classes)
    run = regraft.train(model, parts, out="runs/photos")
    print(regraft.evaluate(run).report())
    print(regraft.predict(run, "new.jpg")[0].top(3))

Names are imported when they are first used, so that importing the package is fast.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from regraft.resources import configure_threads

if TYPE_CHECKING:
    from regraft.config import Config, DataOptions, RunOptions, load_config
    from regraft.data.augmentation_options import Augmentation
    from regraft.data.dataset import BadFile, Dataset, Sample, Split
    from regraft.data.quality.findings import Finding, Inspection
    from regraft.data.scan import scan
    from regraft.data.split import folds, split
    from regraft.errors import RegraftError, UsageError
    from regraft.evaluation.metrics import Evaluation
    from regraft.evaluation.predictions import Predictions
    from regraft.exporting.export import export
    from regraft.exporting.exported_model import ExportedModel
    from regraft.exporting.verify import verify
    from regraft.models.classifier import Classifier, build
    from regraft.models.inference import Prediction
    from regraft.models.options import ModelOptions
    from regraft.models.summary import Summary
    from regraft.runs.distill import distill
    from regraft.runs.evaluate import evaluate
    from regraft.runs.explain import Explanation, explain
    from regraft.runs.predict import predict
    from regraft.runs.report import write_report
    from regraft.runs.resume import resume
    from regraft.runs.run import Run, load
    from regraft.runs.summary import summary
    from regraft.runs.train import train
    from regraft.serving.serve import serve
    from regraft.signing.signature import sign, verify_signature
    from regraft.studies.attribution_audit import AttributionAudit, audit_attribution
    from regraft.studies.compare.compare import compare
    from regraft.studies.compare.result import Comparison
    from regraft.studies.cross_validation import CrossValidation, cross_validate
    from regraft.studies.drift.drift import Drift, drift
    from regraft.studies.inspect.inspect import inspect
    from regraft.studies.learning_curve.learning_curve import LearningCurve, learning_curve
    from regraft.studies.tune.result import TuneResult
    from regraft.studies.tune.tune import tune
    from regraft.tracking.options import TrackingOptions
    from regraft.training.options import TrainingOptions

__version__ = "0.2.0"

configure_threads()  # before a library that starts threads is loaded

#: Module -> its public names.
_MODULES = {
    "regraft.config": ("load_config", "Config", "DataOptions", "RunOptions"),
    "regraft.data.augmentation_options": ("Augmentation",),
    "regraft.data.dataset": ("BadFile", "Dataset", "Sample", "Split"),
    "regraft.data.quality.findings": ("Finding", "Inspection"),
    "regraft.data.scan": ("scan",),
    "regraft.data.split": ("split", "folds"),
    "regraft.errors": ("RegraftError", "UsageError"),
    "regraft.evaluation.metrics": ("Evaluation",),
    "regraft.evaluation.predictions": ("Predictions",),
    "regraft.exporting.export": ("export",),
    "regraft.exporting.exported_model": ("ExportedModel",),
    "regraft.exporting.verify": ("verify",),
    "regraft.models.classifier": ("build", "Classifier"),
    "regraft.models.options": ("ModelOptions",),
    "regraft.models.inference": ("Prediction",),
    "regraft.models.summary": ("Summary",),
    "regraft.runs.change_classes": ("change_classes",),
    "regraft.runs.distill": ("distill",),
    "regraft.runs.evaluate": ("evaluate",),
    "regraft.runs.explain": ("explain", "Explanation"),
    "regraft.runs.predict": ("predict",),
    "regraft.runs.report": ("write_report",),
    "regraft.runs.run": ("load", "Run"),
    "regraft.runs.summary": ("summary",),
    "regraft.runs.resume": ("resume",),
    "regraft.runs.train": ("train",),
    "regraft.serving.serve": ("serve",),
    "regraft.signing.signature": ("sign", "verify_signature"),
    "regraft.studies.attribution_audit": ("audit_attribution", "AttributionAudit"),
    "regraft.studies.compare.compare": ("compare",),
    "regraft.studies.compare.result": ("Comparison",),
    "regraft.studies.cross_validation": ("cross_validate", "CrossValidation"),
    "regraft.studies.drift.drift": ("drift", "Drift"),
    "regraft.studies.inspect.inspect": ("inspect",),
    "regraft.studies.learning_curve.learning_curve": ("learning_curve", "LearningCurve"),
    "regraft.studies.tune.result": ("TuneResult",),
    "regraft.studies.tune.tune": ("tune",),
    "regraft.tracking.options": ("TrackingOptions",),
    "regraft.training.options": ("TrainingOptions",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [  # noqa: RUF022 - functions first, in the order of use
    "scan", "inspect", "split", "folds", "build", "train", "resume", "distill", "change_classes", "load",
    "summary", "evaluate", "predict", "explain", "drift", "audit_attribution", "export", "verify", "sign",
    "verify_signature", "serve",
    "cross_validate", "compare", "write_report", "tune", "learning_curve", "load_config", "Augmentation", "BadFile",
    "Classifier", "Comparison", "Config", "CrossValidation", "DataOptions", "Dataset", "Drift", "Evaluation",
    "AttributionAudit", "Explanation", "ExportedModel", "Finding", "Inspection", "LearningCurve", "ModelOptions",
    "Prediction", "Predictions", "RegraftError", "Run", "RunOptions", "Sample", "Split", "Summary", "TrackingOptions",
    "TrainingOptions", "TuneResult", "UsageError", "__version__",
]  # fmt: skip

#: Names of the version before -> names of this one.
_RENAMED = {"Tuning": "TuneResult", "EvidenceAudit": "AttributionAudit", "audit_evidence": "audit_attribution"}


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        raise AttributeError(f"regraft.{name} is now called regraft.{_RENAMED[name]}.")
    if name not in _HOMES:
        raise AttributeError(f"module 'regraft' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
