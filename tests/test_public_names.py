"""The public names change on purpose only."""

from __future__ import annotations

import subprocess
import sys

import pytest

import regraft

FROZEN = [
    "scan", "inspect", "split", "folds", "build", "train", "load", "evaluate", "predict", "explain", "audit_evidence",
    "export", "verify", "serve", "cross_validate", "compare", "write_report", "tune", "learning_curve",
    "Augmentation", "BadFile", "Classifier", "Comparison", "CrossValidation", "Dataset", "Evaluation", "EvidenceAudit",
    "Explanation", "ExportedModel", "Finding", "Inspection", "LearningCurve", "Prediction", "Predictions",
    "RegraftError", "Run", "Sample", "Split", "Tuning", "__version__",
]  # fmt: skip


def test_public_names_are_frozen() -> None:
    assert regraft.__all__ == FROZEN
    assert dir(regraft) == sorted(FROZEN)


@pytest.mark.parametrize("name", FROZEN)
def test_every_name_is_there_and_documented(name: str) -> None:
    value = getattr(regraft, name)
    assert name == "__version__" or value.__doc__


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = regraft.trian  # type: ignore[attr-defined]  # what is tested


@pytest.mark.parametrize(
    "code",
    [
        "import regraft",
        "import regraft.cli",
        "import regraft.data.scan, regraft.data.split, regraft.models.registry",
    ],
)
def test_light_imports_stay_light(code: str) -> None:
    heavy = "torch,torchvision,timm,matplotlib,sklearn,tensorflow"
    check = (
        f"import sys; {code}; found = [m for m in {heavy!r}.split(',') if m in sys.modules]; "
        "sys.exit(' '.join(found) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
