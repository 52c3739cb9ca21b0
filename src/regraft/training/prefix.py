"""The frozen prefix, run once for all runs.

Enters: pixels of N images and K views to draw of each. Leaves: the activations at one or more boundaries, (K, N, ...),
in the store's tables. View 0 is the plain image. A row depends on the image, the view, the weights below the boundary
and the arithmetic, never on what else is in the batch, so any later run finds it again.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from regraft.data.augmentation import Augmentation, augment, random_key
from regraft.data.dataset import Dataset
from regraft.data.pixels import Pixels
from regraft.models.classifier import Classifier
from regraft.store import Store, Table, name_of
from regraft.training.hardware import autocast
from regraft.training.progress import Listener

_STORED = {torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: np.uint16}


@dataclass(frozen=True)
class Activations:
    """Cached activations of K views of N images, in memory or in a table.

    Attributes:
        values: (K, N, ...) in memory, or a table with one row a view and image.
        boundary: Index of the first stage that is not in them.
        numbers: Of the table's rows, int64 (K, N); None in memory.
        dtype: Of the values in the table.
    """

    values: torch.Tensor | Table
    boundary: int
    numbers: np.ndarray | None = None
    dtype: torch.dtype = torch.float32

    @property
    def views(self) -> int:
        """K, versions of each image."""
        return int(self._shape[0])

    def __len__(self) -> int:
        """N, number of images."""
        return int(self._shape[1])

    @property
    def _shape(self) -> Sequence[int]:
        if isinstance(self.values, torch.Tensor):
            return self.values.shape
        assert self.numbers is not None
        return self.numbers.shape

    def batch(self, view: int | np.ndarray, chosen: slice | np.ndarray) -> torch.Tensor:
        """Some images, (n, ...): all in one view, or each in its own."""
        if isinstance(self.values, torch.Tensor):
            index = torch.from_numpy(chosen) if isinstance(chosen, np.ndarray) else chosen
            rows = self.values[torch.from_numpy(view) if isinstance(view, np.ndarray) else view, index]
        else:
            assert self.numbers is not None
            rows = torch.from_numpy(self.values.read(self.numbers[view, chosen])).view(self.dtype)
        return rows.contiguous(memory_format=torch.channels_last) if rows.ndim == 4 else rows

    def drawn(self, indices: np.ndarray, key: int) -> torch.Tensor:
        """One view of each of some images, drawn by the key, (n, ...)."""
        return self.batch(np.random.default_rng(key).integers(self.views, size=len(indices)), indices)

    def all(self) -> torch.Tensor:
        """Everything in float32, (K, N, ...), in memory."""
        return torch.stack([self.batch(view, slice(None)).float() for view in range(self.views)])


def as_batch(pixels: np.ndarray) -> torch.Tensor:
    """Pixels (N, S, S, 3) of a store as a tensor (N, 3, S, S), uint8."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)


def run_prefix(
    model: Classifier,
    dataset: Dataset,
    pixels: Pixels,
    boundaries: Sequence[int],
    store: Store,
    *,
    precision: torch.dtype,
    views: int = 1,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    batch_size: int = 64,
    listener: Listener,
    name: str = "prefix",
) -> list[Activations]:
    """Find or compute the activations at some boundaries.

    Args:
        model: Used in inference mode.
        dataset: N samples.
        pixels: Theirs.
        boundaries: In rising order; all are computed in one pass.
        store: Where the activations are and go.
        precision: Type of the arithmetic and of the stored values.
        views: K; 1 is the plain image alone.
        augmentation: What the other K - 1 views differ in.
        seed: Of the views.
        batch_size: Images for one pass.
        listener: Told after each batch.
        name: What the work is called there.

    Returns:
        One `Activations` for each boundary.
    """
    model.eval()
    tables = [_table(model, boundary, store, precision) for boundary in boundaries]
    drawn = "" if augmentation is None else repr((asdict(augmentation), seed))
    names = [[name_of(s.sha256, v, drawn if v else "") for s in dataset.samples] for v in range(views)]
    numbers = [np.stack([table.find(row) for row in names]) for table in tables]
    missing = np.argwhere(np.any([found < 0 for found in numbers], axis=0))  # (view, image), view by view
    device = model.mean.device
    with torch.inference_mode(), autocast(device, precision):
        done = 0
        for view in range(views):
            images = missing[missing[:, 0] == view, 1]
            for start in range(0, len(images), batch_size):
                chosen = images[start : start + batch_size]
                batch = as_batch(pixels[chosen])
                if view and augmentation is not None:
                    keys = [_view_key(seed, view, dataset.samples[i].sha256) for i in chosen]
                    batch = augment(batch, augmentation, keys)
                for table, found, values in zip(tables, numbers, _taps(model, batch, boundaries), strict=True):
                    new = np.flatnonzero(found[view, chosen] < 0)
                    rows = values.to("cpu", precision)[new].contiguous()
                    rows = rows.view(torch.uint16) if precision == torch.bfloat16 else rows
                    found[view, chosen[new]] = table.append([names[view][i] for i in chosen[new]], rows.numpy())
                done += len(chosen)
                listener.work(name, done, len(missing))
    return [
        Activations(table, boundary, found, precision)
        for table, boundary, found in zip(tables, boundaries, numbers, strict=True)
    ]


def row_bytes(model: Classifier, boundary: int, precision: torch.dtype) -> int:
    """Bytes of one image's activations at a boundary."""
    return int(np.prod(_shape(model, boundary))) * precision.itemsize


def _taps(model: Classifier, batch: torch.Tensor, boundaries: Sequence[int]) -> list[torch.Tensor]:
    count = len(batch)
    if count == 1:  # other kernels serve a batch of one, with other last bits
        batch = torch.cat([batch, batch])
    values, reached, taps = model.activations(batch.to(model.mean.device), boundaries[0]), boundaries[0], []
    for boundary in boundaries:
        values, reached = model.between(values, reached, boundary), boundary
        taps.append(values[:count])
    return taps


def _shape(model: Classifier, boundary: int) -> tuple[int, ...]:
    size = model.preprocessing.size
    return model.stages[boundary - 1].shape if boundary else (3, size, size)


def _table(model: Classifier, boundary: int, store: Store, precision: torch.dtype) -> Table:
    key: dict[str, Any] = {
        "backbone": model.spec.name,
        "weights": _fingerprint(model, boundary),
        "boundary": model.stages[boundary].name if boundary < len(model.stages) else "head",
        "pooling": model.pooling,
        "preprocessing": model.preprocessing.to_json(),
        "precision": str(precision).removeprefix("torch."),
        "engine": f"torch {torch.__version__} {model.mean.device.type} {platform.machine()}",
    }
    return store.table("activations", key, _shape(model, boundary), _STORED[precision])


def _fingerprint(model: Classifier, boundary: int) -> str:
    """Hash of all numbers that the stages below a boundary compute with."""
    digest = hashlib.blake2b(digest_size=16)
    for stage in model.stages[:boundary]:
        for _, module in stage.modules:
            for tensor in (*module.parameters(), *module.buffers()):
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        for _, tensor in stage.loose:
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _view_key(seed: int, view: int, sha256: str) -> int:
    content = hashlib.sha256(sha256.encode()).digest()  # a made-up one may be no hexadecimal number
    return random_key(seed, view, *np.frombuffer(content[:16], "<u4").tolist())
