"""Every format x precision x backbone through the parity gate; a Markdown table.

    python benchmarks/exports.py [--backbones a,b] [--formats onnx,openvino] [--precisions fp32] [--images 120]

Each backbone gets a head, solved on solar cells of the wheel `elpv-dataset`, and is exported; those without weights on
this machine begin with random ones, which is nothing to a format. What is compared are validation image files.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from regraft.data.scan import scan
from regraft.data.split import split
from regraft.errors import RegraftError, WeightsError
from regraft.exporting.formats import FORMATS
from regraft.exporting.network import PRECISIONS
from regraft.files import write_csv
from regraft.models.classifier import build
from regraft.pipeline.demo import demo_images
from regraft.pipeline.export import export
from regraft.pipeline.run import Run
from regraft.pipeline.train import train

BACKBONES = "efficientnet_lite0,mobilenetv2,resnet50,vgg16,vit_s16"


def cells(folder: Path, count: int) -> Path:
    """A manifest of so many cells of either class, spread over all of them."""
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
    """A run of the head alone, and which weights it began with."""
    parts = split(scan(data), train=0.5, val=0.4, test=0.1)
    try:
        model = build(name, classes=parts.classes)
    except WeightsError:
        model = build(name, classes=parts.classes, weights="none")
    run = train(model, parts, out=folder / name, finetune_epochs=0)
    return run, model.weights.source


def main() -> None:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", default=BACKBONES)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--images", type=int, default=120)
    options = parser.parse_args()
    head = ["backbone (weights)", "export", "same class", "largest difference", "MB", "ms an image, alone", "in 32"]
    print(f"| {' | '.join([*head, 'the run itself'])} |\n|{'---|' * 8}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = cells(folder, options.images)
        for name in options.backbones.split(","):
            run, source = trained(name, data, folder)
            for form in options.formats.split(","):
                for precision in sorted(set(FORMATS[form].precisions) & set(options.precisions.split(","))):
                    title = f"| {name} ({'random' if source == 'none' else source}) | {form}, {precision} |"
                    try:
                        (done,) = export(run, form, precision=precision, data=data, out=folder / "exports" / name)
                    except RegraftError as error:
                        print(f"{title} {error} | | | | | |", flush=True)
                        continue
                    parity, own = done.parity, done.model_milliseconds
                    print(
                        f"{title} {parity.agreement * parity.images:.0f} of {parity.images} | "
                        f"{parity.largest_difference:.1e} | {done.megabytes:.1f} | {done.milliseconds[0]:.1f} | "
                        f"{done.milliseconds[1]:.1f} | {own[0]:.1f}, {own[1]:.1f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
