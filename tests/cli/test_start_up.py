"""A command imports a library when it needs it, because some take longer than the rest of a short command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

#: Runs commands in one process, and prints which slow libraries are loaded at places on their way.
SESSION = """
import contextlib, io, json, sys

SLOW = ("torch", "torch._dynamo", "torchvision", "timm", "matplotlib", "scipy.optimize", "sklearn", "pandas")
data, out = sys.argv[1:]
loaded = {}

def note(place):
    loaded.setdefault(place, [name for name in SLOW if name in sys.modules])

def regraft(*words):
    sys.argv = ["regraft", *words]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            cli.main()
        except SystemExit as left:
            return left.code

import regraft as package
note("import regraft")
from regraft import cli
import typer.main
for verb in ([], *([verb] for verb in typer.main.get_command(cli.app).commands)):
    regraft(*verb, "--help")
note("help")

from regraft.runs.progress import RichReporter
on_progress = RichReporter.on_progress

def noted_progress(self, name, done, total, detail=""):
    note(f"{command}: {name}")
    if command == "inspect":  # its page has charts
        sys.exit()
    on_progress(self, name, done, total, detail)

RichReporter.on_progress = noted_progress
command = "inspect"
regraft("inspect", data, "--no-labels", "--out", f"{out}.html")
assert regraft("train", "nowhere") == regraft("train", data, "--set", "training.nothing=1") == 2
note("refused")
command = "train"
regraft("train", data, "--out", out, "--epochs", "1", "--image-size", "32", "--set", "training.views=1",
        "--set", "training.cache_gb=0")
note("after")
print(json.dumps(loaded))
"""


@pytest.fixture(scope="module")
def loaded(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Place -> the libraries that are loaded there."""
    out = tmp_path_factory.mktemp("start-up") / "run"
    words = [sys.executable, "-c", SESSION, str(squares_folder), str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_help_needs_nothing(loaded: dict[str, list[str]]) -> None:
    assert loaded["import regraft"] == []
    assert loaded["help"] == []


def test_a_wrong_request_is_refused_before_pytorch_is_loaded(loaded: dict[str, list[str]]) -> None:
    assert loaded["refused"] == []


def test_the_first_image_is_read_before_pytorch_is_loaded(loaded: dict[str, list[str]]) -> None:
    assert loaded["inspect: scan"] == []
    assert loaded["train: scan"] == []


def test_fine_tuning_needs_no_compiler(loaded: dict[str, list[str]]) -> None:
    assert "torch._dynamo" not in loaded["after"]


def test_nothing_is_loaded_for_plots_before_a_model_is_trained(loaded: dict[str, list[str]]) -> None:
    assert not {"matplotlib", "sklearn", "pandas"} & set(loaded["train: evaluate"])
    assert {"torch", "matplotlib"} <= set(loaded["after"])
