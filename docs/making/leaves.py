"""Draw healthy, spotted and eaten leaves, as a folder of labeled images that may be redistributed.

    python docs/making/leaves.py leaves                # 90 per class
    python docs/making/leaves.py leaves --count 40 --tag spotted
    python docs/making/leaves.py leaves --new 2        # and two others per class, in `new` next to it
    python docs/making/leaves.py leaves --several      # 270 that are eaten, spotted and tagged, or not; in labels.csv

The license of most labeled photographs does not allow redistribution, so the tutorials use drawn leaves. `--tag` adds a
paper tag to the images of one class: a shortcut that a classifier learns instead of the leaf.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CLASSES = ("eaten", "healthy", "spotted")
#: Labels of which a leaf may have any number, and how often it has each.
LABELS = {"eaten": 0.4, "spotted": 0.35, "tagged": 0.15}
_SIZE, _SCALE = 256, 2  # drawn at twice the size and downscaled, which smooths the edges


def leaf(damages: Sequence[str], rng: np.random.Generator, *, tag: bool = False) -> Image.Image:
    """Draw one leaf that is `eaten` or `spotted`, on earth, stone or paper, as an RGB image of 256 x 256 pixels."""
    size = _SIZE * _SCALE
    ground = np.array([(116, 92, 66), (140, 140, 142), (214, 206, 190), (84, 96, 70)][rng.integers(4)], float)
    coarse = Image.fromarray(rng.normal(128, 40, (24, 24)).clip(0, 255).astype(np.uint8)).resize((size, size))
    grain = (np.asarray(coarse, float)[..., None] - 128) * 0.5 + rng.normal(0, 9, (size, size, 1))
    image = Image.fromarray((ground + grain).clip(0, 255).astype(np.uint8))

    length, width = size * rng.uniform(0.36, 0.44), size * rng.uniform(0.15, 0.22)
    along = np.linspace(0, 1, 60)
    half = width * np.sin(np.pi * along**0.8) ** rng.uniform(0.8, 1.2)
    x = (along - 0.5) * 2 * length
    bend = rng.uniform(-0.12, 0.12) * size * np.sin(np.pi * along)
    turn = rng.uniform(0, 2 * np.pi)
    middle = size / 2 + rng.uniform(-0.05, 0.05, 2) * size

    def to_image(xs: np.ndarray, ys: np.ndarray) -> list[tuple[float, float]]:
        cos, sin = np.cos(turn), np.sin(turn)
        return list(zip(cos * xs - sin * ys + middle[0], sin * xs + cos * ys + middle[1], strict=True))

    outline = to_image(np.r_[x, x[::-1]], np.r_[bend + half, (bend - half)[::-1]])
    green = np.array([rng.uniform(50, 110), rng.uniform(120, 170), rng.uniform(30, 70)])
    blade = Image.new("RGB", (size, size), tuple(int(v) for v in green))
    pen = ImageDraw.Draw(blade)
    vein = tuple(int(v) for v in green * 0.72 + 60)
    pen.line(to_image(x, bend), vein, 4 * _SCALE)
    for at, rim in zip(range(6, 56, 5), [*range(15, 60, 5), 59], strict=True):
        for side in (-1, 1):
            ends = np.array([bend[at], bend[rim] + side * half[rim] * 0.95])
            pen.line(to_image(x[[at, rim]], ends), vein, 2 * _SCALE)
    mask = Image.new("L", (size, size))
    cut = ImageDraw.Draw(mask)
    cut.polygon(outline, fill=255)
    for damage in (one for one in damages for _ in range(rng.integers(1, 7))):
        where, across = rng.integers(8, 50, 1), rng.uniform(-0.85, 0.85)
        (cx, cy), radius = to_image(x[where], bend[where] + across * half[where])[0], rng.uniform(0.014, 0.045) * size
        box = (cx - radius, cy - radius * rng.uniform(0.7, 1), cx + radius, cy + radius)
        if damage == "eaten":
            cut.ellipse(box, fill=0)
        else:
            pen.ellipse(box, fill=(96, 62, 30))
            pen.ellipse([(3 * a + b) / 4 for a, b in zip(box, box[2:] + box[:2], strict=True)], fill=(150, 104, 52))
    shade = mask.filter(ImageFilter.GaussianBlur(6 * _SCALE)).point(lambda v: int(v * 0.45))
    image.paste((20, 20, 16), (5 * _SCALE, 7 * _SCALE), shade)
    image.paste(blade, (0, 0), mask)
    if tag:
        paper = ImageDraw.Draw(image)
        box = (0.05 * size, 0.06 * size, 0.27 * size, 0.17 * size)
        paper.rectangle(box, fill=(246, 242, 226), outline=(120, 110, 90))
        for row in (0.095, 0.13):
            paper.line((0.075 * size, row * size, rng.uniform(0.16, 0.25) * size, row * size), (60, 60, 90), 3 * _SCALE)
    return image.resize((_SIZE, _SIZE), Image.Resampling.LANCZOS)


def damages_of(label: str) -> tuple[str, ...]:
    """What to draw on a leaf of a class."""
    return () if label == "healthy" else (label,)


def write_several(folder: Path, count: int, rng: np.random.Generator) -> None:
    """Write leaves with any number of labels, and `labels.csv`, which has them with `|` in between."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [("image", "labels")]
    for i in range(count):
        labels = [name for name, share in LABELS.items() if rng.random() < share]
        image = leaf([name for name in labels if name != "tagged"], rng, tag="tagged" in labels)
        image.save(folder / f"leaf{i:03d}.jpg", quality=90)
        rows.append((f"leaf{i:03d}.jpg", "|".join(labels)))
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def main() -> None:
    """Write the images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=90, help="images per class")
    parser.add_argument("--tag", choices=CLASSES, help="class whose images have a paper tag")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--new", type=int, default=0, help="other images per class, in the folder `new` next to it")
    parser.add_argument("--several", action="store_true", help="three times as many, with any number of labels each")
    args = parser.parse_args()
    new = args.folder.parent / "new"
    if args.several:
        write_several(args.folder, 3 * args.count, np.random.default_rng(args.seed))
        if args.new:
            write_several(new, 3 * args.new, np.random.default_rng(args.seed + 1))
            (new / "labels.csv").unlink()
        return
    if args.new:
        rng = np.random.default_rng(args.seed + 1)
        new.mkdir(parents=True, exist_ok=True)
        for label in CLASSES:
            for i in range(args.new):
                leaf(damages_of(label), rng).save(new / f"{label}{i:03d}.jpg", quality=90)
    rng = np.random.default_rng(args.seed)
    for label in CLASSES:
        (args.folder / label).mkdir(parents=True, exist_ok=True)
        for i in range(args.count):
            image = leaf(damages_of(label), rng, tag=label == args.tag)
            image.save(args.folder / label / f"{label}{i:03d}.jpg", quality=90)


if __name__ == "__main__":
    main()
