"""Plant faults among real images, and see which of them `regraft inspect` finds.

    python benchmarks/planted.py [--each 100] [--seed 0] [--no-labels] [--keep FOLDER]

The images are the solar cells of the wheel `elpv-dataset` whose labels are certain, one of each set that regraft takes
for near duplicates (the cells contain many: neighbours of one silicon block). Precision is therefore that among planted
copies and cells that were taken for different ones. Planted are: copies of `--each` cells, byte for byte, re-encoded,
resized, cropped by 5 %, with another brightness, and mirrored; 5 % of the labels swapped; and, in a second folder,
larger pictures of one class.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from regraft.data.audit import CONFIRMED, Inspection
from regraft.data.dataset import Dataset
from regraft.data.duplicates import Forest
from regraft.data.scan import scan
from regraft.evaluation.intervals import wilson_interval
from regraft.files import write_csv
from regraft.pipeline.demo import demo_images, write_demo_manifest
from regraft.pipeline.inspect import inspect
from regraft.store import Store

KINDS = ("exact", "re-encoded", "resized", "cropped by 5 %", "brightness", "mirrored")


@dataclass(frozen=True)
class Truth:
    """What was planted: the original and the kind of each copy, and the paths whose label was swapped."""

    copies: dict[str, tuple[str, str]]
    swapped: frozenset[str]


def cells(store: Store, every: int = 1) -> list[tuple[Path, str]]:
    """File and label of cells that are all taken for different ones; of each `every`, one is looked at."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_demo_manifest(Path(folder) / "cells.csv", demo_images())
        lines = manifest.read_text().splitlines()
        manifest.write_text("\n".join([lines[0], *lines[1::every]]))
        while True:
            found = scan(manifest, store=store)
            firsts = {sample.twins or sample.sha256: sample for sample in reversed(found.samples)}
            kept = [(found.root / s.path, s.label) for s in sorted(firsts.values(), key=lambda s: s.path)]
            if len(kept) == len(found):
                return kept
            # Among fewer cells others may be taken for the same.
            write_csv(manifest, ("path", "label"), [(str(file), label) for file, label in kept])


def plant(originals: list[tuple[Path, str]], folder: Path, *, each: int, seed: int, swap: float = 0.05) -> Truth:
    """Write the images and their altered copies below `folder`, and `labels.csv` that says what is what."""
    rng = np.random.default_rng(seed)
    chosen = iter(rng.permutation(len(originals))[: each * len(KINDS)].reshape(len(KINDS), -1))
    labels = sorted({label for _, label in originals})
    swapped: set[str] = set()
    names: list[str] = []
    for i, (file, label) in enumerate(originals):
        other = rng.random() < swap
        given = labels[1 - labels.index(label)] if other else label
        name = f"{given}/{file.stem}.png"
        (folder / given).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / name)
        names.append(name)
        if other:
            swapped.add(name)
        assert len(names) == i + 1
    copies: dict[str, tuple[str, str]] = {}
    for kind in KINDS:
        for i in next(chosen):
            original = folder / names[i]
            data, ending = altered(original.read_bytes(), kind, rng)
            copy = f"{Path(names[i]).parent}/{rng.integers(10**9):09d}{ending}"
            (folder / copy).write_bytes(data)
            copies[copy] = (names[i], kind)
            if names[i] in swapped:
                swapped.add(copy)
    return Truth(copies, frozenset(swapped))


def altered(data: bytes, kind: str, rng: np.random.Generator) -> tuple[bytes, str]:
    """The bytes and the ending of a copy."""
    if kind == "exact":
        return data, ".png"
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    if kind == "re-encoded":
        return encoded(image, "JPEG", quality=int(rng.integers(50, 96))), ".jpg"
    if kind == "resized":
        scale = rng.uniform(0.4, 1.6)
        image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    elif kind == "cropped by 5 %":
        left, top = (int(rng.integers(0, side - round(0.95 * side) + 1)) for side in (width, height))
        image = image.crop((left, top, left + round(0.95 * width), top + round(0.95 * height)))
    elif kind == "brightness":
        image = ImageEnhance.Brightness(image).enhance(
            float(rng.choice([rng.uniform(0.6, 0.85), rng.uniform(1.15, 1.4)]))
        )
    else:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return encoded(image, "PNG"), ".png"


def encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    """An image file's bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def plant_shortcut(originals: list[tuple[Path, str]], folder: Path) -> None:
    """One class a tenth larger than the other."""
    large = min(label for _, label in originals)
    for file, label in originals:
        image = Image.open(file)
        (folder / label).mkdir(parents=True, exist_ok=True)
        image.resize((330, 330) if label == large else image.size).save(folder / label / file.name)


def duplicates_found(dataset: Dataset, truth: Truth) -> tuple[dict[str, tuple[int, int]], tuple[int, int]]:
    """Found and planted by kind; and, of the pairs that are taken for the same, the right ones and all."""
    samples = dataset.samples
    number = {sample.path: i for i, sample in enumerate(samples)}
    sets = Forest(len(samples))
    first: dict[str, int] = {}
    for i, sample in enumerate(samples):
        for name in (sample.sha256, sample.twins):
            if name:
                sets.join(i, first.setdefault(name, i))
    recall = {kind: (0, 0) for kind in KINDS}
    for copy, (original, kind) in truth.copies.items():
        hit = sets.root(number[copy]) == sets.root(number[original])
        recall[kind] = (recall[kind][0] + hit, recall[kind][1] + 1)
    origin = {path: truth.copies.get(path, (path, ""))[0] for path in number}
    groups: dict[int, list[str]] = {}
    for path, i in number.items():
        groups.setdefault(sets.root(i), []).append(origin[path])
    right = total = 0
    for members in groups.values():
        total += len(members) * (len(members) - 1) // 2
        right += sum(n * (n - 1) // 2 for n in (members.count(m) for m in set(members)))
    return recall, (right, total)


def confirmed(dataset: Dataset, truth: Truth) -> dict[bool, tuple[int, int]]:
    """Of the pairs taken for the same, rightly and wrongly: those that the features confirm, and all."""
    counts = {True: (0, 0), False: (0, 0)}
    for pair in dataset.pairs:
        first, second = (truth.copies.get(path, (path, ""))[0] for path in (pair.first, pair.second))
        agreed, count = counts[first == second]
        counts[first == second] = (agreed + (pair.features is not None and pair.features >= CONFIRMED), count + 1)
    return counts


def labels_found(inspection: Inspection, truth: Truth) -> tuple[int, int, int]:
    """Swapped labels among as many of the top findings, swapped labels among all findings, and all findings."""
    ranked = [files[0] for f in inspection.findings if f.kind == "label_error" for files in f.files]
    return (
        len(truth.swapped & set(ranked[: len(truth.swapped)])),
        len(truth.swapped & set(ranked)),
        len(ranked),
    )


def share(right: int, count: int) -> str:
    low, high = wilson_interval(right, max(count, 1))
    return f"{right} of {count}: {right / max(count, 1):.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    """Plant, inspect, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--labels", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--keep", type=Path, help="leave the planted images here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        store = Store(Path(temporary) / "store")
        originals = cells(store)
        truth = plant(originals, folder / "cells", each=options.each, seed=options.seed)
        inspection = inspect(folder / "cells", labels=options.labels, store=store)
        recall, precision = duplicates_found(inspection.dataset, truth)
        print(f"{len(originals)} cells, {len(truth.copies)} copies\n\n| planted | found (95 % interval) |\n|---|---|")
        for kind, (hit, count) in recall.items():
            print(f"| {kind} | {share(hit, count)} |")
        print(f"| pairs that are the same, of those taken for the same | {share(*precision)} |")
        if options.labels:
            for right, (agreed, count) in confirmed(inspection.dataset, truth).items():
                print(f"| {'right' if right else 'wrong'} pairs that the features confirm | {share(agreed, count)} |")
            top, among, listed = labels_found(inspection, truth)
            planted = len(truth.swapped)
            print(f"| swapped labels among as many top findings | {share(top, planted)} |")
            print(f"| swapped labels among all {listed} findings | {share(among, planted)} |")
        plant_shortcut(originals[:600], folder / "shortcut")
        shortcuts = inspect(folder / "shortcut", labels=False, store=store).findings
        found = [f.title for f in shortcuts if f.kind == "shortcut"]
        print(f"\nshortcut of size: {found[0] if found else 'not found'}")


if __name__ == "__main__":
    main()
