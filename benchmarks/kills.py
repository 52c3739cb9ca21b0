"""Kill a training at random moments and let it go on: are the numbers those of an undisturbed one?

    python benchmarks/kills.py DATA [--kills 20] [--seed 0] [-- OPTIONS OF regraft train]

Each round starts a training, kills it with SIGKILL once after a random share of the undisturbed time, resumes it to the
end, and compares weights, history without times, and predictions bit for bit.
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
    """Of everything that must be the same."""
    digest = hashlib.sha256()
    for name in ("model.safetensors", "predictions.csv", "split.csv"):
        digest.update((run / name).read_bytes())
    with (run / "history.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            digest.update(repr([value for name, value in row.items() if name not in TIMES]).encode())
    return digest.hexdigest()


def main() -> int:
    """Kill, resume, compare; 1 if any run ended with other numbers."""
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
        whole, expected = time.monotonic() - started, fingerprint(Path(folder) / "whole")
        print(f"undisturbed: {whole:.1f} s", flush=True)
        same = 0
        for number in range(1, arguments.kills + 1):
            run, moment = Path(folder) / str(number), draw.uniform(0.15, 1.0) * whole
            process = subprocess.Popen([*train, str(run)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(moment)
                how = "it had ended"
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                how = "killed"
            begun = (run / "source.json").exists() and (run / "config.toml").exists()
            again = [*REGRAFT, "train", "--resume", str(run)] if begun else [*train, str(run)]
            subprocess.run(again, check=True, capture_output=True)
            equal = fingerprint(run) == expected
            same += equal
            print(f"{number:3} {how} after {moment:5.1f} s: {'the same' if equal else 'OTHER NUMBERS'}", flush=True)
    print(f"{same} of {arguments.kills} the same")
    return int(same != arguments.kills)


if __name__ == "__main__":
    sys.exit(main())
