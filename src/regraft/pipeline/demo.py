"""The demo's data: functional against defective solar cells, from a wheel.

Enters: the installed wheel `elpv-dataset` (2,624 electroluminescence images with the probability that a cell is
defective; Deitsch et al. 2019, arXiv 1807.02894; CC BY-NC-SA 4.0). Leaves: a manifest that names its files, or some of
them as a folder of one's own to try every command on.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

from regraft.config import Config, load_config
from regraft.errors import MissingExtraError, UsageError
from regraft.files import write_csv

#: Chosen on validation, for two cores and under two minutes. A cell has no upper side, and a crack may lie at its rim.
SETTINGS = (
    "data.val=0.1",
    "data.test=0.2",
    "augmentation.vertical_flip=0.5",
    "augmentation.crop=0.2",
    "training.views=2",
    "training.finetune_from=blocks.5",
    "training.finetune_epochs=8",
    "training.finetune_lr=2e-4",
    "training.label_smoothing=0",
)


def demo_config() -> Config:
    """The demo's settings."""
    return load_config(None, SETTINGS)


def demo_images() -> Path:
    """The folder of the wheel's images and labels.

    Raises:
        MissingExtraError: The wheel is not installed.
    """
    found = importlib.util.find_spec("elpv_dataset")
    if found is None or found.origin is None:
        raise MissingExtraError("The demo", "demo")
    return Path(found.origin).parent / "data"


def write_demo_manifest(file: Path, folder: Path) -> Path:
    """Write a manifest of the cells in `folder` that are certainly functional or certainly defective."""
    write_csv(file, ("path", "label"), [(str(path), label) for path, label in _certain_cells(folder)])
    return file


def write_demo_folder(out: Path, images: Path, count: int, new: int = 12) -> tuple[Path, Path]:
    """Copy `count` of the cells to `out/cells/CLASS` and `new` others, without their labels, to `out/new`.

    Both keep the shares of the classes; the same count gives the same images.

    Returns:
        The two folders.

    Raises:
        UsageError: `out` has something in it, or there are fewer cells than that.
    """
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty. Choose another folder with --out.")
    cells = list(_certain_cells(images))
    if not 2 <= count <= len(cells) - new:
        raise UsageError(f"{count} images were asked for; the demo has 2 to {len(cells) - new} to give.")
    # Evenly out of the wheel's order, in which cells of one module, which look alike, stand together.
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
        # The cells at 1/3 and 2/3 are those that the experts were not sure of.
        if float(probability) in (0.0, 1.0):
            yield folder / name, "defective" if float(probability) else "functional"
