"""Plant faults among real images, and count which of them `regraft inspect` finds.

    python benchmarks/planted.py [--record] [--each 100] [--seed 0] [--no-labels] [--keep FOLDER]
    python benchmarks/planted.py --every 4 --each 20            a quick look, with a fourth of the cells

The images are the solar cells of the wheel `elpv-dataset` with certain labels, one of each group of near duplicates
that regraft finds (there are many: neighbors from one silicon block). Precision therefore holds for planted copies
among cells that regraft regards as different. The planted faults are copies of `--each` cells of every kind (exact, re-
encoded, resized, cropped by 5 %, brighter or darker, mirrored), 5 % swapped labels, and, in a second folder, larger
images of one class.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from evidence import save, take_flag
from PIL import Image, ImageEnhance

from regraft.atomic_io import write_csv
from regraft.cache import Cache
from regraft.data.dataset import Dataset
from regraft.data.quality.findings import CONFIRMED, Inspection
from regraft.data.scan import scan
from regraft.data.union_find import UnionFind
from regraft.evaluation.intervals import wilson_interval
from regraft.runs.demo import demo_images, write_demo_manifest
from regraft.studies.inspect.inspect import inspect

KINDS = ("exact", "re-encoded", "resized", "cropped by 5 %", "brightness", "mirrored")


@dataclass(frozen=True)
class Truth:
    """The planted faults: original and kind of each copy, and the paths with a swapped label."""

    copies: dict[str, tuple[str, str]]
    swapped: frozenset[str]


def cells(cache: Cache, every: int = 1) -> list[tuple[Path, str]]:
    """File and label of cells without near duplicates among them, out of every `every`-th cell."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_demo_manifest(Path(folder) / "cells.csv", demo_images())
        lines = manifest.read_text().splitlines()
        manifest.write_text("\n".join([lines[0], *lines[1::every]]))
        while True:
            found = scan(manifest, cache=cache)
            firsts = {sample.near_duplicate_group or sample.sha256: sample for sample in reversed(found.samples)}
            kept = [(found.root / s.path, s.label) for s in sorted(firsts.values(), key=lambda s: s.path)]
            if len(kept) == len(found):
                return kept
            # With fewer cells the detector's statistics change, so there can be other near duplicates.
            write_csv(manifest, ("path", "label"), [(str(file), label) for file, label in kept])


def plant(originals: list[tuple[Path, str]], folder: Path, *, each: int, seed: int, swap: float = 0.05) -> Truth:
    """Write the images and their altered copies to class folders in `folder`."""
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
    """Return the bytes of a copy and its file extension."""
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
    """Encode an image."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def plant_shortcut(originals: list[tuple[Path, str]], folder: Path) -> None:
    """Write the images, those of one class a tenth larger."""
    large = min(label for _, label in originals)
    for file, label in originals:
        image = Image.open(file)
        (folder / label).mkdir(parents=True, exist_ok=True)
        image.resize((330, 330) if label == large else image.size).save(folder / label / file.name)


def duplicates_found(dataset: Dataset, truth: Truth) -> tuple[dict[str, tuple[int, int]], tuple[int, int]]:
    """Copies found and planted, by kind; and true and all pairs that are reported as duplicates."""
    samples = dataset.samples
    number = {sample.path: i for i, sample in enumerate(samples)}
    sets = UnionFind(len(samples))
    first: dict[str, int] = {}
    for i, sample in enumerate(samples):
        for name in (sample.sha256, sample.near_duplicate_group):
            if name:
                sets.union(i, first.setdefault(name, i))
    recall = {kind: (0, 0) for kind in KINDS}
    for copy, (original, kind) in truth.copies.items():
        hit = sets.find(number[copy]) == sets.find(number[original])
        recall[kind] = (recall[kind][0] + hit, recall[kind][1] + 1)
    origin = {path: truth.copies.get(path, (path, ""))[0] for path in number}
    groups: dict[int, list[str]] = {}
    for path, i in number.items():
        groups.setdefault(sets.find(i), []).append(origin[path])
    right = total = 0
    for members in groups.values():
        total += len(members) * (len(members) - 1) // 2
        right += sum(n * (n - 1) // 2 for n in (members.count(m) for m in set(members)))
    return recall, (right, total)


def confirmed(dataset: Dataset, truth: Truth) -> dict[bool, tuple[int, int]]:
    """For true and for false pairs: the number that the features confirm, and the number of all."""
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
    """Plant the faults, inspect the images and print a Markdown table."""
    record = take_flag()
    shares: dict[str, tuple[int, int]] = {}

    def show(label: str, right: int, count: int) -> None:
        shares[label] = (right, count)
        print(f"| {label} | {share(right, count)} |")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=100)
    parser.add_argument("--every", type=int, default=1, help="use every N-th cell")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--labels", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--keep", type=Path, help="write the images here and keep them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        cache = Cache(Path(temporary) / "cache")
        originals = cells(cache, options.every)
        truth = plant(originals, folder / "cells", each=options.each, seed=options.seed)
        inspection = inspect(folder / "cells", labels=options.labels, cache=cache)
        recall, precision = duplicates_found(inspection.dataset, truth)
        print(f"{len(originals)} cells, {len(truth.copies)} copies\n\n| fault | found (95 % interval) |\n|---|---|")
        for kind, (hit, count) in recall.items():
            show(f"{kind}: copies found", hit, count)
        show("reported pairs that are copies", *precision)
        if options.labels:
            for right, (agreed, count) in confirmed(inspection.dataset, truth).items():
                show(f"{'right' if right else 'wrong'} pairs that the features confirm", agreed, count)
            top, among, listed = labels_found(inspection, truth)
            planted = len(truth.swapped)
            show("swapped labels among as many top findings", top, planted)
            show(f"swapped labels among all {listed} findings", among, planted)
        plant_shortcut(originals[:600], folder / "shortcut")
        shortcuts = inspect(folder / "shortcut", labels=False, cache=cache).findings
        found = [f.title for f in shortcuts if f.kind == "shortcut"]
        print(f"\nshortcut of size: {found[0] if found else 'not found'}")
    if record:
        facts = {
            label: {
                "found": f"{right} of {count}",
                "interval_95": "{:.3f} to {:.3f}".format(*wilson_interval(right, max(count, 1))),
            }
            for label, (right, count) in shares.items()
        }
        save("planted", {label: [r / max(n, 1)] for label, (r, n) in shares.items()}, unit="share", facts=facts)


if __name__ == "__main__":
    main()
