"""Whether heat maps show the defects of solar cells: ten cells whose defects were marked by hand.

    python benchmarks/defects.py RUN [--layer STAGE ...]

RUN is the folder of a `regraft demo`. The boxes were drawn before any map of these cells was seen; images come from the
wheel `elpv-dataset`. Printed for each method: how much more of the evidence for "defective" lies within the boxes than
an even map would have there (mean, median and range of the ten cells); deletion and insertion, in brackets those of the
same maps moved by half an image; and seconds an image.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from regraft.attribution.evidence import faithfulness
from regraft.attribution.maps import default_stage, explain_pixels, find_stage
from regraft.attribution.methods import METHODS, Method
from regraft.pipeline.demo import demo_images
from regraft.pipeline.explain import explain
from regraft.pipeline.run import Run, load

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
    """Which pixels lie in a box, bool (height, width)."""
    mask = np.zeros((height, width), bool)
    for left, top, right, bottom in boxes:
        mask[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = True
    return mask


def ratios(run: Run, method: Method, layer: str | None = None) -> np.ndarray:
    """Of each cell: the share of evidence within the boxes, over their share of the area."""
    found = []
    for explanation, boxes in zip(
        explain(run, files(), method=method, label="defective", stage=layer), BOXES.values(), strict=True
    ):
        heat, mask = explanation.heat[0], inside(boxes, *explanation.image.shape[:2])
        found.append(float(heat[mask].sum() / max(float(heat.sum()), 1e-12) / mask.mean()))
    return np.array(found)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--layer", nargs="*", default=[], help="stages beside the method's own")
    options = parser.parse_args()
    run = load(options.run)
    model = run.classifier
    pixels = torch.from_numpy(np.stack([model.preprocessing(file) for file in files()])).permute(0, 3, 1, 2)
    targets = torch.full((len(BOXES),), model.classes.index("defective"))
    print("| method | stage | evidence in the boxes, over an even map's | deletion | insertion | s an image |")
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
            moved = faithfulness(model, pixels, targets, maps.roll((side, side), dims=(1, 2)))
            name = "pixels" if method == "integrated-gradients" else model.stages[stage].name
            spread = f"{np.median(found):.1f} ({found.min():.1f} to {found.max():.1f})"
            print(
                f"| {method} | {name} | {found.mean():.1f}, {spread}"
                f" | {own.deletion.mean():.2f} ({moved.deletion.mean():.2f}) | {own.insertion.mean():.2f} "
                f"({moved.insertion.mean():.2f}) | {seconds:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
