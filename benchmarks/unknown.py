"""Out-of-distribution detection: how well a run separates other images from those of its own kind.

    python benchmarks/unknown.py RUN DATA OTHER [--limit 400] [--record]

RUN is a finished run, DATA the data that it was trained on (its test images are used), OTHER a folder of other images.
Prints the area under the ROC curve (AUROC) of the Mahalanobis distance and of one minus the confidence, and the shares
of both kinds of images that are rejected at two values of --ood-rate.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from evidence import save, take_flag
from scipy.stats import rankdata

import regraft
from regraft.data.sources.folders import find_images


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Probability that an outside score is higher than an inside one; ties count half."""
    ranks = rankdata(np.concatenate([inside, outside]))[len(inside) :]
    return float((ranks.sum() - len(outside) * (len(outside) + 1) / 2) / (len(inside) * len(outside)))


def main() -> None:
    """Predict both sets and print the metrics."""
    record = take_flag()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--limit", type=int, default=400, help="number of images of each kind")
    options = parser.parse_args()
    run = regraft.load(options.run)
    test_ids = run.predictions.part("test").ids
    inside = [options.data / name for name in test_ids[:: max(1, len(test_ids) // options.limit)]][: options.limit]
    files, _ = find_images(options.other)
    outside = files[:: max(1, len(files) // options.limit)][: options.limit]
    predictions = [[a for a in run.predict(chosen) if a.error is None] for chosen in (inside, outside)]
    distance, confidence = (
        auroc(*(np.array([value(a) for a in part], float) for part in predictions))
        for value in (lambda a: a.ood_distance, lambda a: 1 - a.confidence)
    )
    print(f"{len(predictions[0])} test images and {len(predictions[1])} others")
    print(f"AUROC of the distance {distance:.4f}, of one minus the confidence {confidence:.4f}")
    results = {"AUROC of the distance": [distance], "AUROC of one minus the confidence": [confidence]}
    for share in (0.01, 0.05):
        rejected = [np.mean([a.ood_p_value <= share for a in part]) for part in predictions]
        print(
            f"--ood-rate {share} rejects {100 * rejected[0]:.1f} % of the test images and "
            f"{100 * rejected[1]:.1f} % of the others"
        )
        results[f"known images rejected at --ood-rate {share}"] = [float(rejected[0])]
        results[f"other images rejected at --ood-rate {share}"] = [float(rejected[1])]
    if record:
        save("out-of-distribution", results, unit="share")


if __name__ == "__main__":
    main()
