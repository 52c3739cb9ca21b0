"""How much room the pixels, activations and features of a training take, and how much there is.

Input: a model, the numbers of images and the phases. Output: bytes, by which the plan and the training decide what is
kept on disk, in memory, or nowhere.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from regraft import distributed
from regraft.errors import UsageError
from regraft.models.classifier import Classifier
from regraft.resources import usable_memory
from regraft.training.feature_cache import row_bytes
from regraft.training.options import TrainingOptions
from regraft.training.row_sums import most_rows

if TYPE_CHECKING:
    from regraft.training.phase_plan import PhasePlan

#: Limit of features in memory where the system does not say how much memory there is.
_UNKNOWN_MEMORY = 4 * 10**9
#: Bytes of memory for each feature of a training image: its float32 value, and while L-BFGS fits a head, the rows of a
#: fold or of a part, and the standardized copy, too.
_FEATURE_BYTES, _FITTED_FEATURE_BYTES = 4, 12


@dataclass(frozen=True)
class StorageNeeds:
    """Bytes of what a training could keep.

    `activations` are those of all views at the cut, in the precision of training; `pixels` those of the images;
    `features` what one process needs in memory to fit the head, by `head_bytes`. `reads_once`: every image is decoded
    for a single pass, so that keeping its pixels gains nothing.
    """

    activations: int
    pixels: int
    features: int
    reads_once: bool


def storage_needs(
    model: Classifier, counts: Mapping[str, int], phases: PhasePlan, precision: torch.dtype, *, processes: int = 1
) -> StorageNeeds:
    """The needs of a training on these numbers of images, by part."""
    train, val = counts.get("train", 0), counts.get("val", 0)
    has_prefix = bool(phases.boundary) or phases.head != "none"
    rows = train * phases.views + val
    # Before fine-tuning L-BFGS fits the head on the plain images alone.
    head_views = 1 if phases.finetunes and phases.head == "lbfgs" else phases.views
    fitted = phases.head == "lbfgs"
    sharing = processes if fitted else 1  # steps draw from all rows
    features = head_bytes(model, train, val, views=head_views, processes=sharing, fitted=fitted)
    return StorageNeeds(
        activations=rows * has_prefix * row_bytes(model, phases.cut, precision),
        pixels=(train + val) * 3 * math.prod(model.preprocessing.shape),
        features=features if phases.head != "none" else 0,
        reads_once=not phases.finetunes and phases.views == 1,
    )


def head_bytes(model: Classifier, train: int, val: int, *, views: int, processes: int, fitted: bool) -> int:
    """Bytes of memory in which one of the processes that share the rows trains the head.

    Plan and training decide by it.

    `train` and `val` are numbers of images. `fitted`: by L-BFGS, which copies the rows, and keeps the targets of each
    beside it, one value a class; in epochs, the steps read the rows, and the targets are those of the images.
    """
    images, val_images = most_rows(train, processes), most_rows(val, processes)
    rows = images * views
    values = rows * (_FITTED_FEATURE_BYTES if fitted else _FEATURE_BYTES) + val_images * _FEATURE_BYTES
    return model.head.features * values + 4 * len(model.classes) * (rows if fitted else images)


def memory_limit(memory_gb: float) -> int:
    """Bytes that features and activations may take in memory, by `training.memory_gb`; 0: half of what is usable.

    Several processes divide it, because they may be on one machine. Raises `UsageError` for more than this process may
    use.
    """
    usable = usable_memory()
    if not memory_gb:
        return (_UNKNOWN_MEMORY if usable is None else usable // 2) // distributed.world_size()
    if usable is not None and memory_gb * 1e9 > usable:
        raise UsageError(
            f"training.memory_gb = {memory_gb:g} is more than the {usable / 1e9:.1f} GB of memory that this process "
            "may use. Set less, or 0 for half of it."
        )
    return int(memory_gb * 1e9) // distributed.world_size()


def describe_storage(options: TrainingOptions, phases: PhasePlan, *, stores_pixels: bool) -> str:
    """Sentences, each after a space, about what a training does not keep on disk."""
    live = "Frozen layers run at every step, on new views" if phases.finetunes else "Features are kept until the end"
    kept = {"memory": "The outputs of frozen layers are kept in memory", "none": live}.get(options.feature_cache)
    text = f" {kept} (training.feature_cache = {options.feature_cache})." if kept and phases.boundary else ""
    return text if stores_pixels else f"{text} Pixels have no room: every pass over the images decodes them."


def check_shared_cache(feature_cache: str, processes: int) -> None:
    """Raise `UsageError` if several processes are to keep in memory what they share."""
    if feature_cache == "memory" and processes > 1:
        raise UsageError(
            "training.feature_cache = memory works in one process; several share their activations on disk. Use "
            "feature_cache = disk or none."
        )


def check_memory(needs: StorageNeeds, limit: int) -> None:
    """Raise `UsageError` if the activations do not fit into memory."""
    if needs.activations > limit:
        raise UsageError(
            f"training.feature_cache = memory needs {needs.activations / 1e9:.2g} GB for the activations, and "
            f"training.memory_gb allows {limit / 1e9:.2g}. Use feature_cache = disk or none, fewer training.views, or "
            "more memory_gb."
        )


def check_disk(size: int, folder: Path) -> None:
    """Raise `UsageError` if the activations do not fit on the disk of a folder."""
    if size > (free := free_disk(folder)):
        raise UsageError(
            f"training.feature_cache = disk needs {size / 1e9:.2g} GB for the activations, and the disk of {folder} "
            f"has {free / 1e9:.2g} GB free. Use feature_cache = none, fewer training.views, or another disk "
            "($REGRAFT_CACHE)."
        )


def free_disk(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, which need not exist yet."""
    existing = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
    return shutil.disk_usage(existing).free
