"""Test accuracy of trainings with 17 validation images, with choices by their errors and with smoother ones.

    python benchmarks/small_validation.py FOLDER [--record]

FOLDER has the folders `train/` and `test/` of CIFAR-10's classes. Six sets of 150 images (two of them solar cells, one
digits), three seeds, up to 400 test images. Prints mean accuracy and its standard deviation over the seeds.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from evidence import save, take_flag
from PIL import Image
from sklearn.datasets import load_digits

from regraft.data.dataset import Dataset
from regraft.data.split import split
from regraft.models.classifier import build
from regraft.models.inference import predict_batch
from regraft.runs.demo import demo_images
from regraft.training.trainer import train

TRAINING_IMAGES, TEST_IMAGES, SEEDS, SIZE = 150, 400, (0, 1, 2), 64
Images = list[tuple[np.ndarray, str]]
#: How choices are made -> the number of validation images below which they are smoother.
RULES = {"by errors, as before": 0, "smoother": 50}


def main() -> None:
    """Train every set with both rules and print a table."""
    record, folder = take_flag(), Path(sys.argv[1])
    sets: dict[str, Callable[[], Images]] = {
        "CIFAR-10": lambda: photographs(folder),
        "cats and dogs": lambda: photographs(folder, "cat", "dog"),
        "six animals": lambda: photographs(folder, "bird", "cat", "deer", "dog", "frog", "horse"),
        "monocrystalline cells": lambda: cells("mono"),
        "polycrystalline cells": lambda: cells("poly"),
        "digits": digits,
    }
    results: dict[str, list[float]] = {}
    for name, load in sets.items():
        images = load()
        for seed in SEEDS:
            for rule, limit in RULES.items():
                with (
                    mock.patch("regraft.training.losses.SMALL_VALIDATION", limit),
                    mock.patch("regraft.training.linear_head.SMALL_VALIDATION", limit),
                ):
                    results.setdefault(f"{name}, {rule}", []).append(accuracy(images, seed))
                print(name, seed, rule, results[f"{name}, {rule}"][-1], flush=True)
    for label, samples in results.items():
        print(f"{label:45} {statistics.mean(samples):.3f}  standard deviation {statistics.stdev(samples):.3f}")
    for rule in RULES:
        chosen = [samples for label, samples in results.items() if label.endswith(rule)]
        mean, spread = statistics.mean(map(statistics.mean, chosen)), statistics.mean(map(statistics.stdev, chosen))
        print(f"{rule:45} {mean:.4f}  standard deviation {spread:.4f}")
    if record:
        save("small-validation", results, unit="accuracy", title="17 validation images", data=folder)


def accuracy(images: Images, seed: int) -> float:
    """Train on some of the images and return the accuracy on others."""
    order = np.random.default_rng(seed).permutation(len(images))
    count = min(TRAINING_IMAGES, len(images) - TRAINING_IMAGES)
    chosen, rest = ([images[i] for i in part] for part in (order[:count], order[count : count + TEST_IMAGES]))
    dataset = Dataset.from_arrays([pixels for pixels, _ in chosen], [label for _, label in chosen])
    parts = split(dataset, train=0.885, val=0.115, test=0.0, seed=seed)
    model = build("efficientnet_lite0", classes=parts.classes, image_size=SIZE)
    train(model, parts, seed=seed, cache_gb=0)
    pixels = np.stack([np.asarray(Image.fromarray(image).resize((SIZE, SIZE))) for image, _ in rest])
    batches = torch.from_numpy(pixels).permute(0, 3, 1, 2).split(64)
    probabilities = np.concatenate([predict_batch(model, batch)[0] for batch in batches])
    predicted = [model.classes[i] for i in probabilities.argmax(axis=1)]
    return float(np.mean([a == label for a, (_, label) in zip(predicted, rest, strict=True)]))


def photographs(folder: Path, *classes: str) -> Images:
    """CIFAR-10's images of some classes, or of all."""
    files = sorted(file for part in ("train", "test") for file in (folder / part).glob("*/*"))
    chosen = [file for file in files if not classes or file.parent.name in classes]
    return [(np.asarray(Image.open(file).convert("RGB")), file.parent.name) for file in chosen]


def cells(kind: str) -> Images:
    """Solar cells of one kind whose label is certain."""
    folder, images = demo_images(), []
    for line in (folder / "labels.csv").read_text().splitlines():
        name, probability, of = line.split()
        if of == kind and float(probability) in (0.0, 1.0):
            image = Image.open(folder / name).convert("RGB").resize((96, 96))
            images.append((np.asarray(image), "defective" if float(probability) else "functional"))
    return images


def digits() -> Images:
    """Scikit-learn's handwritten digits, 8 x 8 pixels, four times as large."""
    data = load_digits()
    large = [np.kron(image / 16 * 255, np.ones((4, 4))).astype(np.uint8) for image in data.images]
    return [(np.repeat(image[..., None], 3, 2), str(label)) for image, label in zip(large, data.target, strict=True)]


if __name__ == "__main__":
    main()
