"""The script `predict.py` of an export prepares images as regraft does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pillow_jxl  # noqa: F401  # registers JPEG XL
import pytest
from PIL import Image, features

from regraft.data.preprocessing import Preprocessing
from regraft.exporting.formats import FORMATS
from regraft.exporting.formats.base import ScriptParts
from regraft.exporting.predict_script import predict_script

#: Modes of each format; those of the first group store an orientation.
TURNED = {
    "jpg": ("L", "RGB", "CMYK"),
    "mpo": ("RGB",),
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "webp": ("RGB", "RGBA"),
    "tif": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
    **({"avif": ("RGB", "RGBA")} if features.check("avif") else {}),
}
UPRIGHT = {"gif": ("1", "L", "P", "RGB"), "bmp": ("1", "L", "P", "RGB"), "ppm": ("1", "L", "RGB", "I;16"),
           "jxl": ("L", "LA", "RGB", "RGBA", "I;16")}  # fmt: skip


def save(folder: Path, suffix: str, mode: str, orientation: int | None) -> Path:
    rng = np.random.default_rng(0)
    values: dict[str, tuple[int, Any]] = {"I;16": (65536, np.uint16), "I": (65536, np.int32), "F": (256, np.float32)}
    if mode in values:
        largest, kind = values[mode]
        image = Image.fromarray(rng.integers(0, largest, (40, 30)).astype(kind))
    else:
        coarse = np.kron(rng.integers(0, 256, (8, 6, 4)), np.ones((5, 5, 1))).astype(np.uint8)
        rgba = Image.fromarray(coarse, "RGBA")
        image = rgba.convert("RGB").convert(mode) if mode == "LAB" else rgba.convert(mode)
    options: dict[str, Any] = {}
    if orientation is not None:
        options["exif"] = exif = Image.Exif()
        exif[274] = orientation
    if mode == "P" and suffix != "tif" and orientation in (None, 2):
        options["transparency"] = 3
    file = folder / f"{mode.replace(';', '')}-{orientation}.{suffix}"
    image.save(file, **options)
    return file


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("files")
    turned = [(suffix, mode, number) for suffix, modes in TURNED.items() for mode in modes for number in range(1, 9)]
    upright = [(suffix, mode, None) for suffix, modes in UPRIGHT.items() for mode in modes]
    large = folder / "large.jpg"  # is decoded at a fraction of its size
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (400, 300, 3), np.uint8)).save(large)
    return [large, *(save(folder, *given) for given in [*turned, *upright])]


@pytest.mark.parametrize(
    ("resize", "size"),
    [("stretch", 24), ("crop", 24), ("pad", 24), ("stretch", (16, 40)), ("crop", (40, 16)), ("pad", (40, 16))],
)
def test_script_prepares_every_file_as_regraft_does(
    resize: Any, size: Any, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All formats, modes and orientations."""
    preprocessing = Preprocessing(size=size, resize=resize, value_range=((900.0, 60000.5), (10.0, 200.0)))
    parts = ScriptParts("nothing", "import math", "seen = []", "seen.append(np.asarray(image)) or np.ones(1)")
    (tmp_path / "export.json").write_text('{"classes": ["a"]}')
    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, files)])
    variables: dict[str, Any] = {"__file__": str(tmp_path / "predict.py"), "__name__": "script"}
    source = predict_script(SimpleNamespace(script=parts), preprocessing)  # type: ignore[arg-type]
    exec(compile(source, "predict.py", "exec"), variables)
    for file, pixels in zip(files, variables["seen"], strict=True):
        assert np.array_equal(pixels, preprocessing(file)), file.name


def test_script_needs_no_regraft(tmp_path: Path, files: list[Path]) -> None:
    source = predict_script(FORMATS["onnx"], Preprocessing(size=24)).replace("import onnxruntime\n", "")
    source = source.replace(FORMATS["onnx"].script.load, "").replace(FORMATS["onnx"].script.predict, "np.ones(1)")
    (tmp_path / "predict.py").write_text(source)
    (tmp_path / "export.json").write_text('{"classes": ["a"]}')
    program = "import runpy, sys; sys.modules['regraft'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    command = [sys.executable, "-c", program, str(tmp_path / "predict.py"), str(files[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == f"{files[1]} a 1.0000\n", done.stderr
