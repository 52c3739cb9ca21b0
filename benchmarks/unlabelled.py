"""Test accuracy with few labels, without and with the other training images as images without labels.

    python benchmarks/unlabelled.py DATA.zip [--size 160] [--images 50,200,1000] [--draws 3] [--finetune] [--record]

DATA.zip has the folders `train/` and `test/` of classes. The images of a draw (benchmarks/draw.py) have labels, and the
rest of `train/`, if any, has none; the test images are seen by nothing but the evaluation. Runs are those of
`regraft train`: the head alone on all labeled images, or with `--finetune` the default training, of which a tenth of
the labeled images is the validation part.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import zipfile
from pathlib import Path

from draw import draw
from evidence import save, take_flag

from regraft.config import load_config
from regraft.runs.train import train_from


def main() -> None:
    """Train with every number of labels, and print a table."""
    record = take_flag()
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--images", default="50,200")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--finetune", action="store_true")
    arguments = parser.parse_args()
    accuracies: dict[str, list[float]] = {}
    facts: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with zipfile.ZipFile(arguments.data) as archive:
            archive.extractall(root / "all")
        source = next(path.parent for path in sorted((root / "all").rglob("train")) if path.is_dir())
        for number in map(int, arguments.images.split(",")):
            for seed in range(arguments.draws):
                labeled, unlabeled = root / "labeled", root / "unlabelled"
                draw(source, labeled, number, seed, unlabeled=unlabeled)
                for name, others in (("labels alone", ""), ("with the rest unlabeled", str(unlabeled))):
                    if others and not any(unlabeled.iterdir()):
                        continue
                    overrides = {
                        "model.image_size": arguments.size,
                        "training.seed": seed,
                        "data.unlabelled": others,
                    }
                    if not arguments.finetune:
                        overrides |= {"training.finetune_epochs": 0, "data.val": 0.0}
                    run = train_from(labeled, load_config(overrides=overrides), root / "run")
                    label = f"{number} images, {name}"
                    accuracies.setdefault(label, []).append(run.metrics["test"]["accuracy"])
                    seconds = run.metrics["time"]["train_seconds"]
                    facts.setdefault(label, {})[f"draw {seed}"] = {
                        "seconds": round(seconds, 1), "unlabelled": run.metrics.get("unlabelled"),
                    }  # fmt: skip
                    print(f"{label}, draw {seed}: {accuracies[label][-1]:.4f} in {seconds:.1f} s", flush=True)
                    notes = [note for note in run.metrics["training"]["notes"] if note.startswith("Unlabeled")]
                    print(*notes, sep="\n", end="\n" if notes else "")
                    shutil.rmtree(root / "run")
    for label, samples in accuracies.items():
        spread = statistics.stdev(samples) if len(samples) > 1 else 0.0
        print(f"{label:40} {statistics.mean(samples):.4f}  standard deviation {spread:.4f}")
    if record:
        name = "unlabelled-finetuned" if arguments.finetune else "unlabelled"
        save(name, accuracies, unit="accuracy", facts=facts)


if __name__ == "__main__":
    main()
