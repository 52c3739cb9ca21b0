"""HTML that Jupyter displays for results: `data` draws data sets and metrics, `results` draws runs and predictions."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from regraft.notebook_repr import NotebookRepr

#: Class -> module of this folder and function that draws it. Modules are imported when a notebook first needs them.
_RENDERERS = {
    "Dataset": ("data", "dataset"),
    "Split": ("data", "split"),
    "Inspection": ("data", "inspection"),
    "Evaluation": ("data", "evaluation"),
    "Predictions": ("data", "predictions"),
    "MultilabelEvaluation": ("data", "multilabel_evaluation"),
    "MultilabelPredictions": ("data", "multilabel_predictions"),
    "Run": ("results", "run"),
    "Prediction": ("results", "single"),
    "Explanation": ("results", "single"),
    "ExportResult": ("results", "single"),
    "ResultList": ("results", "result_list"),
    "Comparison": ("results", "comparison"),
}


def to_html(result: NotebookRepr) -> str | None:
    """Return the HTML of a result, or None where a notebook shows its `repr`."""
    if type(result).__name__ not in _RENDERERS:
        return None
    module, function = _RENDERERS[type(result).__name__]
    return cast(str, getattr(import_module(f"{__name__}.{module}"), function)(result))
