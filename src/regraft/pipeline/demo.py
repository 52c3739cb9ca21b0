"""The demo's data: functional against defective solar cells, from a wheel.

Enters: the installed wheel `elpv-dataset` (2,624 electroluminescence images with the probability that a cell is
defective; Deitsch et al. 2019, arXiv 1807.02894; CC BY-NC-SA 4.0). Leaves: a manifest that names its files; no image
is copied.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from regraft.config import Config, load_config
from regraft.errors import MissingExtraError
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
    rows = []
    for line in (folder / "labels.csv").read_text().splitlines():
        name, probability, _kind = line.split()
        # The cells at 1/3 and 2/3 are those that the experts were not sure of.
        if float(probability) in (0.0, 1.0):
            rows.append((str(folder / name), "defective" if float(probability) else "functional"))
    write_csv(file, ("path", "label"), rows)
    return file
