"""Every row of the page on what transfer-learning projects do is run, on small images and with small networks.

Rows that train on the same folder with other options share a few trainings, which have all their options.
"""

from __future__ import annotations

import gc
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
from pages import DOCS, PageRunner, Step, steps
from terminal import Done, regraft
from torch import nn

from regraft.config import Config, load_config
from regraft.models import weights
from regraft.models.registry import BackboneSpec
from regraft.models.weights import WeightsRecord
from regraft.report.plots import style
from regraft.runs import train
from regraft.runs import train_from as start
from regraft.runs.budget import RunPlan
from regraft.runs.subprocess_train import Timing
from regraft.studies.compare import compare, trainer
from regraft.training.callbacks import ProgressReporter

PAGE = DOCS / "coming-from" / "projects.md"
TEXT = PAGE.read_text(encoding="utf-8")
#: A row: what someone wants, and the code that does it, maybe with a remark.
ROW = re.compile(r"^\| (.+?) \| `([^`]+)`(?: \([^|]+\))? \|$", re.MULTILINE)
ROWS = ROW.findall(TEXT)
HEADER = "| you want | you type |"
TRAIN, EXPORT = "regraft train cells ", "regraft export runs/cells --to "
#: Numbers that take long -> the largest here.
LARGEST = {"--image-size": 32, "--epochs": 1, "--head-epochs": 1, "--trials": 2, "training.steps_per_epoch": 2}
#: Settings of trainings that have no others for them.
SMALL = {
    "model.image_size": "32", "training.finetune_epochs": "1", "training.head_epochs": "1", "training.views": "2",
    "model.backbone": "test_efficientnet",
}  # fmt: skip
_SETTINGS = {
    "--image-size": "model.image_size", "--epochs": "training.finetune_epochs",
    "--head-epochs": "training.head_epochs", "--backbone": "model.backbone", "--backbones": "model.backbone",
    "--from": "model.backbone", "--config": "model.backbone",
}  # fmt: skip


def test_the_page_has_the_sentences() -> None:
    in_tables = [line for line in TEXT.splitlines() if line.startswith("| ")]
    assert len(ROWS) == sum(line != HEADER for line in in_tables)  # else the pattern does not fit a row
    assert len({code for _, code in ROWS}) == len(ROWS) >= 101


def options_of(command: str) -> dict[str, str]:
    """The options by name, and what `--set` sets by setting."""
    words = shlex.split(command)
    pairs = [(words[i], words[i + 1]) for i in range(len(words) - 1) if words[i].startswith("--")]
    return dict(value.split("=", 1) if name == "--set" else (name, value) for name, value in pairs)


def train_with(options: dict[str, str]) -> str:
    """The command of a training."""
    pairs = [(k, v) if k.startswith("--") else ("--set", f"{k}={v}") for k, v in options.items()]
    return TRAIN + shlex.join(word for pair in pairs for word in pair)


def quick(command: str) -> str:
    """The same command on small images, with a small network and one epoch."""
    verb = re.match(r"regraft (train|tune|compare|crossval) ", command)
    if not verb or "--resume" in command or "--runs" in command:
        return command
    for option, most in LARGEST.items():
        command = re.sub(rf"(?<={option}.)\d+", lambda number, most=most: str(min(int(number[0]), most)), command)
    options = options_of(command)
    given = {_SETTINGS.get(name, name) for name in options}
    small = SMALL | ({"training.finetune_epochs": "0"} if verb[1] == "compare" else {})
    added = "".join(f"--set {name}={value} " for name, value in small.items() if name not in given)
    return command[: verb.end()] + added + command[verb.end() :]


def flat(config: Config) -> dict[str, Any]:
    """The settings by `section.key`."""
    return {f"{section}.{key}": v for section, table in config.model_dump().items() for key, v in table.items()}


DEFAULTS = flat(Config())


class _Stop(BaseException):
    """The training would start now."""


@dataclass
class Training:
    """A training for several rows: its options, and the settings that they mean."""

    options: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    done: Done | None = None


class Place:
    """The folder in which the rows run from top to bottom."""

    def __init__(self, runner: PageRunner) -> None:
        self.runner, self.path = runner, runner.place
        self.names: dict[str, Any] = {}
        self.trainings: list[Training] = []
        self.training_of: dict[str, tuple[Training, dict[str, Any]]] = {}
        self.exported: Done | None = None

    def regraft(self, command: str) -> Done:
        """Run a command that must succeed."""
        done = regraft(*shlex.split(command)[1:], cwd=self.path)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        return done

    def settings_of(self, options: dict[str, str]) -> dict[str, Any]:
        """The settings of a training, which does not start; AssertionError if it is refused."""
        with mock.patch.object(start, "train_from", side_effect=_Stop) as started, pytest.raises(_Stop):
            self.regraft(quick(train_with(options)))
        return flat(started.call_args.args[1])

    def plan(self, command: str) -> None:
        """Add a row to the first training that has no other value for an option or setting of it."""
        options = options_of(command)
        settings = {
            name: value
            for name, value in self.settings_of(options).items()
            if value != DEFAULTS[name] and str(value) != SMALL.get(name)
        }
        for training in self.trainings:
            both = training.options | options
            if any(training.settings.get(name, value) != value for name, value in settings.items()):
                continue
            if both != options | training.options or "--from" in both:  # a run decides on other settings
                continue
            try:
                found = self.settings_of(both)
            except (AssertionError, pytest.fail.Exception):  # together they are refused
                continue
            if training.settings.items() <= found.items() and settings.items() <= found.items():
                break
        else:
            self.trainings.append(training := Training())
        training.options |= options
        training.settings |= settings
        self.training_of[command] = training, settings

    def train(self, command: str) -> None:
        """Check that the training of a row has the settings of this row."""
        training, settings = self.training_of[command]
        out = self.path / "runs" / f"training-{self.trainings.index(training)}"
        if training.done is None:
            training.done = self.regraft(f"{quick(train_with(training.options))} --out {out}")
        assert settings.items() <= flat(load_config(out / "config.toml")).items()

    def export(self, command: str) -> None:
        """Export the run to all formats of the page at once, because those of TensorFlow share a model."""
        formats = [options_of(code)["--to"] for _, code in ROWS if re.fullmatch(rf"{EXPORT}\w+", code)]
        if self.exported is None:
            self.exported = self.regraft(EXPORT + ",".join(formats))
        name = {"SavedModel": "savedmodel", "TFLite": "litert"}.get(options_of(command)["--to"])
        assert (self.path / "runs/cells/exports" / (name or options_of(command)["--to"]) / "export.json").exists()

    def python(self, code: str) -> None:
        """Run a line as a notebook does: the value of an expression is shown."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # images stay open until they are collected
            try:
                expression = compile(code, "<code>", "eval")
            except SyntaxError:
                exec(code, self.names)
            else:
                is_action = re.match(r"print\(|.*\.save\(", code)
                assert eval(expression, self.names) is not None or is_action
            if "open(" in code:
                gc.collect()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    path = tmp_path_factory.mktemp("projects") / "solar"

    def from_hub(spec: BackboneSpec, image_size: int, channels: int = 3) -> tuple[nn.Module, WeightsRecord]:
        return weights._create(spec, image_size, channels), WeightsRecord("hub", spec.timm_name)

    def train_here(data: str, config: Path, out: Path, cache: Path, reporter: ProgressReporter) -> Timing:
        start.train_from(data, load_config(config), out, reporter=reporter)
        return Timing(1.0, 1.0)

    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        for name, value in {"COLUMNS": "120", "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}.items():
            patch.setenv(name, value)
        for name in ("CONFIG", "CACHE", "DATA"):
            patch.setenv(f"WANDB_{name}_DIR", str(path.parent / "wandb"))
        # TensorBoard then does not import TensorFlow.
        patch.setitem(sys.modules, "tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
        patch.setattr(weights, "_from_hub", from_hub)  # the hub's weights are random numbers here
        # Comparisons train here, untimed, and the plain networks for one epoch; tests/studies/compare has it all.
        patch.setattr(compare, "time_in_subprocess", lambda *_: Timing(1.0, 1.0))
        patch.setattr(trainer, "train_in_subprocess", train_here)
        patch.setattr(trainer, "BASELINE_EPOCHS", 1)
        patch.setattr(style, "DPI", 20)
        assert regraft("demo", "--only-images", "36", "--out", path).returncode == 0
        patch.chdir(path)
        here = Place(PageRunner(path, quick=False, stack=stack))
        for step in steps(TEXT):
            if step.kind == "save":
                (path / step.language).write_text(step.words + "\n", encoding="utf-8")
            elif step.language == "python":
                exec(step.words, here.names)
            elif step.language == "sh":
                # The run that is exported, explained and so on: the network with the fewest layers.
                here.regraft(quick(step.words.replace("cells ", "cells --backbone cnn ", 1)))
        for _, code in ROWS:
            if code.startswith(TRAIN):
                here.plan(code)
        # The run above was planned and reported; the others are not.
        patch.setattr(train, "fit_into_budget", lambda model, split, config, *_, **__: RunPlan(model, config))
        patch.setattr(train, "write_report", lambda *_, **__: None)
        yield here


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # TensorFlow's converters leave files open
@pytest.mark.parametrize(("wish", "code"), ROWS, ids=[wish for wish, _ in ROWS])
def test_what_a_row_says_can_be_done(wish: str, code: str, place: Place) -> None:
    if code.startswith(TRAIN):
        place.train(code)
    elif re.fullmatch(rf"{EXPORT}\w+", code):
        place.export(code)
    elif code.startswith("regraft serve"):
        place.runner.start(code, 0)
    elif code.startswith("curl"):
        assert place.runner.run(Step("code", 0, code, "sh"))
    elif code.startswith("regraft "):
        assert place.regraft(quick(code)).stdout
    else:
        place.python(code)
