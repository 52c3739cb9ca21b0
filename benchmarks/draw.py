"""Draw some of the training images of a set, stratified; its test images stay whole.

    python benchmarks/draw.py FOLDER --images 50 [--seed 0] --out FOLDER [--unlabelled FOLDER]

FOLDER has train/CLASS and test/CLASS. A class gets images in proportion to its own, but at least two. The larger of two
draws with one seed contains the smaller. `--unlabelled` gets the training images that were not drawn, without their
classes. Files are linked where possible.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def stratified_order(labels: Sequence[str] | np.ndarray, seed: int) -> np.ndarray:
    """Numbers of the images, int64 (N,), in an order of which every first part is a draw."""
    names, numbers = np.unique(np.asarray(labels), return_inverse=True)
    rng, ranked = np.random.default_rng(seed), []
    for label in range(len(names)):
        own = np.flatnonzero(numbers == label)
        start = rng.random()
        for rank, i in enumerate(rng.permutation(len(own))):
            # The first two of a class come before all others.
            ranked.append((rank - 2.0 if rank < 2 else (rank + start) / len(own), int(own[i])))
    return np.array([number for _, number in sorted(ranked)])


def draw(source: Path, out: Path, images: int, seed: int, *, unlabeled: Path | None = None) -> Path:
    """Write a draw to a folder, and the other training images to `unlabeled`, if given; return the folder.

    Raises:
        ValueError: The set has fewer training images, or more than half as many classes.
    """
    files = sorted((source / "train").glob("*/*"))
    labels = [file.parent.name for file in files]
    if not 2 * len(set(labels)) <= images <= len(files):
        raise ValueError(f"{images} images of {source.name}; expected {2 * len(set(labels))} to {len(files)}")
    order = stratified_order(labels, seed)
    for folder in filter(None, (out, unlabeled)):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for file in [*(files[i] for i in order[:images]), *sorted((source / "test").glob("*/*"))]:
        link(file, out / file.relative_to(source))
    if unlabeled is not None:
        for place, i in enumerate(order[images:]):
            link(files[i], unlabeled / f"{place:06d}{files[i].suffix}")
    return out


def link(file: Path, copy: Path) -> None:
    """Link a file, or copy it to another file system."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, copy)
    except OSError:
        shutil.copy(file, copy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="FOLDER")
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--unlabelled", type=Path)
    options = parser.parse_args()
    print(draw(options.source, options.out, options.images, options.seed, unlabeled=options.unlabelled))


if __name__ == "__main__":
    main()
