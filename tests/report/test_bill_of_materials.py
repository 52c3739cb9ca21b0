"""The bill of materials of a run and of an export follows the schema and says what the record says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from regraft.report.bill_of_materials import ExportFacts, bill_of_export, bill_of_run
from regraft.report.record import ClassificationRecord

Make = Callable[..., ClassificationRecord]
VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)
FACTS = ExportFacts(
    "onnx", "fp32", {"model.onnx": "2" * 64, "predict.py": "3" * 64}, {"python": "3.11.0", "onnxruntime": "1.20.0"},
    [("accuracy", 0.95), ("agreement", 1.0)], "val", datetime(2026, 11, 30, tzinfo=UTC),
)  # fmt: skip


def check(bill: Mapping[str, Any]) -> None:
    error = VALIDATOR.validate_str(json.dumps(bill))
    assert error is None, error


def part(bill: Mapping[str, Any], ref: str) -> dict[str, Any]:
    (found,) = [one for one in bill["components"] if one["bom-ref"] == ref]
    return dict(found)


def sha(component: Mapping[str, Any]) -> str:
    (found,) = component["hashes"]
    assert found["alg"] == "SHA-256"
    return str(found["content"])


def with_weights(record: ClassificationRecord, **weights: Any) -> ClassificationRecord:
    return replace(record, description={**record.description, "weights": weights})


@pytest.fixture(scope="module")
def record(make_record: Make) -> ClassificationRecord:
    record = make_record(("ant", "bee"), each=50)
    hashes = {"model.safetensors": "1" * 64, "split.csv": "4" * 64, "config.toml": "5" * 64}
    time = {**record.metrics["time"], "finished": "2026-11-29T10:00:00+00:00"}
    return replace(record, hashes=hashes, metrics={**record.metrics, "time": time})


def test_the_bill_of_a_run(record: ClassificationRecord) -> None:
    bill = bill_of_run(record)
    check(bill)
    model = bill["metadata"]["component"]
    assert (model["type"], model["name"], sha(model)) == ("machine-learning-model", "run", "1" * 64)
    assert bill["metadata"]["timestamp"] == "2026-11-29T10:00:00+00:00"
    weights = part(bill, "weights:0")
    assert (sha(weights), weights["purl"]) == ("0" * 64, "pkg:pypi/some-wheel")
    assert weights["licenses"][0]["license"]["id"] == "Apache-2.0"
    assert {"name": "regraft:source", "value": "wheel"} in weights["properties"]
    data = part(bill, "data")
    assert (data["name"], sha(data)) == ("photos", "4" * 64)
    assert data["data"][0]["contents"]["properties"][0] == {"name": "regraft:images:train", "value": "100"}
    assert part(bill, "package:torch")["version"] == "2.4.0"
    assert sha(part(bill, "file:config.toml")) == "5" * 64
    (of_model,) = [one["dependsOn"] for one in bill["dependencies"] if one["ref"] == "model"]
    assert set(of_model) == {one["bom-ref"] for one in bill["components"]}
    card = model["modelCard"]
    test = record.evaluations["test"]
    (accuracy,) = [m for m in card["quantitativeAnalysis"]["performanceMetrics"] if m["type"] == "accuracy"]
    assert float(accuracy["value"]) == pytest.approx(test.accuracy, rel=1e-5)
    bounds = accuracy["confidenceInterval"]
    assert float(bounds["lowerBound"]) == pytest.approx(test.accuracy_interval[0], rel=1e-5)
    assert accuracy["slice"] == "test images"
    limits = card["considerations"]["technicalLimitations"]
    assert any(text.startswith("Not for: Decisions about a person's health") for text in limits)
    assert any("may have a wrong label" in text for text in limits)
    assert "/data" not in json.dumps(bill)  # a published bill names no folder


def test_the_same_run_gives_the_same_bill_and_another_model_another(record: ClassificationRecord) -> None:
    assert json.dumps(bill_of_run(record)) == json.dumps(bill_of_run(record))
    other = replace(record, hashes={**record.hashes, "model.safetensors": "6" * 64})
    assert bill_of_run(other)["serialNumber"] != bill_of_run(record)["serialNumber"]


def test_the_bill_of_an_export(record: ClassificationRecord) -> None:
    bill = bill_of_export(record, FACTS)
    check(bill)
    model = bill["metadata"]["component"]
    assert {one["name"]: sha(one) for one in model["components"]} == FACTS.files
    assert sha(model["pedigree"]["ancestors"][0]) == "1" * 64
    assert part(bill, "package:onnxruntime")["purl"] == "pkg:pypi/onnxruntime@1.20.0"
    assert {"name": "regraft:format", "value": "onnx"} in model["properties"]
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {"type": "agreement", "value": "1", "slice": "validation images, by this export"} in metrics
    assert bill["serialNumber"] != bill_of_run(record)["serialNumber"]


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"source": "hub", "name": "timm/a.b", "sha256": "7" * 64, "license": "DINOv3"},
         ["pkg:huggingface/timm/a.b", "DINOv3 License", "7777", "Not for: Commercial use before the license"]),
        ({"source": "hub", "name": "https://example.org/a.pth", "sha256": "", "license": ""},
         ["https://example.org/a.pth", '"distribution"', "state no license"]),
        ({"source": "run", "name": "/home/me/runs/first", "sha256": "7" * 64, "license": "CC-BY-NC-4.0"},
         ['"first"', '"CC-BY-NC-4.0"', "no commercial use"]),
        ({"source": "file", "name": "a.pth", "sha256": "7" * 64, "license": ""}, ['"a.pth"']),
        ({"source": "several", "name": "a, b", "members": [
            {"source": "wheel", "name": "a", "sha256": "7" * 64, "license": "MIT"},
            {"source": "none", "name": "", "sha256": "", "license": ""},
         ]}, ["pkg:pypi/a"]),
    ],
)  # fmt: skip
def test_weights_of_every_source(record: ClassificationRecord, weights: dict[str, Any], words: list[str]) -> None:
    bill = bill_of_run(with_weights(record, **weights))
    check(bill)
    text = json.dumps(bill)
    assert all(word in text for word in words), text
    assert "/home" not in text
    assert text.count('"weights:') == 3  # a component, what the model depends on, and what it depends on itself


def test_random_weights_are_no_component(record: ClassificationRecord) -> None:
    bill = bill_of_run(with_weights(record, source="none", name="", sha256="", license=""))
    check(bill)
    assert "weights:" not in json.dumps(bill)


def test_names_from_the_data_may_be_anything(make_record: Make, hostile_names: tuple[str, ...]) -> None:
    for name in hostile_names:
        record = make_record(hostile_names, name=name, source=f"C:\\data\\{name}")
        for bill in (bill_of_run(record), bill_of_export(record, FACTS)):
            check(bill)
            json.dumps(bill, ensure_ascii=False).encode()


def test_runs_of_earlier_versions_and_unfinished_ones_have_a_bill(make_record: Make) -> None:
    record = make_record(("ant", "bee"), metrics={}, history=(), predictions=None, evaluations={}, suspects=(),
                         hashes={}, counts={}, source="")  # fmt: skip
    bare = replace(record, description={"classes": ["ant", "bee"], "backbone": {"name": "vgg16"}})
    for one in (record, bare):
        bill = bill_of_run(one)
        check(bill)
        assert "timestamp" not in bill["metadata"]
        assert "quantitativeAnalysis" not in bill["metadata"]["component"]["modelCard"]
        assert "Not for: Any decision: how often the model is right was not measured" in json.dumps(bill)
