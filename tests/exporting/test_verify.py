"""Verification of an export by its golden images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from terminal import regraft

from regraft.errors import ExportError
from regraft.exporting.verify import verify


@pytest.fixture
def copy(onnx_export: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(onnx_export, tmp_path / "copy"))


def test_golden_images_have_different_classes(onnx_export: Path) -> None:
    rows = json.loads((onnx_export / "golden" / "expected.json").read_text())
    assert len(rows) == 4
    assert len({row["label"] for row in rows}) > 1
    assert verify(onnx_export).images == 4


@pytest.mark.parametrize("name", ["model.onnx", "golden/expected.json", "golden/0.png", "predict.py"])
def test_changed_file_is_refused(name: str, copy: Path) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1 << 6
    (copy / name).write_bytes(bytes(content))
    with pytest.raises(ExportError):
        verify(copy)
    assert regraft("verify", copy).returncode == 1


def test_inconsistent_export_is_refused(copy: Path) -> None:
    def changed(name: str, old: str, new: str) -> str:
        original = (copy / name).read_text()
        assert old in original
        (copy / name).write_text(original.replace(old, new, 1))
        with pytest.raises(ExportError) as caught:
            verify(copy)
        (copy / name).write_text(original)
        return str(caught.value)

    description = json.loads((copy / "export.json").read_text())
    first, second, *_ = description["classes"]
    swapped = json.dumps([second, first, *description["classes"][2:]])
    description["classes"] = json.loads(swapped)
    original = (copy / "export.json").read_text()
    (copy / "export.json").write_text(json.dumps(description))
    with pytest.raises(ExportError, match="are not those of the golden images"):
        verify(copy)
    (copy / "export.json").write_text(original)

    expected = json.loads((copy / "golden" / "expected.json").read_text())
    assert "names the image" in changed("golden/expected.json", '"0.png"', '"../0.png"')
    assert "SHA-256 differs" in changed("golden/expected.json", expected[0]["sha256"], "0" * 64)
    assert "precision" in changed("export.json", '"fp32"', '"fp8"')
    verify(copy)
