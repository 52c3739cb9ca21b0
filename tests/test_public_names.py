"""The public names change on purpose only."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import regraft

FROZEN = [
    "scan", "inspect", "split", "folds", "build", "train", "resume", "distill", "change_classes", "load",
    "summary", "evaluate", "predict", "explain", "drift", "audit_attribution", "export", "verify", "sign",
    "verify_signature", "serve",
    "cross_validate", "compare", "write_report", "tune", "learning_curve", "load_config", "Augmentation", "BadFile",
    "Classifier", "Comparison", "Config", "CrossValidation", "DataOptions", "Dataset", "Drift", "Evaluation",
    "AttributionAudit", "Explanation", "ExportedModel", "Finding", "Inspection", "LearningCurve", "ModelOptions",
    "Prediction", "Predictions", "RegraftError", "Run", "RunOptions", "Sample", "Split", "Summary", "TrackingOptions",
    "TrainingOptions", "TuneResult", "UsageError", "__version__",
]  # fmt: skip


def test_public_names_are_frozen() -> None:
    assert regraft.__all__ == FROZEN
    assert dir(regraft) == sorted(FROZEN)


@pytest.mark.parametrize("name", FROZEN)
def test_every_name_is_there_and_documented(name: str) -> None:
    value = getattr(regraft, name)
    assert name == "__version__" or value.__doc__


def test_old_and_unknown_names_are_refused() -> None:
    for old, new in (
        ("Tuning", "TuneResult"), ("EvidenceAudit", "AttributionAudit"), ("audit_evidence", "audit_attribution"),
    ):  # fmt: skip
        with pytest.raises(AttributeError, match=rf"regraft\.{old} is now called regraft\.{new}\."):
            getattr(regraft, old)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = regraft.trian  # type: ignore[attr-defined]  # what is tested


def test_old_names_of_arguments_are_refused() -> None:
    for function, old, new in (
        (regraft.scan, "store", "cache"), (regraft.scan, "on_bad", "on_unreadable"),
        (regraft.serve, "sure", "min_accuracy"), (regraft.serve, "unknown", "ood_rate"),
        (regraft.inspect, "listener", "reporter"), (regraft.train, "engine", "prefix_backend"),
        (regraft.train, "averaging", "ema_epochs"), (regraft.Augmentation, "colour", "color_jitter"),
        (regraft.Augmentation, "crop", "random_crop"),
    ):  # fmt: skip
        with pytest.raises(regraft.RegraftError, match=f"{old}= is now called {new}="):
            function(**{old: 0})


@pytest.mark.parametrize("name", [name for name in FROZEN if inspect.isfunction(getattr(regraft, name))])
def test_a_misspelt_argument_gets_its_name(name: str) -> None:
    function = getattr(regraft, name)
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return  # the options of `build` and `train` are a configuration, which has errors of its own
    last = list(parameters)[-1]
    with pytest.raises(regraft.UsageError, match=rf"{name}\(\) has no argument {last}x=; did you mean {last}"):
        function(**{f"{last}x": 0})


def test_a_setting_as_an_argument_is_explained() -> None:
    with pytest.raises(regraft.UsageError, match=r'load_config\(overrides=\{"training.finetune_epochs": ...\}\)'):
        regraft.tune("photos", finetune_epochs=1)  # type: ignore[call-arg]  # what is tested
    with pytest.raises(regraft.UsageError, match="did you mean backbones"):
        regraft.compare("photos", backbone="resnet50")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "code",
    [
        "import regraft",
        "import regraft.config",
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
