"""Whether averages of weights are better than the epoch that is kept: of a training's epochs, and of several trainings.

    python benchmarks/soups.py DATA [--backbone efficientnet_lite0] [--size 160] [--seeds 0,1,2] [--record]

DATA has test images of its own, as cifar10-1k has. The trainings have one split and differ by their seeds. The weights
of every epoch are kept, which are averages over about an epoch already. A greedy soup (Wortsman et al. 2022, arXiv
2203.05482) averages them in the order of their validation accuracy, as long as that does not fall; ties are decided by
the loss. Prints test accuracies.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from unittest import mock

import torch
from evidence import save

from regraft.cache import Cache
from regraft.config import Config, load_config
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
    overrides = {"model.image_size": given.size, "model.backbone": given.backbone}
    split = scan_and_split(
        given.data, load_config(overrides=overrides | {"training.seed": given.seeds[0]}), NullReporter()
    )
    accuracies: dict[str, list[float]] = {}
    kept, epochs = list[Weights](), list[Weights]()
    for seed in given.seeds:
        config = load_config(overrides=overrides | {"training.seed": seed})
        model, judge = trained(split, config, of_seed := list[Weights]())
        kept.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        epochs += of_seed
        soups = {
            "the kept epoch": kept[-1],
            "the epoch with the best accuracy": max(of_seed, key=judge.rank),
            "the last epoch": of_seed[-1],
            "a greedy soup of the epochs": judge.greedy_soup(of_seed),
            "the last three epochs": mean_of(of_seed[-3:]),
        }
        if seed == given.seeds[-1]:
            soups["the kept epochs of all trainings"] = mean_of(kept)
            soups["a greedy soup of the epochs of all trainings"] = judge.greedy_soup(epochs)
        for name, weights in soups.items():
            accuracies.setdefault(name, []).append(judge.score(weights, "test").accuracy)
        print(seed, {name: round(values[-1], 4) for name, values in accuracies.items()}, flush=True)
    for name, values in accuracies.items():
        print(f"{name:45} {statistics.mean(values):.4f}")
    if given.record:
        facts = {name: {"mean": f"{100 * statistics.mean(values):.1f} %"} for name, values in accuracies.items()}
        save("soups", accuracies, unit="accuracy", facts=facts, data=given.data)


def trained(split: Split, config: Config, epochs: list[Weights]) -> tuple[Classifier, Judge]:
    """Train, append the weights of all epochs to a list, and return the model with what scores its weights."""
    model = build_for(config, split.dataset)
    update = BestModel.update

    def keep_and_update(best: BestModel, *arguments: Any) -> None:
        epochs.append({name: tensor.detach().clone() for name, tensor in best.model.state_dict().items()})
        update(best, *arguments)

    with mock.patch.object(BestModel, "update", keep_and_update):
        train(model, split, augmentation=config.augmentation, **asdict(config.training))
    return model, Judge(model, split, {part: activations_of(model, split, part) for part in ("val", "test")})


@dataclass(frozen=True)
class Judge:
    """Scores weights of a model on the activations of a part."""

    model: Classifier
    split: Split
    activations: Mapping[Part, Activations]

    def score(self, weights: Weights, part: Part) -> EpochMetrics:
        """Accuracy and loss on a part."""
        self.model.load_state_dict({**self.model.state_dict(), **weights})  # what is fitted after the last epoch stays
        logits = predict_logits(self.model, self.activations[part], torch.float32)
        objective = Objective("cross_entropy", 0.0, torch.ones(len(self.split.classes)))
        return compute_metrics(objective, logits, torch.from_numpy(self.split[part].labels))

    def rank(self, weights: Weights) -> tuple[float, float]:
        """Validation accuracy, then the loss."""
        metrics = self.score(weights, "val")
        return metrics.accuracy, -metrics.loss

    def greedy_soup(self, candidates: Sequence[Weights]) -> Weights:
        """The mean of those with which the validation accuracy does not fall, tried from the best on."""
        order = sorted(candidates, key=self.rank, reverse=True)
        soup, best = [order[0]], self.rank(order[0])
        for weights in order[1:]:
            if (value := self.rank(mean_of([*soup, weights]))) >= best:
                soup, best = [*soup, weights], value
        return mean_of(soup)


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
