"""Several backbones are one graph in every format that takes pixels, with the resizing of each in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from terminal import regraft

from regraft.errors import ExportError
from regraft.exporting.export import export
from regraft.runs.run import Run, load


@pytest.fixture(scope="module")
def run(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("several") / "run"
    done = regraft(
        "train", squares_folder, "--out", out, "--backbone", "cnn@48,ann@32", "--weights", "none",
        "--finetune-epochs", 0, "--set", "data.val=0.25", "--set", "data.test=0.25", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["head"]["chosen"] in ("joint", "averaged")
    return load(out)


def test_every_export_predicts_as_the_run(run: Run, tmp_path: Path) -> None:
    formats = ["onnx", "openvino", "exported-program", "litert"]
    results = export(run, formats, out=tmp_path)  # the parity gate raises otherwise
    assert [result.path.name for result in results] == formats
    assert all(result.parity.images and not result.parity.exceeded_limits for result in results)


def test_hdf5_has_no_layer_that_resizes(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="Keras's HDF5 has no layer"):
        export(run, "h5", out=tmp_path)
