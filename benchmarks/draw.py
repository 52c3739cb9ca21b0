"""Draw some of the training images of a set, stratified; its test images stay whole.

    python benchmarks/draw.py FOLDER --images 50 [--seed 0] --out FOLDER

FOLDER has train/CLASS and test/CLASS. A class gets images in proportion to its own, but at least two. The larger of two
draws with one seed contains the smaller. Files are linked where possible.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import numpy as np


def draw(source: Path, out: Path, images: int, seed: int) -> Path:
    """Write a draw to a folder; return it.

    Raises:
        ValueError: The set has fewer training images, or more than half as many classes.
    """
    by_class = {place.name: sorted(place.iterdir()) for place in sorted((source / "train").iterdir())}
    total = sum(map(len, by_class.values()))
    if not 2 * len(by_class) <= images <= total:
        raise ValueError(f"{images} images of {source.name}; expected {2 * len(by_class)} to {total}")
    rng, ranked = np.random.default_rng(seed), []
    for files in by_class.values():
        start = rng.random()
        for rank, i in enumerate(rng.permutation(len(files))):
            # The first two of a class come before all others.
            ranked.append((rank - 2.0 if rank < 2 else (rank + start) / len(files), files[i]))
    chosen = [file for _, file in sorted(ranked)[:images]]
    shutil.rmtree(out, ignore_errors=True)
    for file in [*chosen, *sorted((source / "test").glob("*/*"))]:
        copy = out / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, copy)
        except OSError:  # another file system
            shutil.copy(file, copy)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="FOLDER")
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    print(draw(options.source, options.out, options.images, options.seed))


if __name__ == "__main__":
    main()
