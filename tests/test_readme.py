"""The README's commands and code do what it says, on small images of one's own."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from terminal import regraft, run_python

from regraft.config import load_config
from regraft.models import pretrained
from regraft.runs import subprocess_train
from regraft.runs.subprocess_train import Timing, measure_timing
from regraft.runs.train import train_from
from regraft.studies.compare import trainer
from regraft.training.callbacks import ProgressReporter

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def place(squares_folder: Path, tmp_path: Path) -> Path:
    """A folder with `photos/`, `new.jpg` and `more/`, as the README has them."""
    shutil.copytree(squares_folder, tmp_path / "photos")
    shutil.copy(squares_folder / "red" / "00.png", tmp_path / "new.jpg")
    shutil.copytree(squares_folder / "blue", tmp_path / "more")
    return tmp_path


def test_the_first_commands_are_the_makefiles() -> None:
    makefile = (ROOT / "Makefile").read_text()
    first = next(code for language, code in BLOCKS if language == "sh")
    targets = re.findall(r"^make (\S+)", first, flags=re.MULTILINE)
    assert targets == ["demo", "test", "test-slow"]
    for target in targets:
        assert f"\n{target}:" in makefile
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert ci[-2:] == ["make test", "exec make test-slow"]
    for command in ("regraft demo", "tests/gate.py"):
        assert command in makefile
        assert command in README


def test_the_command_is_there() -> None:
    done = subprocess.run([Path(sys.executable).parent / "regraft"], capture_output=True, text=True, check=False)
    assert "Start with regraft demo" in done.stdout + done.stderr


def test_python_code_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "size_for", lambda native, shorter_side: 32)  # the images have 40 pixels
    codes = [code for language, code in BLOCKS if language == "python"]
    assert codes
    for code in codes:
        done = run_python(code, cwd=place)
        assert done.returncode == 0, done.stderr
        assert "macro average" in done.stdout


def test_commands_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(data: str, config: Path, out: Path, cache: Path, reporter: ProgressReporter) -> Timing:
        """Train in this process; tests/studies/compare starts one for each model."""
        return measure_timing(train_from(data, load_config(config), out, reporter=reporter))

    monkeypatch.setattr(trainer, "train_in_subprocess", train)
    monkeypatch.setattr(trainer, "BASELINE_EPOCHS", 2)
    monkeypatch.setattr(subprocess_train, "_MIN_SECONDS", 0.1)
    lines = [
        line.partition("#")[0].strip()
        for language, code in BLOCKS
        if language == "sh"
        for line in code.splitlines()
        if line.startswith("regraft ")
    ]
    assert len(lines) >= 6
    for line in lines:
        # At the size of the little squares, and with one epoch, so that the test is quick; all else as it stands.
        command = line
        if line.startswith(("regraft train photos", "regraft tune photos")):
            command += " --image-size 32"
        if line.startswith("regraft train photos"):
            command += " --epochs 1"
        if line.startswith("regraft distill"):
            command += " --image-size 32 --epochs 1"
        if line.startswith("regraft tune"):
            command += " --trials 2 --finalists 1"
        if line.startswith("regraft compare"):
            command = command.replace(",mobilenetv2 --with ann,cnn", " --with ann")  # two models will do
            command += " --set model.image_size=32 --set training.finetune_epochs=1"
        program, *arguments = shlex.split(command.partition(">")[0])
        assert program == "regraft"
        done = regraft(*arguments, cwd=place)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        if ">" in command:
            (place / command.partition(">")[2].strip()).write_text(done.stdout)


def test_files_that_it_links_to_exist() -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.search(r"^@\w+@$|TODO|XXX", README, flags=re.MULTILINE)
