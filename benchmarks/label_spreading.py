"""Time and memory to spread labels over many images: regraft's sparse graph, and scikit-learn's LabelSpreading.

    python benchmarks/label_spreading.py [--rows 5000,20000] [--record]

Features are noise around 100 class centers, float32 (N, 1280), of which a tenth have a label. Both take ten neighbors
and alpha 0.8, and run in a process of their own; memory is its peak above what it had with the features alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
from evidence import save, take_flag

FEATURES, CLASSES, NEIGHBORS, ALPHA = 1280, 100, 10, 0.8
METHODS = {"regraft": "sparse graph, conjugate gradients", "knn": "LabelSpreading, knn", "rbf": "LabelSpreading, rbf"}


def main() -> None:
    """Measure each method in a process of its own."""
    record = take_flag()
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", default="5000,20000")
    parser.add_argument("--method", choices=METHODS)
    arguments = parser.parse_args()
    if arguments.method:
        print(json.dumps(measure(arguments.method, int(arguments.rows))))
        return
    seconds: dict[str, list[float]] = {}
    facts: dict[str, dict[str, object]] = {}
    for rows in arguments.rows.split(","):
        for method, name in METHODS.items():
            command = [sys.executable, __file__, "--method", method, "--rows", rows]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            label = f"{name}, {int(rows):,} rows"
            if done.returncode:
                print(f"{label}: failed, {done.stderr.strip().splitlines()[-1:]}")
                continue
            result = json.loads(done.stdout)
            seconds[label], facts[label] = [result.pop("seconds")], result
            print(f"{label}: {seconds[label][0]:.1f} s, {result}", flush=True)
    if record:
        save("label-spreading", seconds, unit="s", facts=facts)


def measure(method: str, rows: int) -> dict[str, float]:
    """Seconds, megabytes and accuracy on the images without labels."""
    rng = np.random.default_rng(0)
    classes = rng.integers(CLASSES, size=rows)
    centers = rng.normal(size=(CLASSES, FEATURES)).astype(np.float32)
    features = centers[classes] + 3 * rng.normal(size=(rows, FEATURES)).astype(np.float32)
    labeled = rows // 10
    if method == "regraft":
        import torch

        from regraft.training.label_propagation import nearest_neighbors, propagate

        before, started = _peak(), time.perf_counter()
        graph = nearest_neighbors(torch.from_numpy(features), NEIGHBORS)
        start_rows = np.zeros((rows, CLASSES))
        start_rows[np.arange(labeled), classes[:labeled]] = 1
        found = propagate(graph, start_rows, labeled, alpha=ALPHA).argmax(axis=1)
    else:
        from sklearn.semi_supervised import LabelSpreading

        given = np.where(np.arange(rows) < labeled, classes, -1)
        before, started = _peak(), time.perf_counter()
        model = LabelSpreading(kernel=method, n_neighbors=NEIGHBORS, gamma=1 / FEATURES, alpha=ALPHA)
        found = model.fit(features, given).transduction_[labeled:]
    seconds = time.perf_counter() - started
    accuracy = float((found == classes[labeled:]).mean())
    return {"seconds": seconds, "megabytes": round(_peak() - before), "accuracy": round(accuracy, 4)}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
