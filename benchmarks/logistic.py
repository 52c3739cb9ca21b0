"""regraft against scikit-learn: LogisticRegression on the same backbone's features of the same parts.

    python benchmarks/logistic.py RUN

RUN is a finished run, such as the demo's. The peer gets the features of the run's backbone with its pretrained
weights, from the same files through the same decoder at the same size, standardised, and chooses its strength by
5-fold cross-validation inside train. Once it learns from train alone and once from train and val, since it needs no
validation part. Test accuracies with 95 % Wilson intervals, and the exact McNemar test of the difference (McNemar
1947), are printed.
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
from regraft.training.prefix import as_batch


def features(model: Classifier, data: Dataset) -> np.ndarray:
    """Pooled features (N, F) in float32."""
    rows = []
    with torch.inference_mode():
        for start in range(0, len(data), 64):
            pixels = np.stack([model.preprocessing(data.source(s)) for s in data.samples[start : start + 64]])
            rows.append(model.activations(as_batch(pixels), len(model.stages)).values.numpy())
    return np.concatenate(rows)


def main() -> None:
    """Train the peer and print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "--root", type=Path, help="folder that the paths in split.csv start from, where they are not absolute"
    )
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
    ours = run.predictions.part("test")
    right_ours = (ours.predicted == ours.labels)[[order[s.path] for s in parts.test.samples]]
    show("regraft", right_ours, run.metrics["time"]["train_seconds"])
    for name, used in (("scikit-learn, train", ["train"]), ("scikit-learn, train and val", ["train", "val"])):
        started = time.perf_counter()
        peer = make_pipeline(
            StandardScaler(),
            # Shuffled, as the parts are: neighbours in the list come from one solar module.
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
        wins, losses = int((right_ours & ~right).sum()), int((right & ~right_ours).sum())
        p_value = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
        print(f"{'':<28} regraft alone right {wins} times, the peer {losses} times: p = {p_value:.3g}")


def show(name: str, right: np.ndarray, seconds: float) -> None:
    """Print one row."""
    low, high = wilson_interval(int(right.sum()), len(right))
    print(f"{name:<28} {right.mean():.4f} ({low:.4f} to {high:.4f})  {seconds:6.1f} s")


if __name__ == "__main__":
    main()
