"""Localization of heat maps: the evidence within hand-drawn boxes around the defects of ten solar cells.

    python benchmarks/defects.py RUN [--record] [--layer STAGE ...]

RUN is the folder of a `regraft demo`. The boxes were drawn before any heat map of these cells was computed; the images
come from the wheel `elpv-dataset`. Prints for each method: the evidence for "defective" within the boxes relative to a
uniform map (mean, median and range of the ten cells); deletion and insertion, with those of the same maps shifted by
half an image in brackets; and seconds per image.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from evidence import save, take_flag

from regraft.attribution.cam import default_stage, explain_pixels, find_stage
from regraft.attribution.faithfulness import faithfulness
from regraft.attribution.methods import METHODS, Method
from regraft.runs.demo import demo_images
from regraft.runs.explain import explain
from regraft.runs.run import Run, load

#: Left, top, right and bottom of the defects, as shares of the image.
BOXES = {
    "cell0007": [(0.02, 0.28, 0.86, 0.56)],
    "cell0021": [(0.18, 0.51, 0.9, 0.82), (0.04, 0, 0.2, 0.14)],
    "cell0055": [(0.12, 0.5, 0.75, 0.75), (0.86, 0.26, 1, 0.8)],
    "cell0057": [(0.04, 0.25, 0.84, 0.55), (0.89, 0.25, 1, 0.4)],
    "cell0418": [(0.6, 0.14, 1, 0.5), (0.17, 0.22, 0.3, 0.47)],
    "cell0437": [(0.78, 0, 1, 0.2), (0.9, 0.85, 1, 0.98)],
    "cell0446": [(0.57, 0, 1, 0.5)],
    "cell0712": [(0, 0.58, 0.46, 0.76), (0.52, 0.63, 0.8, 0.82)],
    "cell0936": [(0.27, 0.44, 1, 0.84)],
    "cell1223": [(0.25, 0.1, 0.4, 0.97), (0.65, 0.2, 0.77, 0.95)],
}


def files() -> list[Path]:
    """The ten images."""
    return [demo_images() / "images" / f"{name}.png" for name in BOXES]


def inside(boxes: list[tuple[float, float, float, float]], height: int, width: int) -> np.ndarray:
    """Mask of the pixels in a box, bool (height, width)."""
    mask = np.zeros((height, width), bool)
    for left, top, right, bottom in boxes:
        mask[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = True
    return mask


def ratios(run: Run, method: Method, layer: str | None = None) -> np.ndarray:
    """For each cell, the share of evidence within the boxes divided by their share of the area."""
    found = []
    for explanation, boxes in zip(
        explain(run, files(), method=method, label="defective", stage=layer), BOXES.values(), strict=True
    ):
        heat, mask = explanation.heat[0], inside(boxes, *explanation.image.shape[:2])
        found.append(float(heat[mask].sum() / max(float(heat.sum()), 1e-12) / mask.mean()))
    return np.array(found)


def main() -> None:
    """Evaluate the methods and print a Markdown table."""
    record = take_flag()
    shares: dict[str, list[float]] = {}
    facts: dict[str, dict[str, str]] = {}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--layer", nargs="*", default=[], help="stages in addition to the default of each method")
    options = parser.parse_args()
    run = load(options.run)
    model = run.classifier
    pixels = torch.from_numpy(np.stack([model.preprocessing(file) for file in files()])).permute(0, 3, 1, 2)
    targets = torch.full((len(BOXES),), model.classes.index("defective"))
    print("| method | stage | evidence in the boxes relative to a uniform map | deletion | insertion | s per image |")
    print("|---|---|---|---|---|---|")
    for layer in (None, *options.layer):
        for method in METHODS:
            if layer is not None and method == "integrated-gradients":
                continue
            stage = default_stage(model, method) if layer is None else find_stage(model, layer)
            found = ratios(run, method, layer)
            started = time.perf_counter()
            maps = explain_pixels(model, pixels, targets, method=method, stage=stage)
            seconds = (time.perf_counter() - started) / len(maps)
            side = pixels.shape[-1] // 2
            own = faithfulness(model, pixels, targets, maps)
            shifted = faithfulness(model, pixels, targets, maps.roll((side, side), dims=(1, 2)))
            name = "pixels" if method == "integrated-gradients" else model.stages[stage].name
            spread = f"{np.median(found):.1f} ({found.min():.1f} to {found.max():.1f})"
            print(
                f"| {method} | {name} | {found.mean():.1f}, {spread}"
                f" | {own.deletion.mean():.2f} ({shifted.deletion.mean():.2f}) | {own.insertion.mean():.2f} "
                f"({shifted.insertion.mean():.2f}) | {seconds:.2f} |",
                flush=True,
            )
            label = f"{method}, {name}"
            shares[label] = found.tolist()
            facts[label] = {"seconds_per_image": f"{seconds:.2f}"}
    if record:
        save("heat-maps-on-defects", shares, unit="times an even map", facts=facts)


if __name__ == "__main__":
    main()
