"""Run the parity gate for every format, precision and backbone, and print a Markdown table.

    python benchmarks/exports.py [--record] [--backbones a,b] [--formats onnx] [--precisions fp32] [--images 120]

Each backbone gets a head, fitted on solar cells of the wheel `elpv-dataset`, and is exported. Backbones without weights
on this machine have random ones, which does not matter for a format. Predictions for validation image files are
compared.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from evidence import save, take_flag

from regraft.atomic_io import write_csv
from regraft.data.scan import scan
from regraft.data.split import split
from regraft.errors import RegraftError, WeightsError
from regraft.exporting.export import export
from regraft.exporting.formats import FORMATS
from regraft.exporting.formats.base import PRECISIONS
from regraft.models.classifier import build
from regraft.runs.demo import demo_images
from regraft.runs.run import Run
from regraft.runs.train import train

BACKBONES = "efficientnet_lite0,mobilenetv2,resnet50,vgg16,vit_s16"


def cells(folder: Path, count: int) -> Path:
    """Write a manifest with half of `count` cells of each class, evenly spaced."""
    rows: dict[str, list[str]] = {"defective": [], "functional": []}
    for line in (demo_images() / "labels.csv").read_text().splitlines():
        name, probability, _ = line.split()
        if float(probability) in (0.0, 1.0):
            rows["defective" if float(probability) else "functional"].append(name)
    chosen = [
        (str(demo_images() / name), label)
        for label, names in rows.items()
        for name in names[:: len(names) // (count // 2)]
    ]
    write_csv(folder / "cells.csv", ("path", "label"), chosen)
    return folder / "cells.csv"


def trained(name: str, data: Path, folder: Path) -> tuple[Run, str]:
    """Train the head; return the run and the source of the backbone's weights."""
    parts = split(scan(data), train=0.5, val=0.4, test=0.1)
    try:
        model = build(name, classes=parts.classes)
    except WeightsError:
        model = build(name, classes=parts.classes, weights="none")
    run = train(model, parts, out=folder / name, finetune_epochs=0)
    return run, model.weights.source


def main() -> None:
    """Print the table row by row."""
    record = take_flag()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", default=BACKBONES)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--images", type=int, default=120)
    options = parser.parse_args()
    head = [
        "backbone (weights)",
        "export",
        "same class",
        "largest difference",
        "MB",
        "ms per image, batch 1",
        "batch 32",
    ]
    print(f"| {' | '.join([*head, 'the run itself'])} |\n|{'---|' * 8}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = cells(folder, options.images)
        for name in options.backbones.split(","):
            run, source = trained(name, data, folder)
            differences: dict[str, list[float]] = {}
            facts: dict[str, dict[str, str]] = {}
            for form in options.formats.split(","):
                for precision in sorted(set(FORMATS[form].precisions) & set(options.precisions.split(","))):
                    title = f"| {name} ({'random' if source == 'none' else source}) | {form}, {precision} |"
                    try:
                        (done,) = export(run, form, precision=precision, data=data, out=folder / "exports" / name)
                    except RegraftError as error:
                        print(f"{title} {error} | | | | | |", flush=True)
                        continue
                    parity, own = done.parity, done.model_milliseconds
                    label = f"{form}, {precision}"
                    differences[label] = [parity.largest_difference]
                    same = f"{parity.agreement * parity.images:.0f} of {parity.images}"
                    facts[label] = {"same_class": same, "MB": f"{done.megabytes:.1f}"}
                    print(
                        f"{title} {parity.agreement * parity.images:.0f} of {parity.images} | "
                        f"{parity.largest_difference:.1e} | {done.megabytes:.1f} | {done.milliseconds[0]:.1f} | "
                        f"{done.milliseconds[1]:.1f} | {own[0]:.1f}, {own[1]:.1f} |",
                        flush=True,
                    )
            if record:
                save(f"exports-{name}", differences, unit="largest difference", title=name, facts=facts)


if __name__ == "__main__":
    main()
