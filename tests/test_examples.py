"""The example of each public function runs, in the order in which the functions are used."""

from __future__ import annotations

import doctest
import inspect
import shutil
from pathlib import Path
from typing import Any

import pytest

import regraft
from regraft.models import pretrained
from regraft.runs import subprocess_train
from regraft.runs.run import Run
from regraft.signing.keys import new_key
from regraft.studies.compare import compare

FUNCTIONS = [name for name in regraft.__all__ if inspect.isfunction(getattr(regraft, name))]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def test_the_example_of_each_function_runs(
    squares_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for color, flower in (("blue", "daisy"), ("green", "rose"), ("red", "tulip")):
        shutil.copytree(squares_folder / color, tmp_path / "photos" / flower)
    (tmp_path / "photos" / "tulip" / "broken.png").unlink()
    monkeypatch.chdir(tmp_path)
    # Comparing runs starts a process for each, to time its predictions; tests/studies/compare does so.
    monkeypatch.setattr(compare, "time_in_subprocess", lambda run, reporter: subprocess_train.measure_timing(Run(run)))
    monkeypatch.setattr(pretrained, "size_for", lambda native, shorter_side: 32)  # the images have 40 pixels
    new_key(Path("signing.pem"))
    known: dict[str, Any] = {"regraft": regraft}
    runner, said = doctest.DocTestRunner(optionflags=FLAGS), list[str]()
    for name in FUNCTIONS:
        text = inspect.getdoc(getattr(regraft, name)) or ""
        example = doctest.DocTestParser().get_doctest(text, known, name, None, None)
        assert example.examples, f"{name} has no example"
        runner.run(example, out=said.append, clear_globs=False)
        known.update(example.globs)
    assert not runner.failures, "".join(said)
