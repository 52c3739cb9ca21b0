"""Whether a greedy soup of the epochs of a fine-tuning is better than the epoch that is kept.

    python benchmarks/soups.py DATA [--backbone efficientnet_lite0] [--size 160] [--seeds 0,1,2] [--record]

DATA has test images of its own, as cifar10-1k has. The weights of every epoch are kept, which are averages over about
an epoch already. A greedy soup (Wortsman et al. 2022, arXiv 2203.05482) averages them in the order of their validation
accuracy, as long as that does not fall; ties are decided by the loss. Prints test accuracies.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any
from unittest import mock

import torch
from evidence import save

from regraft.cache import Cache
from regraft.config import load_config
from regraft.data.dataset import Split
from regraft.data.pixel_cache import StreamedPixels
from regraft.data.samples import Part
from regraft.models.classifier import Classifier
from regraft.runs.prepare import build_for
from regraft.runs.scan_and_split import scan_and_split
from regraft.training.activations import Activations
from regraft.training.callbacks import NullReporter
from regraft.training.feature_cache import predict_logits, run_prefix
from regraft.training.losses import EpochMetrics, Objective, compute_metrics
from regraft.training.model_selection import BestModel
from regraft.training.prefix_backend import make_backend
from regraft.training.trainer import train

Weights = Mapping[str, torch.Tensor]


def main() -> None:
    """Train once for each seed, and compare what is kept with soups."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    accuracies: dict[str, list[float]] = {}
    for seed in given.seeds:
        overrides = {"training.seed": seed, "model.image_size": given.size, "model.backbone": given.backbone}
        for name, accuracy in compare(given.data, load_config(overrides=overrides)).items():
            accuracies.setdefault(name, []).append(accuracy)
        print(seed, {name: round(values[-1], 4) for name, values in accuracies.items()}, flush=True)
    for name, values in accuracies.items():
        print(f"{name:22} {statistics.mean(values):.4f}")
    if given.record:
        save("soups", accuracies, unit="accuracy", title="soups of the epochs", data=given.data)


def compare(data: str, config: Any) -> dict[str, float]:
    """Test accuracies of the kept epoch and of soups."""
    split = scan_and_split(data, config, NullReporter())
    model = build_for(config, split.dataset)
    epochs: list[Weights] = []
    update = BestModel.update

    def keep_and_update(best: BestModel, *arguments: Any) -> None:
        epochs.append({name: tensor.detach().clone() for name, tensor in best.model.state_dict().items()})
        update(best, *arguments)

    with mock.patch.object(BestModel, "update", keep_and_update):
        train(model, split, augmentation=config.augmentation, **asdict(config.training))
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parts = {part: activations_of(model, split, part) for part in ("val", "test")}

    def score(weights: Weights, part: Part) -> EpochMetrics:
        model.load_state_dict(weights)
        logits = predict_logits(model, parts[part], torch.float32)
        objective = Objective("cross_entropy", 0.0, torch.ones(len(split.classes)))
        return compute_metrics(objective, logits, torch.from_numpy(split[part].labels))

    def rank(weights: Weights) -> tuple[float, float]:
        metrics = score(weights, "val")
        return metrics.accuracy, -metrics.loss

    order = sorted(epochs, key=rank, reverse=True)
    soup, best = [order[0]], rank(order[0])
    for weights in order[1:]:
        if (value := rank(mean_of([*soup, weights]))) >= best:
            soup, best = [*soup, weights], value
    soups = {
        "kept": kept,
        "best epoch": order[0],
        "greedy soup": mean_of(soup),
        "last three epochs": mean_of(epochs[-3:]),
    }
    return {name: score(weights, "test").accuracy for name, weights in soups.items()}


def mean_of(weights: Sequence[Weights]) -> Weights:
    """The mean of each tensor."""
    return {
        name: torch.stack([one[name].float() for one in weights]).mean(dim=0).to(tensor.dtype)
        for name, tensor in weights[0].items()
    }


def activations_of(model: Classifier, split: Split, part: Part) -> Activations:
    """Activations of the plain images at the freeze boundary, below which no epoch changes anything."""
    pixels = StreamedPixels(split[part], model.preprocessing, Cache())
    backend = make_backend("torch", model, model.boundary, torch.float32)
    return run_prefix(model, split[part], pixels, backend, Cache(), reporter=NullReporter())


if __name__ == "__main__":
    main()
