"""Kill a training at random moments and resume it: is the result that of an uninterrupted training?

    python benchmarks/kills.py DATA [--kills 20] [--seed 0] [-- OPTIONS OF regraft train]

Each round starts a training, kills it with SIGKILL at a random moment, resumes it to the end, and compares weights,
history (without times), head path, split and predictions bit for bit.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REGRAFT = [sys.executable, "-m", "regraft.cli"]
TIMES = ("seconds", "images_per_second")


def fingerprint(run: Path) -> str:
    """Hash everything that must be the same."""
    digest = hashlib.sha256()
    for name in ("model.safetensors", "predictions.csv", "split.csv"):
        digest.update((run / name).read_bytes())
    for table in ("history.csv", "head_path.csv"):
        if (run / table).exists():
            with (run / table).open(newline="") as file:
                for row in csv.DictReader(file):
                    digest.update(repr([value for name, value in row.items() if name not in TIMES]).encode())
    return digest.hexdigest()


def main() -> int:
    """Kill, resume and compare; return 1 if a run has another result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments, options = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        train = [*REGRAFT, "train", str(arguments.data), *options, "--out"]
        started = time.monotonic()
        subprocess.run([*train, f"{folder}/whole"], check=True, capture_output=True)
        duration, expected = time.monotonic() - started, fingerprint(Path(folder) / "whole")
        print(f"uninterrupted: {duration:.1f} s", flush=True)
        same = 0
        for number in range(1, arguments.kills + 1):
            run, moment = Path(folder) / str(number), draw.uniform(0.15, 1.0) * duration
            process = subprocess.Popen([*train, str(run)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(moment)
                outcome = "finished"
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                outcome = "killed"
            has_started = (run / "source.json").exists() and (run / "config.toml").exists()
            command = [*REGRAFT, "train", "--resume", str(run)] if has_started else [*train, str(run)]
            subprocess.run(command, check=True, capture_output=True)
            equal = fingerprint(run) == expected
            same += equal
            print(f"{number:3} {outcome} after {moment:5.1f} s: {'same' if equal else 'DIFFERENT'}", flush=True)
    print(f"{same} of {arguments.kills} have the same result")
    return int(same != arguments.kills)


if __name__ == "__main__":
    sys.exit(main())
