"""Exports, from the run to the answers in another runtime, and what is refused on the way."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from terminal import regraft
from torch import nn

from regraft.data.dataset import Split
from regraft.data.preprocessing import Preprocessing
from regraft.errors import ExportError, UsageError
from regraft.exporting.exported import ExportedModel
from regraft.exporting.form import EightBits
from regraft.exporting.formats import FORMATS
from regraft.exporting.network import DeployedNetwork, Precision
from regraft.exporting.onnx_form import Onnx
from regraft.exporting.parity import compare_answers
from regraft.exporting.script import script_for
from regraft.exporting.sensitivity import sensitive_layers
from regraft.models.classifier import build
from regraft.pipeline.export import export, verify
from regraft.pipeline.run import Run, load
from regraft.pipeline.train import train

SMALL = ("--image-size", 48, "--finetune-epochs", 0, "--set", "data.val=0.25", "--set", "data.test=0.25")


@pytest.fixture(scope="module")
def run(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("export") / "run"
    done = regraft("train", squares_folder, "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    return load(out)


@pytest.fixture(scope="module")
def exports(run: Run) -> dict[str, Path]:
    """All formats in float32, by the command."""
    done = regraft("export", run.path, "--to", ",".join(FORMATS), "--json")
    assert done.returncode == 0, done.stderr
    return {Path(path).name: Path(path) for path in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def plain(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Of a few convolutions, for what is slow."""
    out = tmp_path_factory.mktemp("plain") / "run"
    done = regraft(
        "train", squares_folder, "--out", out, "--backbone", "cnn", "--set", "training.head_epochs=3", *SMALL
    )
    assert done.returncode == 0, done.stderr
    return load(out)


@pytest.mark.parametrize("name", list(FORMATS))
def test_an_export_answers_as_the_run(name: str, run: Run, exports: dict[str, Path], squares_folder: Path) -> None:
    trust = ["--trust"] if FORMATS[name].runs_code else []
    parity = json.loads((exports[name] / "parity.json").read_text())
    assert parity["images"] == len(run.predictions.part("val"))
    assert parity["agreement"] == 1
    assert parity["largest_difference"] < 1e-4
    assert parity["faults"] == []
    assert parity["accuracy"] == parity["model_accuracy"]
    assert min(parity["milliseconds"].values()) > 0
    # From the command, for files of any number.
    files = sorted((squares_folder / "green").iterdir())[:5]
    for count in (1, 5):
        told = [
            json.loads(line)
            for line in regraft("predict", exports[name], *files[:count], "--json", *trust).stdout.splitlines()
        ]
        expected = run.predict(files[:count])
        assert [row["label"] for row in told] == [p.label for p in expected]
        assert [row["confidence"] for row in told] == pytest.approx([p.confidence for p in expected], abs=1e-4)
    measured = json.loads(regraft("evaluate", exports[name], squares_folder, "--json", *trust).stdout)
    own = json.loads(regraft("evaluate", run.path, squares_folder, "--json").stdout)
    assert measured["accuracy"] == own["accuracy"]


@pytest.mark.parametrize("name", list(FORMATS))
def test_an_export_works_alone_and_elsewhere(
    name: str, run: Run, exports: dict[str, Path], squares_folder: Path, tmp_path: Path
) -> None:
    place = tmp_path / "elsewhere"
    shutil.copytree(exports[name], place)
    if FORMATS[name].runs_code:
        refused = regraft("verify", place)
        assert refused.returncode == 2
        assert "may run code" in refused.stderr
    told = regraft("verify", place, *(["--trust"] if FORMATS[name].runs_code else []))
    assert told.returncode == 0, told.stderr
    assert "answers as the run did" in told.stdout
    file = squares_folder / "red" / "03.png"
    done = subprocess.run(
        [sys.executable, "-I", place / "predict.py", file], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    expected = run.predict(file)[0]
    path, label, confidence = done.stdout.split()
    assert (path, label) == (str(file), expected.label)
    assert float(confidence) == pytest.approx(expected.confidence, abs=1e-3)
    assert "regraft" not in (place / "predict.py").read_text()


def test_the_graph_carries_its_classes(run: Run, exports: dict[str, Path]) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(exports["onnx"] / "model.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(run.classes)
    (given,) = session.get_inputs()
    assert (given.name, given.shape, given.type) == ("images", ["batch", 48, 48, 3], "tensor(uint8)")


@pytest.mark.parametrize("name", ["onnx", "openvino", "litert"])
def test_half_precision_is_half_the_size(name: str, plain: Run, tmp_path: Path) -> None:
    (done,) = export(plain, name, precision="fp16", out=tmp_path)
    assert done.path == tmp_path / f"{name}-fp16"
    assert done.megabytes < 0.6 * (plain.path / "model.safetensors").stat().st_size / 1e6
    assert 0 < done.parity.largest_difference < 0.05
    assert verify(done.path).agreement == 1


@pytest.mark.parametrize("name", ["onnx", "openvino", "litert"])
def test_eight_bits_are_a_third_of_the_size(name: str, plain: Run, tmp_path: Path) -> None:
    done = regraft("export", plain.path, "--to", name, "--precision", "int8", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    place = tmp_path / f"{name}-int8"
    parity = json.loads((place / "parity.json").read_text())
    assert parity["megabytes"] < (plain.path / "model.safetensors").stat().st_size / 3e6
    assert parity["accuracy"] >= parity["model_accuracy"] - 0.01
    assert parity["largest_difference"] > 1e-4  # it is not the same network
    assert json.loads((place / "export.json").read_text())["left_in_float"] == ["head", *parity["left_in_float"]]
    verify(place)


@pytest.mark.parametrize("name", ["onnx", "litert", "openvino"])
def test_the_most_sensitive_layers_are_left_in_float(name: str, plain: Run, tmp_path: Path) -> None:
    network = DeployedNetwork(plain.classifier)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3), np.uint8)
    order = sensitive_layers(network, pixels)
    layers = [
        name
        for name, module in plain.classifier.named_modules()
        if name.startswith("backbone") and isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    assert sorted(order) == sorted(layers)
    exact, apart, size = network(torch.from_numpy(pixels)).numpy(), {}, {}
    sizes = {name: module.weight.numel() for name, module in network.model.named_modules() if name in layers}
    for count in (0, 1, len(layers)):
        place = tmp_path / str(count)
        place.mkdir()
        FORMATS[name].write(network, place, "int8", {"classes": "[]"}, EightBits(pixels, tuple(order[:count])))
        apart[count] = np.abs(FORMATS[name].open(place)(pixels) - exact).max()
        size[count] = sum((place / file).stat().st_size for file in FORMATS[name].files)
    assert 0 < apart[len(layers)] < 0.1  # sums and maxima are in 8 bits still
    assert 0 < apart[0] < 0.1
    for count in (1, len(layers)):  # four bytes of a weight in place of one
        assert size[count] - size[0] == pytest.approx(3 * sum(sizes[layer] for layer in order[:count]), rel=0.1)


def test_eight_bits_that_are_too_few(plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, ...]] = []
    right = Onnx.write

    def write(
        self: Onnx, network: DeployedNetwork, folder: Path, precision: Precision, metadata: object, how: EightBits
    ) -> None:
        tried.append(how.floating)
        right(self, network, folder, "fp32", metadata)  # type: ignore[arg-type]  # a mapping

    monkeypatch.setattr(Onnx, "write", write)
    monkeypatch.setattr("regraft.pipeline.export._times", lambda *_: (1.0, 1.0))
    enough = 2
    compared = compare_answers

    def compare(names: Any, labels: Any, model: np.ndarray, found: np.ndarray, precision: str) -> Any:
        wrong = np.roll(model, 1, axis=1) if len(tried[-1]) < enough else found
        return compared(names, labels, model, wrong, precision)

    monkeypatch.setattr("regraft.pipeline.export.compare_answers", compare)
    (done,) = export(plain, "onnx", precision="int8", out=tmp_path / "once")
    assert [len(floating) for floating in tried] == [0, 1, 2]
    assert done.floating == tried[-1]
    assert json.loads((done.path / "export.json").read_text())["left_in_float"] == ["head", *done.floating]
    enough = 10**9
    with pytest.raises(ExportError, match="So it is with 2 layers of the backbone left in float"):
        export(plain, "onnx", precision="int8", out=tmp_path / "again")
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["onnx-int8.rejected.json"]
    assert len(json.loads((tmp_path / "again" / "onnx-int8.rejected.json").read_text())["left_in_float"]) == 2


def test_a_saved_model_takes_files(run: Run, exports: dict[str, Path], squares_folder: Path) -> None:
    parity = json.loads((exports["savedmodel"] / "parity.json").read_text())
    assert parity["encoded"]["images"] == parity["images"]
    assert parity["encoded"]["largest_difference"] < 1e-4
    files = sorted((squares_folder / "green").iterdir())[:3]
    runtime = ExportedModel(exports["savedmodel"], trust=True).runtime
    found = runtime.encoded([file.read_bytes() for file in files])
    assert found is not None
    assert np.abs(found - np.stack([p.probabilities for p in run.predict(files)])).max() < 1e-4
    assert not ExportedModel(exports["litert"]).runtime.takes_files


def test_an_export_tells_nothing_of_this_machine(exports: dict[str, Path]) -> None:
    for name in FORMATS:
        for file in exports[name].rglob("*"):
            if file.is_file() and file.parent.name != "golden":
                assert b"/regraft/" not in file.read_bytes(), file


@pytest.mark.parametrize("name", ["model.onnx", "golden/expected.json", "golden/0.png", "export.json", "predict.py"])
def test_what_was_changed_is_refused(name: str, exports: dict[str, Path], tmp_path: Path) -> None:
    place = tmp_path / "changed"
    shutil.copytree(exports["onnx"], place)
    content = bytearray((place / name).read_bytes())
    content[len(content) // 2] ^= 1 << 6
    (place / name).write_bytes(bytes(content))
    with pytest.raises(ExportError):
        verify(place)
    assert regraft("verify", place).returncode == 1


def test_a_hostile_folder_is_refused(exports: dict[str, Path], tmp_path: Path) -> None:
    def changed(name: str, change: Callable[[Any], None]) -> str:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(exports["onnx"], place)
        value = json.loads((place / name).read_text())
        change(value)
        (place / name).write_text(json.dumps(value))
        done = regraft("verify", place)
        assert done.returncode == 1
        return done.stderr

    assert "other classes" in changed("export.json", lambda v: v["classes"].reverse())
    assert "names the image" in changed("golden/expected.json", lambda v: v[0].update(file="../0.png"))
    assert "pixels" in changed("export.json", lambda v: v["preprocessing"].update(size=224.5))
    assert "mean" in changed("export.json", lambda v: v["preprocessing"].update(mean=["a", "b", "c"]))
    assert "of format" in changed("export.json", lambda v: v.update(format="pickle"))
    assert "damaged" in changed("export.json", lambda v: v.pop("sha256"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "P", "I;16", "CMYK"])
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_the_script_reads_images_as_regraft_does(mode: str, resize: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (40, 30), np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (40, 30, 4), np.uint8), "RGBA").convert(mode)
    file = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(file, exif=Image.Exif() if mode == "CMYK" else _turned())
    preprocessing = Preprocessing(size=24, resize=resize)
    source = script_for(FORMATS["onnx"], preprocessing).replace("import onnxruntime\n", "")
    lines = [line for line in source.splitlines() if not line.startswith(("session", "classes", "here"))]
    end = next(i for i, line in enumerate(lines) if "probabilities =" in line)
    read: dict[str, Any] = {}
    with mock.patch.object(sys, "argv", ["predict.py", str(file)]):
        exec("\n".join(lines[:end]), read)
    assert np.array_equal(np.asarray(read["image"]), preprocessing(file))


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[274] = 6
    return exif


def test_an_export_that_answers_otherwise_is_not_kept(
    plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Onnx.write

    def wrong(
        self: Onnx, network: DeployedNetwork, folder: Path, precision: Precision, metadata: object, _eight_bits: None
    ) -> None:
        network.model.head.classifier.bias.data[0] += 0.01
        right(self, network, folder, precision, metadata)  # type: ignore[arg-type]  # a mapping

    monkeypatch.setattr(Onnx, "write", wrong)
    with pytest.raises(ExportError, match=r"does not answer as the run does: a probability differs .* Differing: "):
        export(plain, "onnx", out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["onnx.rejected.json"]
    told = json.loads((tmp_path / "onnx.rejected.json").read_text())
    assert told["faults"]
    assert set(told["differing"]) <= set(plain.predictions.part("val").ids)


@pytest.mark.parametrize("name", ["openvino", "exported-program"])
def test_what_the_command_suggests_works(name: str, plain: Run, squares_folder: Path, tmp_path: Path) -> None:
    done = regraft("export", plain.path, "--to", name, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "image files of the run's val part" in done.stdout
    suggested = [line.split() for line in done.stdout.splitlines() if line.startswith("  regraft ")]
    assert [words[1] for words in suggested] == ["predict", "verify"]
    for words in suggested:
        end = words.index("on") if "on" in words else len(words)
        given = [str(squares_folder / "red" / "00.png") if word == "IMAGE" else word for word in words[1:end]]
        assert regraft(*given).returncode == 0, given


def test_wrong_requests(run: Run, exports: dict[str, Path], squares_folder: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (("export", run.path), "expected some of onnx"),
        (("export", run.path, "--to", "onyx"), "Did you mean onnx"),
        (("export", run.path, "--to", "onnx", "--precision", "fp8"), "Unknown precision"),
        (("export", run.path, "--to", "exported-program", "--precision", "fp16"), "expected fp32"),
        (("export", run.path, "--to", "keras", "--precision", "int8"), "expected fp32"),
        (("export", run.path, "--to", "onnx"), "is there already"),
        (("verify", tmp_path / "none"), "is no folder"),
        (("evaluate", exports["onnx"]), "name the DATA"),
        (("predict", exports["onnx"], squares_folder / "red", "--sure", 0.9), "--sure is for runs"),
        (("predict", exports["onnx"], squares_folder / "red", "--tta", "flip"), "is for runs"),
    ):
        done = regraft(*arguments)
        assert done.returncode == 2, done.stdout
        assert words in done.stderr
    assert regraft("verify", run.path).returncode == 1


def test_an_export_needs_the_images_of_the_run(squares_split: Split, tmp_path: Path) -> None:
    model = build("mobilenetv2", classes=squares_split.classes, weights="none", image_size=32)
    run = train(model, squares_split, out=tmp_path / "run", finetune_epochs=0)
    with pytest.raises(UsageError, match="Expected --data"):
        export(run, "onnx")


def test_what_is_not_installed_is_told_before_anything_is_written(
    plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    for gone, formats, precision, extra in (
        ("tensorflow", "onnx,litert", "fp32", "tensorflow"),
        ("ai_edge_litert", "litert", "fp32", "litert"),
        ("nncf", "openvino", "int8", "int8"),
        ("onnxruntime", "onnx", "fp32", "onnx"),
    ):
        monkeypatch.setattr("importlib.util.find_spec", lambda name, gone=gone: None if name == gone else there(name))
        done = regraft("export", plain.path, "--to", formats, "--precision", precision, "--out", tmp_path)
        assert done.returncode == 2
        assert f"regraft[{extra}]" in done.stderr
    assert not list(tmp_path.iterdir())


def test_one_format_that_fails_takes_no_other_with_it(
    plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> None:
        raise LookupError("no such thing")

    monkeypatch.setattr(Onnx, "write", wrong)
    done = regraft("export", plain.path, "--to", "onnx,openvino", "--out", tmp_path)
    assert done.returncode == 1
    assert "onnx cannot be written: no such thing" in " ".join(done.stderr.split())
    assert "Accepted and kept" in " ".join(done.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["openvino"]
    verify(tmp_path / "openvino")


def test_what_is_no_number_is_refused_in_words(plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Onnx.write

    def wrong(
        self: Onnx, network: DeployedNetwork, folder: Path, precision: Precision, metadata: object, _eight_bits: None
    ) -> None:
        network.model.head.classifier.bias.data[0] = np.nan
        right(self, network, folder, precision, metadata)  # type: ignore[arg-type]  # a mapping

    monkeypatch.setattr(Onnx, "write", wrong)
    with pytest.raises(ExportError, match="does not answer as the run does"):
        export(plain, "onnx", out=tmp_path)
    assert json.loads((tmp_path / "onnx.rejected.json").read_text())["largest_difference"] is None


def test_a_layer_of_eight_bits_needs_no_other_export(tmp_path: Path) -> None:
    """A transformer's dense layers become 8 bits in LiteRT too, and many classes still add up to one."""
    torch.manual_seed(0)
    model = build("test_vit", classes=tuple(f"c{i:03}" for i in range(300)), weights="none")
    network, side = DeployedNetwork(model), model.preprocessing.size
    pixels = np.random.default_rng(0).integers(0, 256, (4, side, side, 3), np.uint8)
    sizes = []
    for precision, how in (("fp32", None), ("int8", EightBits(pixels))):
        FORMATS["litert"].write(network, tmp_path, precision, {"classes": "[]"}, how)  # type: ignore[arg-type]
        sizes.append((tmp_path / "model.tflite").stat().st_size)
    head = 4 * sum(p.numel() for p in model.head.parameters())
    assert sizes[1] - head < 0.5 * (sizes[0] - head)
    found = FORMATS["litert"].open(tmp_path)(pixels)
    assert np.abs(found.sum(axis=1) - 1).max() < 1e-3


def test_differences_are_counted_and_named() -> None:
    model = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.5, 0.5]])
    other = model + np.array([[0.0, 0.0], [-0.2, 0.2], [5e-5, -5e-5], [np.nan, 0.0]])
    labels = np.array([0, 0, 1, 0])
    parity = compare_answers(["a", "b", "c", "d"], labels, model, other.astype(np.float32), "fp32")
    assert parity.agreement == 0.75
    assert parity.differing == ("d", "b")
    assert parity.accuracy_difference == pytest.approx(-0.25)
    assert len(parity.faults) == 3
    assert compare_answers(["a", "b", "c", "d"], labels, model, model, "fp32").faults == []


@pytest.mark.parametrize("backbone", ["mobilenetv2", "vit_tiny_patch16_224"])
def test_other_backbones_export(backbone: str, tmp_path: Path) -> None:
    model = build(backbone, classes=("a", "b", "c"), weights="none", image_size=64)
    network = DeployedNetwork(model)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    expected = network(torch.from_numpy(images)).numpy()
    for name in ("onnx", "exported-program", "litert"):
        form = FORMATS[name]
        form.write(network, tmp_path, "fp32", {"classes": "[]"})
        assert np.abs(form.open(tmp_path)(images) - expected).max() < 1e-5


def test_an_exported_model_says_what_it_is(exports: dict[str, Path], run: Run) -> None:
    model = ExportedModel(exports["onnx"], threads=1)
    assert model.classes == run.classes
    with pytest.raises(ExportError, match="could not be run"):
        model.probabilities(np.zeros((1, 3, 48, 48), np.uint8))
