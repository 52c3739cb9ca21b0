"""Folders of runs: new names, locks and left-over files."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from regraft.errors import RunError, UsageError
from regraft.runs.run_folder import lock_run, new_folder


def test_default_folders_are_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert new_folder(None, "my photos", "resnet50") == Path("runs/my-photos-resnet50")
    assert new_folder(None, "my photos", "resnet50") == Path("runs/my-photos-resnet50-2")
    assert new_folder("elsewhere") == Path("elsewhere")
    assert not Path("elsewhere").exists()


def test_a_run_or_a_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "model.json").touch()
    with pytest.raises(RunError, match="contains a run already"):
        new_folder(tmp_path)
    with pytest.raises(RunError, match="contains a run already"), lock_run(tmp_path):
        pass
    with lock_run(tmp_path, resumed=True):
        pass
    with pytest.raises(RunError, match="is a file"):
        new_folder(tmp_path / "model.json")


def test_a_run_is_never_written_among_images(tmp_path: Path) -> None:
    (tmp_path / "data" / "cat").mkdir(parents=True)
    (tmp_path / "data" / "cat" / "1.png").touch()
    for folder in ("data", "data/cat"):
        with pytest.raises(UsageError, match="contains images, such as"):
            new_folder(tmp_path / folder)
    assert new_folder(tmp_path / "data/cat/run") == tmp_path / "data/cat/run"


def test_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    for name in (".scratch/regraft-dead/activations.bin", "checkpoints/last.safetensors", "tracking/wandb.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"half")
    with lock_run(tmp_path) as path:
        assert [file.name for file in path.iterdir()] == [".lock"]
        (path / ".scratch").mkdir()
        (path / "split.csv").touch()
    assert [file.name for file in tmp_path.iterdir()] == ["split.csv"]


def test_a_locked_folder_is_refused_and_an_unused_one_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with lock_run(path), pytest.raises(RunError, match="Another process"), lock_run(path):
        pass
    assert not path.exists()
    path.mkdir()
    with FileLock(path / ".lock"), pytest.raises(RunError, match="Another process"), lock_run(path):
        pass
