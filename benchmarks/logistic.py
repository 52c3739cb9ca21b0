"""Compare regraft with scikit-learn's LogisticRegression on features of the same backbone and parts.

    python benchmarks/logistic.py RUN

RUN is a finished run, such as the demo's. scikit-learn gets standardized features of the pretrained backbone, from the
same files with the same preprocessing, and selects its L2 strength by 5-fold cross-validation within the training
images. It is fitted once on train and once on train and val, because it needs no validation part. Prints test
accuracies with 95 % Wilson intervals and the exact McNemar test of the difference (McNemar 1947).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import regraft
from regraft.data.dataset import Dataset
from regraft.evaluation.intervals import wilson_interval
from regraft.models.classifier import Classifier
from regraft.training.feature_cache import as_batch


def features(model: Classifier, data: Dataset) -> np.ndarray:
    """Pooled features (N, F) in float32."""
    rows = []
    with torch.inference_mode():
        for start in range(0, len(data), 64):
            pixels = np.stack([model.preprocessing(data.source(s)) for s in data.samples[start : start + 64]])
            rows.append(model.activations(as_batch(pixels), len(model.stages)).values.numpy())
    return np.concatenate(rows)


def main() -> None:
    """Fit scikit-learn's model and print both results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--root", type=Path, help="folder that relative paths in split.csv start from")
    arguments = parser.parse_args()
    run = regraft.load(arguments.run)
    parts = regraft.split(regraft.scan(run.path / "split.csv", root=arguments.root))
    preprocessing = run.classifier.preprocessing
    model = regraft.build(
        run.classifier.spec.name, classes=run.classes, image_size=preprocessing.size, resize=preprocessing.resize
    )
    x = {part: features(model, parts[part]) for part in parts}
    y = {part: parts[part].labels for part in parts}
    order = {name: i for i, name in enumerate(run.predictions.part("test").ids)}
    test = run.predictions.part("test")
    regraft_right = (test.predicted == test.labels)[[order[s.path] for s in parts.test.samples]]
    show("regraft", regraft_right, run.metrics["time"]["train_seconds"])
    for name, used in (("scikit-learn, train", ["train"]), ("scikit-learn, train and val", ["train", "val"])):
        started = time.perf_counter()
        peer = make_pipeline(
            StandardScaler(),
            # Shuffled like the parts, because neighbors in the list come from one solar module.
            LogisticRegressionCV(
                Cs=np.logspace(-5, 1, 13),
                cv=StratifiedKFold(5, shuffle=True, random_state=0),
                scoring="neg_log_loss",
                max_iter=3000,
                l1_ratios=(0,),
                use_legacy_attributes=False,
            ),
        )
        peer.fit(np.concatenate([x[p] for p in used]), np.concatenate([y[p] for p in used]))
        right = peer.predict(x["test"]) == y["test"]
        show(name, right, time.perf_counter() - started)
        wins, losses = int((regraft_right & ~right).sum()), int((right & ~regraft_right).sum())
        p_value = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
        print(f"{'':<28} only regraft right {wins} times, only scikit-learn {losses} times: p = {p_value:.3g}")


def show(name: str, right: np.ndarray, seconds: float) -> None:
    """Print accuracy, interval and seconds."""
    low, high = wilson_interval(int(right.sum()), len(right))
    print(f"{name:<28} {right.mean():.4f} ({low:.4f} to {high:.4f})  {seconds:6.1f} s")


if __name__ == "__main__":
    main()
