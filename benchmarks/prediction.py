"""Speed of predictions from image files, and throughput and memory of the server, with the model that it is given.

    python benchmarks/prediction.py RUN [--images 1000] [--side 300] [--rounds 3] [--seconds 20] [--record]

Writes synthetic JPEGs, and measures in turns, each in a separate process: `predict_images` on the files with the folded
copy and with the model's own layers, and the largest difference of their probabilities; and `regraft serve RUN` under
`wrk` (of Debian; without it, the server is left out) with the sum of the largest resident memories of its processes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from evidence import save, take_flag
from memory import make
from serve import running_server, wrk

MEASURE = """
import json, sys, time
from pathlib import Path
import numpy as np
from regraft.models import inference
from regraft.models.answering import AnsweringNetwork
from regraft.runs.run import load
run, how, out, *files = sys.argv[1:]
if how == "own":
    class Own(AnsweringNetwork):
        of = classmethod(lambda cls, model: cls(model))
    inference.AnsweringNetwork = Own
model = load(run).classifier
list(inference.predict_images(model, files[:64]))
started = time.perf_counter()
answers = list(inference.predict_images(model, files))
print(len(files) / (time.perf_counter() - started))
np.save(out, [answer.answer for answer in answers])
"""


def from_files(run: str, how: str, files: list[Path], out: Path) -> float:
    """Images/s from files to predictions with the `folded` copy or the model's `own` layers; `out` gets the answers."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, run, how, str(out), *map(str, files)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout)


def served(run: str, files: list[Path], seconds: float) -> tuple[float, float]:
    """Images/s of the server at saturation, and the sum of its processes' largest resident memories in megabytes."""
    with running_server(run) as server:
        wrk(server, files, 3, 48)
        found = wrk(server, files, seconds, 48)
        return found["requests"] / found["seconds"], server.megabytes(at_peak=True)


def main() -> None:
    """Measure in turns and print medians with ranges."""
    record = take_flag()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--side", type=int, default=300, help="pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20, help="seconds of each measurement of the server")
    arguments = parser.parse_args()
    rates: dict[str, list[float]] = {}
    differences, changed, peaks = [], 0, []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "class_000").mkdir()
        for number in range(arguments.images):
            make(folder, 1, number, side=arguments.side)
        files = sorted((folder / "class_000").iterdir())
        for _ in range(arguments.rounds):
            answers = {}
            for how, label in (("folded", "from files"), ("own", "from files, the model's own layers")):
                out = folder / f"{how}.npy"
                rates.setdefault(label, []).append(from_files(arguments.run, how, files, out))
                answers[how] = np.load(out)
            differences.append(float(np.abs(answers["folded"] - answers["own"]).max()))
            changed += int((answers["folded"].argmax(axis=1) != answers["own"].argmax(axis=1)).sum())
            if shutil.which("wrk"):
                rate, peak = served(arguments.run, files[:40], arguments.seconds)
                rates.setdefault("server", []).append(rate)
                peaks.append(peak)
    facts: dict[str, dict[str, object]] = {
        "from files": {"largest_difference": f"{max(differences):.1e}", "other_classes": changed}
    }
    if peaks:
        facts["server"] = {"peak_MB": round(statistics.median(peaks))}
    for label, samples in rates.items():
        low, middle, high = min(samples), statistics.median(samples), max(samples)
        print(f"{label}: {middle:.0f} images/s ({low:.0f} to {high:.0f}) {json.dumps(facts.get(label, {}))}")
    if record:
        save("prediction", rates, unit="images/s", facts=facts)


if __name__ == "__main__":
    main()
