"""How well does `regraft plan` predict a training on this machine?

    python benchmarks/plan.py DATA [--record] [-- OPTIONS OF regraft train]

For each of a few trainings it asks `regraft plan` for seconds, memory and disk, then trains with an empty cache, and
prints measured values as multiples of the predicted ones. Seconds are those of the training, without the scan, the
evaluation and the report; memory is the peak of the first process; disk is what the cache has of activations, features
and pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from evidence import save, take_flag

#: Name of a training, its options for plan and train, and its number of processes.
TRAININGS: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("the head alone", ("--epochs", "0"), 1),
    ("fine-tuning", ("--epochs", "2"), 1),
    ("fine-tuning, new views in every step", ("--epochs", "2", "--set", "training.feature_cache=none"), 1),
    ("fine-tuning, 2 processes", ("--epochs", "2"), 2),
)
_TABLES = ("activations", "taps", "pixels")


def regraft(*words: object, cache: Path) -> str:
    """What a command prints; raises `RuntimeError` if it fails."""
    command = [sys.executable, "-m", "regraft", *map(str, words)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "REGRAFT_CACHE": str(cache)}
    )
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


def compare(data: Path, options: tuple[str, ...], processes: int) -> dict[str, tuple[float, float]]:
    """Seconds, memory and disk of one training: predicted and measured."""
    with tempfile.TemporaryDirectory() as folder:
        cache, run = Path(folder) / "cache", Path(folder) / "run"
        words = (data, *options, "--processes", processes)
        plan: dict[str, Any] = json.loads(regraft("plan", *words, "--json", cache=cache))
        # The scan stays in the cache, so that neither command is measured with it.
        regraft("train", *words, "--out", run, cache=cache)
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        steps = metrics["time"]["steps"]
        disk = sum(
            file.stat().st_size
            for entry in cache.iterdir()
            if entry.name.split("-")[0] in _TABLES
            for file in entry.iterdir()
        )
        return {
            "seconds": (plan["total_seconds"] - plan["seconds"]["evaluate"], sum(steps.values())),
            "memory": (plan["memory"], 1e6 * metrics["memory"]["peak_megabytes"]),
            "disk": (plan["disk"], disk),
        }


def main() -> None:
    """Plan, train and compare."""
    record = take_flag()
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    arguments, options = parser.parse_args(sys.argv[1:end]), tuple(sys.argv[end + 1 :])
    ratios: dict[str, list[float]] = {}
    facts: dict[str, dict[str, str]] = {}
    for name, own, processes in TRAININGS:
        values = compare(arguments.data, (*own, *options), processes)
        of = {what: measured / max(1, predicted) for what, (predicted, measured) in values.items()}
        ratios[name] = [of["seconds"]]
        (planned_seconds, seconds), (planned_memory, memory), (planned_disk, disk) = values.values()
        facts[name] = {
            "seconds": f"{seconds:.0f} instead of {planned_seconds:.0f}",
            "memory": f"{memory / 1e9:.2f} instead of {planned_memory / 1e9:.2f} GB",
            "disk": f"{disk / 1e6:,.0f} instead of {planned_disk / 1e6:,.0f} MB",
        }
        print(f"{name}: {facts[name]}", flush=True)
    if record:
        save(
            "plan", ratios, unit="measured / predicted seconds", title="Predictions of plan", facts=facts,
            data=arguments.data,
        )  # fmt: skip


if __name__ == "__main__":
    main()
