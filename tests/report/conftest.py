"""Records of runs that were never trained, for the tests of the run page and the model card."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from regraft.data.dataset import Part
from regraft.evaluation.calibration import measure_calibration
from regraft.evaluation.metrics import evaluate
from regraft.evaluation.predictions import Predictions
from regraft.report.record import ClassificationRecord, Suspect

HOSTILE = (
    "<script>alert(1)</script>",
    "\" onload='alert(1)' x=\"",
    "</style><img src=http://example.com/x.png>",
    "--> ]]> &lt;b&gt; &amp;",
    "a|b | `code` **bold** [link](javascript:alert(1))",
    "key: value # no comment",
    "line\nbreak\ttab\x00\u2028",
    "\u202egnp.exe \u200f",
    "- - ! %YAML @user www.example.com https://example.com \ufffe",
    "😀" * 60,
    "x" * 300,
    "مرحبا",
)


def record_of(
    classes: tuple[str, ...], each: int = 6, parts: tuple[Part, ...] = ("val", "test"), **more: Any
) -> ClassificationRecord:
    """A run with `each` images per class and part; about nine of ten random predictions are correct."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(len(classes)), each * len(parts))
    probabilities = rng.dirichlet(np.full(len(classes), 0.2), len(labels))
    probabilities[np.arange(len(labels)), np.where(rng.random(len(labels)) < 0.9, labels, 0)] += 1
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    part_of = tuple(part for part in parts for _ in range(each * len(classes)))
    ids = tuple(f"set/{classes[label]}/{i}.png" for i, label in enumerate(labels))
    predictions = Predictions(ids, labels, probabilities, classes, part_of)
    found = {part: evaluate(predictions.part(part)) for part in parts}
    measured = {part: measure_calibration(predictions.part(part)).to_json() for part in parts}
    values: dict[str, Any] = {
        "name": "run",
        "description": {
            "classes": list(classes),
            "backbone": {"name": "mobilenetv2", "timm_name": "mobilenetv2_100"},
            "weights": {"source": "wheel", "name": "some-wheel", "sha256": "0" * 64, "license": "Apache-2.0"},
            "versions": {"python": "3.11.0", "torch": "2.4.0"},
        },
        "config": 'seed = 0\n[model]\nbackbone = "mobilenetv2"\n',
        "source": "/data/photos",
        "metrics": {
            **{part: evaluation.to_json() for part, evaluation in found.items()},
            "calibration": {
                "temperature": 1.25,
                "fitted_on": "val" if "val" in parts else None,
                **{part: {"before": value, "after": value} for part, value in measured.items()},
            },
            "time": {"train_seconds": 12.0, "predict_ms_per_image": 3.5, "steps": {"head": 1.0}},
            "model": {
                "backbone": "mobilenetv2",
                "parameters": 2_200_000,
                "megabytes": 9.1,
                "image_size": 224,
                "finetuned_from": "blocks.5",
            },
            "memory": {"peak_megabytes": 512.0},
            "data": {"bad": [{"path": "bad.png", "reason": "broken"}], "notes": ["A note with `a command`."]},
            "training": {
                "device": "cpu", "precision": "float32", "prefix_backend": "torch", "stopped": None, "notes": [],
            },
        },
        "history": [
            {"phase": phase, "epoch": n, "train_loss": 1 / n, "val_loss": 1.2 / n, "train_accuracy": 1 - 0.5 / n,
             "val_accuracy": 1 - 0.6 / n, "kept": n == 4}
            for n, phase in enumerate(("head", "head", "finetune", "finetune"), 1)
        ],
        "predictions": predictions,
        "evaluations": found,
        "counts": {part: dict.fromkeys(classes, each) for part in ("train", *parts)},
        "suspects": tuple(
            Suspect(ids[i], classes[labels[i]], classes[(labels[i] + 1) % len(classes)], 0.9, 0.05)
            for i in range(min(30, len(ids)))
        ),
        "hashes": {"model.safetensors": "1" * 64},
    }  # fmt: skip
    return ClassificationRecord(**(values | more))


@pytest.fixture(scope="session")
def make_record() -> Callable[..., ClassificationRecord]:
    return record_of


@pytest.fixture(scope="session")
def hostile_names() -> tuple[str, ...]:
    return HOSTILE
