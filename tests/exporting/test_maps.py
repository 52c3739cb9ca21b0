"""An export with maps is explained as its run is; other exports say what is missing."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from terminal import regraft as command

import regraft
from regraft.attribution.cam import to_heat_maps
from regraft.attribution.evidence import gradcam_from_evidence
from regraft.errors import ExportError, UsageError
from regraft.exporting.export import export
from regraft.exporting.exported_model import ExportedModel
from regraft.exporting.verify import verify
from regraft.runs.run import Run


@pytest.fixture(scope="module")
def trained(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on images so large that the last maps have several cells."""
    parts = regraft.split(regraft.scan(squares_folder), val=0.25, test=0.25)
    model = regraft.build("test_efficientnet", classes=parts.classes, weights="none", image_size=64)
    return regraft.train(model, parts, out=tmp_path_factory.mktemp("trained") / "run", finetune_epochs=0, views=1)


@pytest.fixture(scope="module")
def exports(trained: Run, squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The exports with maps, by the command."""
    out = tmp_path_factory.mktemp("maps")
    done = command(
        "export", trained.path, "--to", "onnx,openvino", "--with-maps", "--out", out, "--data", squares_folder
    )
    assert done.returncode == 0, done.stderr
    assert f"regraft explain {out / 'onnx-maps'} IMAGE" in done.stdout
    return {name: out / f"{name}-maps" for name in ("onnx", "openvino")}


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_heat_maps_are_those_of_the_run(
    name: str, exports: dict[str, Path], trained: Run, squares_folder: Path
) -> None:
    model = ExportedModel(exports[name])
    files = sorted((squares_folder / "green").iterdir())[:5]
    largest = 0.0
    for options in ({"likeliest": 2}, {"label": "red"}):
        ours = regraft.explain(model, files, **options)
        for export_map, run_map in zip(ours, regraft.explain(trained, files, **options), strict=True):
            assert (export_map.stage, export_map.grid) == (run_map.stage, run_map.grid)
            assert export_map.targets == run_map.targets
            largest = max(largest, run_map.heat.max())
            np.testing.assert_allclose(export_map.heat, run_map.heat, atol=5e-3)
            np.testing.assert_allclose(export_map.probabilities, run_map.probabilities, atol=1e-4)
    assert largest > 0.9
    with pytest.raises(UsageError, match="maps of gradcam alone"):
        regraft.explain(model, files, method="layercam")
    with pytest.raises(UsageError, match=f"maps of one stage, here {ours[0].stage}"):
        regraft.explain(model, files, stage="conv_stem")


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_the_rest_of_an_export_is_as_without_maps(
    name: str, exports: dict[str, Path], trained: Run, squares_folder: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder, image = exports[name], squares_folder / "blue" / "00.png"
    assert verify(folder).agreement == 1
    assert json.loads((folder / "parity.json").read_text())["maps_difference"] < 1e-3
    expected = trained.predict(image)[0]
    (predicted,) = regraft.predict(ExportedModel(folder), image)
    np.testing.assert_allclose(predicted.probabilities, expected.probabilities, atol=1e-4)
    monkeypatch.setattr(sys, "argv", ["predict.py", str(image)])
    runpy.run_path(str(folder / "predict.py"))
    assert expected.label in capsys.readouterr().out


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_the_code_of_its_readme_gives_the_map(
    name: str, exports: dict[str, Path], squares_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (exports[name] / "README.md").read_text(encoding="utf-8")
    assert "| output | `evidence` | float32 | (N, 3, " in text
    model = ExportedModel(exports[name])
    pixels = model.preprocessing(squares_folder / "red" / "00.png")[None]
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code, count = re.subn(r"pixels = .*", "pixels = given", code)
    assert count == 1
    monkeypatch.chdir(exports[name])
    names = {"given": pixels}
    exec(code, names)
    whole = gradcam_from_evidence(
        model.evidence(pixels), np.array([names["target"]]), activation="softmax", shape=model.preprocessing.shape
    )
    heat = np.asarray(names["heat"])
    assert heat.shape == model.check_maps()["grid"]
    assert heat.max() > 0
    # Enlarged, it is regraft's map.
    enlarged = to_heat_maps(torch.tensor(heat[None]), model.preprocessing.shape)
    np.testing.assert_allclose(enlarged, whole, atol=1e-5)


def test_the_command_draws_the_maps_of_an_export(
    exports: dict[str, Path], squares_folder: Path, tmp_path: Path
) -> None:
    image = squares_folder / "red" / "00.png"
    done = command("explain", exports["onnx"], image, "--two", "--npy", "--out", tmp_path / "maps", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["images"]
    assert np.load(row["npy"]).shape == (2, 40, 40)
    assert Path(row["picture"]).is_file()
    done = command("explain", exports["onnx"], image, "--out", tmp_path / "one.jpg")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one.jpg").is_file()
    for option in (["--audit"], ["--mistakes", "3"]):
        done = command("explain", exports["onnx"], *option)
        assert done.returncode == 2
        assert "need the run that it was made from" in done.stderr


def test_an_export_without_maps_says_how_to_get_them(onnx_export: Path, squares_folder: Path, tmp_path: Path) -> None:
    image = squares_folder / "red" / "00.png"
    done = command("explain", onnx_export, image)
    assert done.returncode == 2
    assert "is an export without maps" in done.stderr
    assert "`regraft export RUN --to onnx --with-maps`" in " ".join(done.stderr.split())
    with pytest.raises(UsageError, match="without maps"):
        regraft.explain(ExportedModel(onnx_export), image)
    # A file in it is not taken for a run in a folder above.
    done = command("explain", onnx_export / "model.onnx", image)
    assert done.returncode == 1
    assert "is a file of an export" in done.stderr
    copy = tmp_path / "copy"
    shutil.copytree(onnx_export, copy)
    description = json.loads((copy / "export.json").read_text())
    maps = {"stage": "conv_head", "grid": [2, 2], "activation": "softmax"}
    for damaged in (maps, maps | {"grid": [2]}, maps | {"activation": "relu"}):
        (copy / "export.json").write_text(json.dumps(description | {"maps": damaged}))
        with pytest.raises(ExportError, match="damaged" if damaged != maps else "returned arrays of the shapes"):
            regraft.explain(ExportedModel(copy), image)


def test_formats_without_maps_and_heads_that_need_gradients_are_refused(
    run: Run, efficientnet_run: Run, tmp_path: Path
) -> None:
    for name, precision in (("exported-program", "fp32"), ("onnx", "fp16")):
        with pytest.raises(UsageError, match="has no maps; expected onnx, openvino in fp32"):
            export(run, name, precision=precision, with_maps=True, out=tmp_path)  # type: ignore[arg-type]
    # At 32 pixels the last map has one cell, and what follows the map below it is not linear.
    with pytest.raises(UsageError, match="heat maps need gradients, which an export does not have"):
        export(efficientnet_run, "onnx", with_maps=True, out=tmp_path / "exports")
    assert not (tmp_path / "exports").exists()
