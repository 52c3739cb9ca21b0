"""The data of the demo: 2,624 electroluminescence images of solar cells from the wheel `elpv-dataset`.

Deitsch et al. 2019, arXiv 1807.02894; CC BY-NC-SA 4.0. Each has the probability that the cell is defective.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

from regraft.atomic_io import write_csv
from regraft.config import Config, load_config
from regraft.errors import MissingExtraError, UsageError

#: Chosen on validation, for two cores and under two minutes. Cells have no upper side, and cracks can be at the edge.
SETTINGS = {
    "data.val": 0.1,
    "data.test": 0.2,
    "augmentation.vertical_flip": 0.5,
    "augmentation.random_crop": 0.2,
    "training.views": 2,
    "training.finetune_from": "blocks.5",
    "training.finetune_epochs": 8,
    "training.finetune_lr": 2e-4,
    "training.label_smoothing": 0.0,
}


def demo_config() -> Config:
    """Return the settings of the demo."""
    return load_config(overrides=SETTINGS)


def demo_images() -> Path:
    """Return the folder with the images and labels of the wheel, or raise `MissingExtraError`."""
    found = importlib.util.find_spec("elpv_dataset")
    if found is None or found.origin is None:
        raise MissingExtraError("The demo", "demo")
    return Path(found.origin).parent / "data"


def write_demo_manifest(file: Path, folder: Path) -> Path:
    """Write a manifest of the cells that all experts called functional, or all defective."""
    write_csv(file, ("path", "label"), [(str(path), label) for path, label in _certain_cells(folder)])
    return file


def write_demo_folder(out: Path, images: Path, count: int, new: int = 12) -> tuple[Path, Path]:
    """Copy `count` cells to `out/cells/CLASS` and `new` others, unlabeled, to `out/new`; return both folders.

    Both preserve the shares of the classes; the same count gives the same images. Raises `UsageError` if `out` is not
    empty, or there are too few cells.
    """
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty. Choose another folder with --out.")
    cells = list(_certain_cells(images))
    if not 2 <= count <= len(cells) - new:
        raise UsageError(f"--only-images {count}: expected 2 to {len(cells) - new}.")
    # Evenly spaced, because similar cells of one module are neighbors in the wheel.
    by_class = sorted(cells, key=lambda cell: cell[1])
    chosen = [by_class[i * len(cells) // (count + new)] for i in range(count + new)]
    held_back = {i * (count + new) // new for i in range(new)}
    for i, (path, label) in enumerate(chosen):
        target = (out / "new" if i in held_back else out / "cells" / label) / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return out / "cells", out / "new"


def _certain_cells(folder: Path) -> Iterator[tuple[Path, str]]:
    for line in (folder / "labels.csv").read_text().splitlines():
        name, probability, _kind = line.split()
        # A probability of 1/3 or 2/3 means that the experts disagreed.
        if float(probability) in (0.0, 1.0):
            yield folder / name, "defective" if float(probability) else "functional"
