"""Peer: scikit-learn's logistic regression on the features of the frozen backbone.

    python sklearn_features.py --data FOLDER --weights FILE --out FOLDER

The backbone runs once over the training images in bfloat16 with channels last on every core. The features are
standardized, and 5-fold cross-validation selects one of 13 L2 strengths by the log loss.
"""

# ruff: noqa: E402 (imports are timed apart)
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-call, attr-defined"

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import timm
import torch
from measured import decode, listing, parser_of, peak_megabytes, report
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

IMPORT_SECONDS = time.perf_counter() - STARTED

requirements = [
    "torch>=2.4",
    "torchvision>=0.19",
    "timm>=1.0.20",
    "safetensors>=0.4.3",
    "pillow>=10.3",
    "numpy>=1.26",
    "scikit-learn>=1.8",
]


class Features:
    """The frozen backbone."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Load the weights."""
        self.model: Any = timm.create_model(options.architecture, num_classes=0)
        self.model.load_state_dict(load_file(options.weights))
        self.model.eval().to(memory_format=torch.channels_last)
        self.size = options.size
        config = timm.data.resolve_model_data_config(self.model)
        self.mean = torch.tensor(config["mean"]).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(config["std"]).view(1, 3, 1, 1) * 255

    @torch.inference_mode()
    def __call__(self, files: list[Path]) -> np.ndarray:
        """Pooled features (N, F) in float32."""
        rows = []
        for start in range(0, len(files), 64):
            pixels = decode(files[start : start + 64], self.size)
            inputs = ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                rows.append(self.model(inputs).float().numpy())
        return np.concatenate(rows)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--jobs", type=int, help="folds that are fitted in parallel; default: one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)

    started = time.perf_counter()
    files, names = listing(options.data / "train")
    features = Features(options)
    x = features(files)
    featured = time.perf_counter() - started
    pipeline = make_pipeline(
        StandardScaler(),
        LogisticRegressionCV(
            Cs=np.logspace(-5, 1, 13),
            cv=StratifiedKFold(options.folds, shuffle=True, random_state=options.seed),
            scoring="neg_log_loss",
            max_iter=3000,
            l1_ratios=(0,),
            use_legacy_attributes=False,
            n_jobs=options.jobs,
        ),
    )
    pipeline.fit(x, np.array(names))
    joblib.dump(pipeline, options.out / "model.joblib")
    seconds = time.perf_counter() - started
    peak = peak_megabytes()
    print(f"features {featured:.1f} s, C = {pipeline[-1].C_:.3g}")

    test_files, _ = listing(options.data / "test")
    report(
        "sklearn",
        "logistic",
        options,
        import_seconds=IMPORT_SECONDS,
        seconds=seconds,
        peak=peak,
        predicted=[str(name) for name in pipeline.predict(features(test_files))],
        packages=("torch", "timm", "scikit-learn"),
    )


if __name__ == "__main__":
    main()
