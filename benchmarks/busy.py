"""Training, prediction and a server beside two busy programs and alone, with short spinning and with GNU OpenMP's own.

    python benchmarks/busy.py FOLDER [ROUNDS] [--record]

Each measurement is a separate process with an empty cache; they take turns. Prints medians and ranges of seconds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from evidence import save, take_flag

#: Rounds for which GNU OpenMP spins by default; regraft's own number is in `regraft.resources`.
SPINNING = {"short spinning": {}, "GNU's default": {"GOMP_SPINCOUNT": "300000"}}
PORT = 8765
OPTIONS = ("--image-size", "96", "--finetune-epochs", "2")


def main() -> None:
    """Measure in turns and print a table."""
    record = take_flag()
    data, rounds = Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    results: dict[str, list[float]] = {}
    for number in range(rounds):
        for place, programs in (("alone", 0), ("beside two programs", 2)):
            # In turns, because the first after a change of place may be slower.
            for how, variables in sorted(SPINNING.items(), reverse=number % 2 == 1):
                with ExitStack() as stack:
                    for _ in range(programs):
                        busy = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
                        stack.callback(busy.kill)
                    for step, seconds in measure(data, variables).items():
                        results.setdefault(f"{step}, {place}, {how}", []).append(seconds)
    for name, samples in sorted(results.items()):
        print(f"{name:60} {statistics.median(samples):7.2f} s  ({min(samples):.2f} to {max(samples):.2f})")
    if record:
        save("busy", results, unit="s", title="Beside busy programs", data=data)


def measure(data: Path, variables: dict[str, str]) -> dict[str, float]:
    """Seconds of each step of a training, and of predicting the images from a new process."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, **variables, "REGRAFT_CACHE": f"{folder}/cache"}
        regraft = [sys.executable, "-m", "regraft.cli"]
        run = f"{folder}/run"
        train = [*regraft, "train", str(data), "--out", run, *OPTIONS]
        subprocess.run(train, env=environment, check=True, capture_output=True)
        seconds = json.loads(Path(run, "metrics.json").read_text())["time"]["steps"]
        started = time.perf_counter()
        subprocess.run(
            [*regraft, "predict", run, str(data), "--json"], env=environment, check=True, capture_output=True
        )
        seconds["predict"] = time.perf_counter() - started
        serve = [*regraft, "serve", run, "--port", str(PORT)]
        with subprocess.Popen(serve, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                seconds["100 requests"] = ask(next(file for file in data.rglob("*") if file.is_file()).read_bytes())
            finally:
                server.terminate()
        return seconds


def ask(image: bytes) -> float:
    """Seconds for a hundred requests, one after the other, after the server has started and answered ten."""
    address = f"http://127.0.0.1:{PORT}/predict"
    request = urllib.request.Request(address, image, {"Content-Type": "application/octet-stream"})
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(request).close()
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    for number in range(110):
        if number == 10:
            started = time.perf_counter()
        urllib.request.urlopen(request).close()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
