"""Export of runs to all formats: each predicts as its run does, or is rejected with a reason."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from terminal import regraft

from regraft.atomic_io import sha256_of
from regraft.data.dataset import Split
from regraft.errors import ExportError, UsageError
from regraft.exporting.calibration_data import sensitive_layers
from regraft.exporting.export import ExportResult, export
from regraft.exporting.exported_model import ExportedModel
from regraft.exporting.formats import FORMATS
from regraft.exporting.formats.base import ExportJob, QuantizationSpec
from regraft.exporting.formats.onnx import OnnxFormat
from regraft.exporting.inference_module import InferenceModule
from regraft.exporting.parity import compare_predictions
from regraft.exporting.verify import verify
from regraft.models.classifier import build
from regraft.runs.run import Run
from regraft.runs.train import train

#: A script that runs `predict.py` of several exports in one process, where regraft was not imported.
RUN_SCRIPTS = """
import runpy, sys
image, *scripts = sys.argv[1:]
for script in scripts:
    sys.argv = [script, image]
    runpy.run_path(script)
assert "regraft" not in sys.modules
"""
#: Formats that have other precisions than that of the run.
SMALLER = ["onnx", "openvino", "litert"]
write_onnx = OnnxFormat.write


@pytest.fixture(scope="module")
def exports(efficientnet_run: Run) -> dict[str, Path]:
    """All formats in float32, by the command."""
    done = regraft("export", efficientnet_run.path, "--to", ",".join(FORMATS), "--json")
    assert done.returncode == 0, done.stderr
    return {Path(path).name: Path(path) for path in json.loads(done.stdout)}


def test_every_export_has_a_bill_with_the_versions_of_its_format(
    exports: dict[str, Path], efficientnet_run: Run
) -> None:
    packages = {"onnx": "onnxruntime", "openvino": "openvino", "litert": "ai-edge-litert", "keras": "keras"}
    for name, folder in exports.items():
        text = (folder / "mlbom.json").read_text(encoding="utf-8")
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
        bill = json.loads(text)
        model, versions = bill["metadata"]["component"], {one["name"]: one.get("version") for one in bill["components"]}
        hashes = {one["name"]: one["hashes"][0]["content"] for one in model["components"]}
        assert hashes == {file: sha256_of(folder / file) for file in (*FORMATS[name].files, "predict.py")}
        of_run = model["pedigree"]["ancestors"][0]["hashes"][0]["content"]
        assert of_run == efficientnet_run.description["sha256"]["model.safetensors"]
        package = packages.get(name, "torch")
        assert versions[package] == version(package)


@pytest.mark.parametrize("name", list(FORMATS))
def test_export_predicts_as_the_run_does(
    name: str, efficientnet_run: Run, exports: dict[str, Path], squares_folder: Path, tmp_path: Path
) -> None:
    parity = json.loads((exports[name] / "parity.json").read_text())
    assert parity["images"] == len(efficientnet_run.predictions.part("val"))
    assert parity["agreement"] == 1
    assert parity["largest_difference"] < 1e-4
    assert parity["faults"] == []
    assert parity["accuracy"] == parity["model_accuracy"]
    assert min(parity["milliseconds"].values()) > 0

    text = (exports[name] / "README.md").read_text(encoding="utf-8")
    assert all(f"`{file}`" in text for file in FORMATS[name].files)
    assert f"uint8 | (N, {efficientnet_run.description['preprocessing']['size']}, " in text
    guide = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    assert "## Load an export in your own program" in guide  # which the text names
    copy = tmp_path / "elsewhere"
    shutil.copytree(exports[name], copy)
    trust = FORMATS[name].runs_code
    if trust:
        with pytest.raises(UsageError, match="can run code"):
            ExportedModel(copy)
    assert verify(copy, trust=trust).agreement == 1
    model = ExportedModel(copy, trust=trust)
    files = sorted((squares_folder / "green").iterdir())[:5]
    expected = np.stack([prediction.probabilities for prediction in efficientnet_run.predict(files)])
    pixels = np.stack([model.preprocessing(file) for file in files])
    for count in (1, 5):
        assert np.abs(model.probabilities(pixels[:count]) - expected[:count]).max() < 1e-4
    if name == "savedmodel":
        assert parity["encoded"]["images"] == parity["images"]
        assert parity["encoded"]["largest_difference"] < 1e-4
        assert model.runtime.predict_files is not None
        from_files = model.runtime.predict_files([file.read_bytes() for file in files])
        assert np.abs(from_files - expected).max() < 1e-4
    else:
        assert model.runtime.predict_files is None


def test_predict_scripts_need_no_regraft(
    efficientnet_run: Run, exports: dict[str, Path], squares_folder: Path, tmp_path: Path
) -> None:
    file = squares_folder / "red" / "03.png"
    names = sorted(exports, key=lambda name: name != "exported-program")  # PyTorch before TensorFlow
    scripts = [exports[name] / "predict.py" for name in names]
    done = subprocess.run(
        [sys.executable, "-I", "-c", RUN_SCRIPTS, file, *scripts],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (expected,) = efficientnet_run.predict(file)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[:2] for row in rows] == [[str(file), expected.label]] * len(FORMATS)
    assert [float(row[2]) for row in rows] == pytest.approx([expected.confidence] * len(FORMATS), abs=1e-3)


def test_the_lines_of_the_manual_load_every_export(
    efficientnet_run: Run, exports: dict[str, Path], squares_folder: Path
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    file, names = squares_folder / "red" / "03.png", {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        code = block.replace("runs/photos/exports", exports["onnx"].parent.as_posix()).replace("new.jpg", str(file))
        exec(code, names)
    (expected,) = efficientnet_run.predict(file)
    assert set(names["answers"]) == set(FORMATS)
    for name, probabilities in names["answers"].items():
        assert np.abs(probabilities[0] - expected.probabilities).max() < 1e-4, name


def test_onnx_graph_contains_its_classes(efficientnet_run: Run, exports: dict[str, Path]) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(exports["onnx"] / "model.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(efficientnet_run.classes)
    (given,) = session.get_inputs()
    assert (given.name, given.shape, given.type) == ("images", ["batch", 32, 32, 3], "tensor(uint8)")


def test_exports_contain_no_paths_of_this_machine(exports: dict[str, Path]) -> None:
    for folder in exports.values():
        for file in folder.rglob("*"):
            if file.is_file() and file.parent.name != "golden":
                assert b"/regraft/" not in file.read_bytes(), file


@pytest.mark.parametrize("name", ["onnx", "exported-program"])
def test_commands_take_an_export(name: str, run: Run, squares_folder: Path, tmp_path: Path) -> None:
    """Those that `export` suggests, and `evaluate`."""
    done = regraft("export", run.path, "--to", name, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "image files of the run's val part" in done.stdout
    file = squares_folder / "red" / "00.png"
    suggested = [line.split() for line in done.stdout.splitlines() if line.startswith("  regraft ")]
    assert [words[1] for words in suggested] == ["predict", "verify"]
    for words in suggested:
        end = words.index("on") if "on" in words else len(words)
        arguments = [str(file) if word == "IMAGE" else word for word in words[1:end]]
        assert regraft(*arguments).returncode == 0, arguments

    trust = ["--trust"] if FORMATS[name].runs_code else []
    assert "predicts as it did" in regraft("verify", tmp_path / name, *trust).stdout
    row = json.loads(regraft("predict", tmp_path / name, file, "--json", *trust).stdout)
    (expected,) = run.predict(file)
    assert (row["label"], row["confidence"]) == (expected.label, pytest.approx(expected.confidence, abs=1e-4))
    accuracies = [
        json.loads(regraft("evaluate", model, squares_folder, "--json", *options).stdout)["accuracy"]
        for model, options in ((tmp_path / name, trust), (run.path, []))
    ]
    assert accuracies[0] == accuracies[1]


@pytest.fixture(scope="module")
def compressed(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExportResult]:
    """The exports of half and of a quarter of the size, by the names of their folders; formats share their graphs."""
    folder = tmp_path_factory.mktemp("compressed")
    results = [
        result for precision in ("fp16", "int8") for result in export(run, SMALLER, precision=precision, out=folder)
    ]
    return {result.path.name: result for result in results}


@pytest.fixture(scope="module")
def all_in_float(run: Run) -> ExportJob:
    """A job in 8 bits that leaves all layers but one in float."""
    module = InferenceModule(run.classifier)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    float_layers = tuple(sensitive_layers(module, pixels)[:-1])
    return ExportJob(module, "int8", quantization=QuantizationSpec(pixels, float_layers))


@pytest.mark.parametrize("name", SMALLER)
def test_fp16_is_half_the_size(name: str, run: Run, compressed: dict[str, ExportResult]) -> None:
    result = compressed[f"{name}-fp16"]
    assert result.megabytes < 0.6 * (run.path / "model.safetensors").stat().st_size / 1e6
    assert 0 < result.parity.largest_difference < 0.05
    assert verify(result.path).agreement == 1


@pytest.mark.parametrize("name", SMALLER)
def test_int8_is_a_third_of_the_size_and_leaves_layers_in_float(
    name: str, run: Run, compressed: dict[str, ExportResult], all_in_float: ExportJob, tmp_path: Path
) -> None:
    result = compressed[f"{name}-int8"]
    assert result.megabytes < (run.path / "model.safetensors").stat().st_size / 3e6
    assert result.parity.score >= result.parity.model_score - 0.01
    assert result.parity.largest_difference > 1e-4  # it is not the same network
    description = json.loads((result.path / "export.json").read_text())
    assert description["left_in_float"] == ["head", *result.float_layers] == ["head"]
    verify(result.path)

    job, module = all_in_float, all_in_float.module
    assert job.quantization is not None
    pixels, float_layers = job.quantization.images, job.quantization.float_layers
    FORMATS[name].write(tmp_path, job)
    exact = module(torch.from_numpy(pixels)).numpy()
    assert 0 < np.abs(FORMATS[name].open(tmp_path)(pixels) - exact).max() < 0.1
    weights = sum(module.model.get_submodule(path).weight.numel() for path in float_layers)  # type: ignore[union-attr, operator]
    size = sum((tmp_path / file).stat().st_size for file in FORMATS[name].files)
    assert size - 1e6 * result.megabytes == pytest.approx(3 * weights, rel=0.1)  # four bytes each instead of one


def test_int8_leaves_more_layers_in_float_until_it_passes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[str, ...]] = []

    def write(self: OnnxFormat, folder: Path, job: ExportJob) -> None:
        assert job.quantization is not None
        tried.append(job.quantization.float_layers)
        write_onnx(self, folder, ExportJob(job.module))

    def compare(names: Any, labels: Any, model: np.ndarray, export: np.ndarray, precision: str, **options: Any) -> Any:
        shifted = np.roll(model, 1, axis=1)
        answers = shifted if len(tried[-1]) < needed else export
        return compare_predictions(names, labels, model, answers, precision, **options)

    monkeypatch.setattr(OnnxFormat, "write", write)
    monkeypatch.setattr("regraft.exporting.export._milliseconds", lambda *_: (1.0, 1.0))
    monkeypatch.setattr("regraft.exporting.export.compare_predictions", compare)
    needed = 2
    (result,) = export(run, "onnx", precision="int8", out=tmp_path / "passes")
    assert [len(layers) for layers in tried] == [0, 1, 2]
    assert result.float_layers == tried[-1]
    assert json.loads((result.path / "export.json").read_text())["left_in_float"] == ["head", *result.float_layers]
    needed = 10**9
    with pytest.raises(ExportError, match="2 layers were left in float"):
        export(run, "onnx", precision="int8", out=tmp_path / "fails")
    assert [path.name for path in (tmp_path / "fails").iterdir()] == ["onnx-int8.rejected.json"]
    assert len(json.loads((tmp_path / "fails" / "onnx-int8.rejected.json").read_text())["left_in_float"]) == 2


@pytest.mark.parametrize("bias", [0.01, np.nan])
def test_export_that_predicts_differently_is_rejected(
    bias: float, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(self: OnnxFormat, folder: Path, job: ExportJob) -> None:
        job.module.model.head.classifier.bias.data[0] += bias
        write_onnx(self, folder, job)

    monkeypatch.setattr(OnnxFormat, "write", write)
    (tmp_path / "onnx.rejected.json").write_text("an earlier rejection")
    with pytest.raises(ExportError, match=r"does not predict as the run does: .* Images that differ: "):
        export(run, "onnx", out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["onnx.rejected.json"]
    rejection = json.loads((tmp_path / "onnx.rejected.json").read_text())
    assert rejection["faults"]
    assert (rejection["largest_difference"] is None) == np.isnan(bias)
    assert set(rejection["differing"]) <= set(run.predictions.part("val").ids)


def test_other_formats_are_exported_if_one_fails(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise LookupError("no such operation")

    monkeypatch.setattr(OnnxFormat, "write", fail)
    done = regraft("export", run.path, "--to", "onnx,exported-program", "--out", tmp_path)
    assert done.returncode == 1
    assert "onnx cannot be written: no such operation" in " ".join(done.stderr.split())
    assert "Accepted exports" in " ".join(done.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["exported-program"]
    verify(tmp_path / "exported-program", trust=True)


def test_wrong_requests(run: Run, onnx_export: Path, squares_folder: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (("export", run.path), "expected one or more of onnx"),
        (("export", run.path, "--to", "onyx"), "Did you mean onnx"),
        (("export", run.path, "--to", "onnx", "--precision", "fp8"), "Unknown precision"),
        (("export", run.path, "--to", "exported-program", "--precision", "fp16"), "expected fp32"),
        (("export", run.path, "--to", "keras", "--precision", "int8"), "expected fp32"),
        (("export", run.path, "--to", "onnx", "--out", onnx_export.parent), "exists already"),
        (("verify", tmp_path / "none"), "is not a folder"),
        (("evaluate", onnx_export), "Give DATA"),
        (("predict", onnx_export, squares_folder / "red", "--min-accuracy", 0.9), "--min-accuracy needs a run"),
        (("predict", onnx_export, squares_folder / "red", "--tta", "flip"), "needs a run"),
    ):
        done = regraft(*arguments)
        assert done.returncode == 2, done.stdout
        assert message in done.stderr
    assert regraft("verify", run.path).returncode == 1


def test_export_needs_the_images_of_the_run(squares_split: Split, tmp_path: Path) -> None:
    model = build("cnn", classes=squares_split.classes, weights="none", image_size=32)
    run = train(model, squares_split, out=tmp_path / "run", finetune_epochs=0, head_epochs=1)
    with pytest.raises(UsageError, match="Expected --data"):
        export(run, "onnx")


def test_missing_packages_are_reported_before_anything_is_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    for missing, formats, precision, extra in (
        ("tensorflow", "onnx,litert", "fp32", "tensorflow"),
        ("ai_edge_litert", "litert", "fp32", "litert"),
        ("nncf", "openvino", "int8", "int8"),
        ("onnxruntime", "onnx", "fp32", "onnx"),
    ):
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name, gone=missing: None if name == gone else find_spec(name)
        )
        done = regraft("export", run.path, "--to", formats, "--precision", precision, "--out", tmp_path)
        assert done.returncode == 2
        assert f"regraft[{extra}]" in done.stderr
    assert not list(tmp_path.iterdir())
