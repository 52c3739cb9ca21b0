"""Peer: scikit-learn's logistic regression on the features of the frozen backbone.

    python sklearn_features.py --data FOLDER --weights FILE --out FOLDER

The backbone runs once over the training images in bfloat16 with channels last on every core. The features are
standardised, and the strength is chosen by 5-fold cross-validation (by the log loss) among 13.
"""

# ruff: noqa: E402 (imports are timed apart)
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-call, attr-defined"

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse
import csv
import json
import os
import resource
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import timm
import torch
from PIL import Image, ImageOps
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

ENDINGS = {".png", ".jpg", ".jpeg"}


def listing(folder: Path) -> tuple[list[Path], list[str]]:
    """Image files below class folders, and the class of each."""
    files = sorted(file for file in folder.glob("*/*") if file.suffix.lower() in ENDINGS)
    return files, [file.parent.name for file in files]


class Features:
    """The frozen backbone."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Build it from the file's weights."""
        self.model: Any = timm.create_model(options.architecture, num_classes=0)
        self.model.load_state_dict(load_file(options.weights))
        self.model.eval().to(memory_format=torch.channels_last)
        self.size = options.size
        config = timm.data.resolve_model_data_config(self.model)
        self.mean = torch.tensor(config["mean"]).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(config["std"]).view(1, 3, 1, 1) * 255

    def decode(self, file: Path) -> torch.Tensor:
        """uint8 (3, size, size): upright RGB, stretched to the square."""
        with Image.open(file) as image:
            rgb = ImageOps.exif_transpose(image).convert("RGB")
            pixels = np.array(rgb.resize((self.size, self.size), Image.Resampling.BICUBIC))
        return torch.from_numpy(pixels).permute(2, 0, 1)

    @torch.inference_mode()
    def __call__(self, files: list[Path]) -> np.ndarray:
        """Pooled features (N, F) in float32."""
        rows = []
        for start in range(0, len(files), 64):
            pixels = torch.stack([self.decode(file) for file in files[start : start + 64]])
            inputs = ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                rows.append(self.model(inputs).float().numpy())
        return np.concatenate(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/CLASS and test/CLASS")
    parser.add_argument("--weights", type=Path, required=True, help="backbone weights under timm's names")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--architecture", default="tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--jobs", type=int, help="folds that are solved at once; default: one")
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

    test_files, truth = listing(options.data / "test")
    predicted = [str(name) for name in pipeline.predict(features(test_files))]
    report("sklearn", "logistic", options, seconds, peak, test_files, truth, predicted)


def peak_megabytes() -> float:
    """The largest resident size so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def report(
    peer: str,
    recipe: str,
    options: argparse.Namespace,
    seconds: float,
    peak: float,
    files: list[Path],
    truth: list[str],
    predicted: list[str],
) -> None:
    """Write the predictions and print the result as the last line."""
    with (options.out / "predictions.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "predicted"])
        for row in zip(files, truth, predicted, strict=True):
            writer.writerow([row[0].relative_to(options.data).as_posix(), *row[1:]])
    correct = sum(a == b for a, b in zip(truth, predicted, strict=True))
    result = {
        "peer": peer,
        "recipe": recipe,
        "accuracy": correct / len(truth),
        "correct": correct,
        "count": len(truth),
        "seconds": round(seconds, 3),
        "import_seconds": round(IMPORT_SECONDS, 3),
        "peak_megabytes": round(peak, 1),
        "size": options.size,
        "seed": options.seed,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "timm", "scikit-learn")},
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
