"""Test accuracy and seconds of the presets, on data sets, numbers of training images and draws of them.

    python benchmarks/accuracy.py DATA [DATA ...] [--images 1000,200,50] [--draws 3] [--presets fast,balanced,best]
        [--unlabelled] [--record] [--new] [--minutes 9] [-- OPTION ...]

DATA is a folder with train/CLASS and test/CLASS, as benchmarks/datasets.py makes them, or a zip file of one. A number
of images that a set does not have, or that is less than two a class, is left out; 0 is all that it has. Each training
runs in a process of its own with an empty cache, from image files to a saved run, imports included. What follows `--`
goes to every training. `--unlabelled` adds trainings with `best` that have the training images that were not drawn,
without their labels.

`--record` adds each training to `benchmarks/results/accuracy.json` as it ends, and does not repeat what is there;
`--new` forgets what is there. With `--minutes` no training begins that would probably end later: the same command goes
on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from draw import draw
from evidence import RESULTS, commit, hash_of, processor, save, shown_command

PRESETS = ("fast", "balanced", "best")
UNLABELED = "best, others unlabeled"
#: Seconds that a training may take of which nothing is known.
_UNKNOWN = 200.0
_FILE = RESULTS / "accuracy.json"


@dataclass(frozen=True)
class Trained:
    """One training: accuracy on the test images, 0..1, seconds of the whole command, and what and where it was."""

    draw: int
    accuracy: float
    seconds: float
    backbone: str
    commit: str
    processor: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.accuracy:.4f} in {self.seconds:.0f} s, {self.backbone}"


#: Label -> trainings.
Trainings = dict[str, list[Trained]]


def main() -> None:
    """Train, print a table, and record it."""
    own, options = sys.argv[1:], list[str]()
    if "--" in own:
        own, options = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument(
        "--images", type=lambda text: [int(count) for count in text.split(",")], default=[1000, 200, 50]
    )
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--presets", type=lambda text: text.split(","), default=list(PRESETS))
    parser.add_argument("--unlabelled", action="store_true")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--new", action="store_true")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    arguments = parser.parse_args(own)
    until = time.monotonic() + 60 * arguments.minutes
    trainings: Trainings = {}
    facts: dict[str, dict[str, Any]] = {}
    if arguments.record and not arguments.new:
        trainings, facts = recorded()
    for data in arguments.data:
        with unpacked(data) as source:
            for images, number, preset in wanted(source, arguments):
                label = f"{data.stem}, {images:,} images: {preset}"
                done = trainings.setdefault(label, [])
                if any(one.draw == number for one in done):
                    continue
                if time.monotonic() + max((1.2 * one.seconds for one in done), default=_UNKNOWN) > until:
                    print("The time is over. The same command without --new goes on.")
                    print_table(trainings)
                    return
                done.append(trained(source, images, number, preset, options))
                print(f"{label}, draw {number}: {done[-1]}", flush=True)
                facts[label] = {"images": images, "test images": count(source, "test"), "data": hash_of(data)}
                if arguments.record:
                    record(trainings, facts)
    print_table(trainings)


def wanted(source: Path, arguments: argparse.Namespace) -> Iterator[tuple[int, int, str]]:
    """Numbers of images, draws and presets of a set."""
    every, classes = count(source, "train"), len(list((source / "train").iterdir()))
    for number in range(arguments.draws):
        for images in dict.fromkeys(chosen or every for chosen in arguments.images):
            if 2 * classes <= images <= every:
                yield from ((images, number, preset) for preset in arguments.presets)
                if arguments.unlabelled and images < every:
                    yield images, number, UNLABELED


def count(source: Path, part: str) -> int:
    """Number of images in a part."""
    return len(list((source / part).glob("*/*")))


@contextmanager
def unpacked(data: Path) -> Iterator[Path]:
    """The folder with train/ and test/ of a data set; that of a zip file is temporary."""
    with tempfile.TemporaryDirectory(prefix="regraft-images-") as place:
        if data.is_file():
            with zipfile.ZipFile(data) as archive:
                archive.extractall(place)
        root = Path(place) if data.is_file() else data
        found = next((path.parent for path in (root / "train", *root.glob("*/train")) if path.is_dir()), None)
        if found is None or not (found / "test").is_dir():
            raise SystemExit(f"{data} has no folders train and test; expected a set of benchmarks/datasets.py.")
        yield found


def trained(source: Path, images: int, number: int, preset: str, options: list[str]) -> Trained:
    """Train on a draw in a process with an empty cache."""
    with tempfile.TemporaryDirectory(prefix="regraft-accuracy-") as place:
        folder = Path(place)
        drawn = draw(source, folder / "labeled", images, number, unlabeled=folder / "others")
        words = ["train", str(drawn), "--preset", preset.partition(",")[0], "--out", str(folder / "run"), "--json"]
        words += [*options, "--set", f"training.seed={number}"]
        if preset == UNLABELED:
            words += ["--unlabelled", str(folder / "others")]
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "regraft", *words],
            env={**os.environ, "REGRAFT_CACHE": str(folder / "cache")}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"regraft {' '.join(words)} failed:\n{done.stderr}")
    metrics = json.loads(done.stdout)
    accuracy, backbone = metrics["test"]["accuracy"], metrics["model"]["backbone"]
    return Trained(number, accuracy, round(seconds, 1), backbone, commit(), processor())


def recorded() -> tuple[Trainings, dict[str, dict[str, Any]]]:
    """The trainings in the record."""
    if not _FILE.is_file():
        return {}, {}
    measurements = json.loads(_FILE.read_text(encoding="utf-8"))["measurements"]
    if any("trainings" not in row["facts"] for row in measurements):
        raise SystemExit(f"{_FILE.name} is of an earlier version of this benchmark. Start again with --new.")
    trainings = {row["label"]: [Trained(**one) for one in row["facts"]["trainings"]] for row in measurements}
    return trainings, {row["label"]: row["facts"] for row in measurements}


def record(trainings: Trainings, facts: dict[str, dict[str, Any]]) -> None:
    """Write the trainings, and what the table of the documentation shows."""
    labels = sorted((label for label, done in trainings.items() if done), key=lambda label: label.partition(",")[0])
    shown = {
        label: facts[label]
        | {
            "mean": with_spread([100 * one.accuracy for one in trainings[label]], "{:.1f}") + " %",
            "against_balanced": difference(trainings, label),
            "seconds": f"{median(one.seconds for one in trainings[label]):.0f}",
            "processor": ", ".join(dict.fromkeys(one.processor.partition(",")[0] for one in trainings[label])),
            "trainings": [vars(one) for one in trainings[label]],
        }
        for label in labels
    }
    save(
        "accuracy", {label: [one.accuracy for one in trainings[label]] for label in labels},
        unit="test accuracy", title="presets", facts=shown,
        command="; ".join(dict.fromkeys([*commands(), re.sub(r" --new| --minutes \S+", "", shown_command())])),
    )  # fmt: skip


def commands() -> list[str]:
    """The commands that gave what is in the record."""
    return json.loads(_FILE.read_text(encoding="utf-8"))["command"].split("; ") if _FILE.is_file() else []


def print_table(trainings: Trainings) -> None:
    """Print means, differences from `balanced`, and seconds."""
    for label, done in trainings.items():
        if done:
            shown = with_spread([100 * one.accuracy for one in done], "{:.1f}")
            seconds = median(one.seconds for one in done)
            print(f"{label:50} {shown:>16} %  {difference(trainings, label):>16}  {seconds:5.0f} s")


def difference(trainings: Trainings, label: str) -> str:
    """Mean difference from `balanced` in points over the same draws, with its standard deviation."""
    base = {one.draw: one.accuracy for one in trainings.get(f"{label.partition(': ')[0]}: balanced", [])}
    points = [100 * (one.accuracy - base[one.draw]) for one in trainings[label] if one.draw in base]
    return "" if not points or label.endswith(": balanced") else with_spread(points, "{:+.1f}")


def with_spread(values: list[float], pattern: str) -> str:
    """Mean, and standard deviation of several values."""
    spread = f" (sd {stdev(values):.1f})" if len(values) > 1 else ""
    return pattern.format(mean(values)) + spread


if __name__ == "__main__":
    main()
