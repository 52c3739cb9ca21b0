"""How well pictures of something else are told from the cells that a run was trained on, and the other way round.

    python benchmarks/unknown.py RUN KNOWN OTHER [--most 400]

RUN is a finished run, KNOWN the data that it was trained on (its test images count), OTHER a folder of other pictures.
Printed: the area under the ROC curve of the distance by which familiarity is judged, that of one less the confidence,
and which shares of both are called unknown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

import regraft
from regraft.data.layout import find_images


def area(inside: np.ndarray, outside: np.ndarray) -> float:
    """Probability that one outside scores higher than one inside; ties count half."""
    ranks = rankdata(np.concatenate([inside, outside]))[len(inside) :]
    return float((ranks.sum() - len(outside) * (len(outside) + 1) / 2) / (len(inside) * len(outside)))


def main() -> None:
    """Predict both, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("known", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--most", type=int, default=400, help="images of each")
    options = parser.parse_args()
    run = regraft.load(options.run)
    tested = run.predictions.part("test").ids
    known = [options.known / name for name in tested[:: max(1, len(tested) // options.most)]][: options.most]
    files, _ = find_images(options.other)
    other = files[:: max(1, len(files) // options.most)][: options.most]
    answers = [[a for a in run.predict(chosen) if a.error is None] for chosen in (known, other)]
    distance, doubt = (
        area(*(np.array([value(a) for a in part], float) for part in answers))
        for value in (lambda a: a.distance, lambda a: 1 - a.confidence)
    )
    print(f"{len(answers[0])} known and {len(answers[1])} others")
    print(f"AUROC of the distance {distance:.4f}, of one less the confidence {doubt:.4f}")
    for share in (0.01, 0.05):
        called = [np.mean([a.familiarity <= share for a in part]) for part in answers]
        print(f"--unknown {share}: {100 * called[0]:.1f} % of the known and {100 * called[1]:.1f} % of the others")


if __name__ == "__main__":
    main()
