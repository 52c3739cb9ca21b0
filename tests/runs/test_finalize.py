"""The metrics and the calibration that a training writes."""

from __future__ import annotations

from dataclasses import replace

import pytest

import regraft
from regraft.evaluation.calibration import apply_temperature, measure_calibration


def test_metrics_have_the_documented_numbers(squares_run: regraft.Run) -> None:
    metrics = squares_run.metrics
    for path in (
        "test.accuracy", "test.macro_f1", "time.train_seconds", "time.predict_ms_per_image", "model.parameters",
        "model.megabytes", "memory.peak_megabytes", "train.accuracy", "val.accuracy",
    ):  # fmt: skip
        value = metrics
        for key in path.split("."):
            value = value[key]
        assert isinstance(value, (int, float)), path
        assert value > 0, path
    assert [bad["path"] for bad in metrics["data"]["bad"]] == ["red/broken.png"]
    assert "not an image" in metrics["data"]["bad"][0]["reason"]
    assert metrics["test"]["count"] == 9
    assert metrics["training"]["prefix_backend"] in ("torch", "openvino", "")
    assert metrics["test"]["intervals"]["macro_f1"][1] <= 1


def test_the_temperature_is_stored_and_measured(squares_run: regraft.Run) -> None:
    calibration = squares_run.metrics["calibration"]
    temperature = calibration["temperature"]
    assert temperature != 1.0
    assert squares_run.description["calibration"] == {"temperature": temperature}
    assert squares_run.classifier.head.temperature == temperature
    assert calibration["fitted_on"] == "val"
    # On the images that it was fitted on, the loss can only grow by the regularization of the temperature.
    assert calibration["val"]["after"]["loss"] <= calibration["val"]["before"]["loss"] + 0.05
    test = squares_run.predictions.part("test")
    plain = apply_temperature(test.probabilities, 1 / temperature)
    before = measure_calibration(replace(test, probabilities=plain)).to_json()
    assert before.keys() == calibration["test"]["before"].keys()
    for name, value in before.items():
        assert value == pytest.approx(calibration["test"]["before"][name], rel=1e-9)
