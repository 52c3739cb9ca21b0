"""Drift on solar cells: how surely polycrystalline cells are found in place of monocrystalline ones, and false alarms.

    python benchmarks/drift.py [--draws 200] [--pictures 100] [--size 160] [--seed 0] [--record]

The cells are those of the wheel `elpv-dataset` on whose label all experts agree. A head is trained on half of the
monocrystalline cells. The others, which it has not seen, are the same: each draw divides them anew into `--pictures`
new ones and a reference, so that every alarm is a false one. Another draw takes as many polycrystalline cells against
such a reference. Prints how often a change is found at the default rate of false alarms and at others, and the p-values
(of all tests together, by Holm) of what was drawn; then what `regraft drift` says of a folder of polycrystalline cells.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
from evidence import save, take_flag

import regraft
from regraft.atomic_io import write_csv
from regraft.evaluation.drift.changes import ALPHA, Changes, find_changes
from regraft.evaluation.drift.observations import Observations
from regraft.runs.demo import demo_images
from regraft.runs.train import train_from
from regraft.studies.drift.observe import observe
from regraft.training.callbacks import NullReporter


def cells() -> dict[str, list[tuple[Path, str]]]:
    """Path and label of each cell with a certain label, by its kind."""
    folder, found = demo_images(), dict[str, list[tuple[Path, str]]]()
    for line in (folder / "labels.csv").read_text().splitlines():
        name, probability, kind = line.split()
        if float(probability) in (0.0, 1.0):
            found.setdefault(kind, []).append((folder / name, "defective" if float(probability) else "functional"))
    return found


def smallest(changes: Changes) -> float:
    """The p-value of all tests together."""
    return min(one.adjusted for one in changes.tests)


def divided(
    unseen: Observations, others: Observations, count: int, rng: np.random.Generator
) -> tuple[Changes, Changes]:
    """The changes of a random part of unseen pictures, and of as many others, against the rest of the unseen ones."""
    order = rng.permutation(len(unseen))
    reference, drawn = unseen.take(order[count:]), others.take(rng.permutation(len(others))[:count])
    return find_changes(reference, unseen.take(order[:count])), find_changes(reference, drawn)


def main() -> None:
    """Train, draw, and print."""
    record = take_flag()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--size", type=int, default=160, help="side of the model's input")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found, rng = cells(), np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        write_csv(place / "mono.csv", ("path", "label"), [(str(path), label) for path, label in found["mono"]])
        settings = {
            "model.image_size": options.size, "training.finetune_epochs": 0, "training.seed": options.seed,
            "data.val": 0.25, "data.test": 0.25,
        }  # fmt: skip
        run = train_from(place / "mono.csv", regraft.load_config(overrides=settings), place / "run")
        unseen = [str(path) for path in run.every_prediction.ids]
        poly = [str(path) for path, _ in found["poly"]]
        same, others = (observe(run.classifier, files, files, NullReporter(), "")[0] for files in (unseen, poly))
        print(f"{len(found['mono'])} monocrystalline cells, {len(same)} of them unseen, and {len(others)} others")
        pairs = [divided(same, others, options.pictures, rng) for _ in range(options.draws)]
        p_values = {
            "monocrystalline": [smallest(of_same) for of_same, _ in pairs],
            "polycrystalline": [smallest(of_others) for _, of_others in pairs],
        }
        facts = {}
        for kind, values in p_values.items():
            rates = {f"found_at_{rate:g}": float(np.mean(np.array(values) <= rate)) for rate in (ALPHA, 0.05, 0.001)}
            facts[kind] = {**rates, "smallest_p": min(values), "largest_p": max(values)}
            print(f"{kind}: {', '.join(f'{name} {value:.4g}' for name, value in facts[kind].items())}")
        for one in pairs[0][1].tests:
            print(f"  {one.test}: p = {one.p_value:.2g}, of all tests {one.adjusted:.2g}. {one.sentence}")
        (place / "new").mkdir()
        for number in rng.permutation(len(poly))[: options.pictures].tolist():
            shutil.copy(poly[number], place / "new")
        said = regraft.drift(run, place / "new")
        print(said)
        facts["polycrystalline"] |= {"command": said.changes.verdict, "p_of_the_command": smallest(said.changes)}
    if record:
        save("drift", p_values, unit="p-value", title="Solar cells of another kind", facts=facts, data=demo_images())


if __name__ == "__main__":
    main()
