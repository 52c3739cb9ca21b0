"""The frozen prefix, run once for all runs.

Enters: pixels of N images and K views to draw of each. Leaves: the activations at a boundary, (K, N, ...), in the
store's tables. View 0 is the plain image. A row depends on the image, the view, the weights below the boundary
and the arithmetic, never on what else is in the batch, so any later run finds it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from regraft.data.augmentation import Augmentation, augment, random_key
from regraft.data.dataset import Dataset
from regraft.data.pixels import Pixels
from regraft.models.classifier import Classifier, Hidden
from regraft.store import Store, Table, name_of
from regraft.training.engine import Engine
from regraft.training.hardware import autocast, has_room
from regraft.training.progress import Listener

_STORED = {torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: np.uint16}


@dataclass(frozen=True)
class Rows:
    """A row for each of K views of N images.

    Attributes:
        values: (K, N, ...) in memory, or a table.
        numbers: Of the table's rows, int64 (K, N); None in memory.
        dtype: Of the values in the table.
    """

    values: torch.Tensor | Table
    numbers: np.ndarray | None = None
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> tuple[int, int]:
        """(K, N)."""
        shape = self.values.shape if isinstance(self.values, torch.Tensor) else self.numbers.shape  # type: ignore[union-attr]  # of a table there are numbers
        return int(shape[0]), int(shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        if isinstance(self.values, torch.Tensor):
            return self.values.nbytes
        return int(np.prod(self.shape)) * self.values.row_bytes

    def loaded(self, device: torch.device) -> Rows:
        """All rows in the memory of a device."""
        views, count = self.shape
        first = self.take(0, slice(1))
        values = torch.empty(views, count, *first.shape[1:], dtype=first.dtype, device=device)
        for view in range(views):
            for start in range(0, count, 256):
                chosen = slice(start, start + 256)
                values[view, chosen] = self.take(view, chosen).to(device)
        return Rows(values)

    def take(self, view: int | np.ndarray, chosen: slice | np.ndarray) -> torch.Tensor:
        """The rows of some images, (n, ...): all in one view, or each in its own."""
        if isinstance(self.values, torch.Tensor):
            index = torch.from_numpy(chosen) if isinstance(chosen, np.ndarray) else chosen
            rows = self.values[torch.from_numpy(view) if isinstance(view, np.ndarray) else view, index]
        else:
            assert self.numbers is not None
            rows = torch.from_numpy(self.values.read(self.numbers[view, chosen])).view(self.dtype)
        return rows.contiguous(memory_format=torch.channels_last) if rows.ndim == 4 else rows


@dataclass(frozen=True)
class Activations:
    """Activations of K views of N images at a boundary, in memory or in tables.

    Attributes:
        boundary: Index of the first stage that is not in them.
        rows: The output of the stage before.
        taps: What the head reads of the stages below that one; None where it reads none of them.
    """

    boundary: int
    rows: Rows
    taps: Rows | None = None

    @property
    def views(self) -> int:
        """K, versions of each image."""
        return self.rows.shape[0]

    def __len__(self) -> int:
        """N, number of images."""
        return self.rows.shape[1]

    def batch(self, view: int | np.ndarray, chosen: slice | np.ndarray) -> Hidden:
        """Some images: all in one view, or each in its own."""
        values = self.rows.take(view, chosen)
        return Hidden(values, values.new_empty(len(values), 0) if self.taps is None else self.taps.take(view, chosen))

    def loaded(self, device: torch.device) -> Activations:
        """The same in the memory of a GPU if half of what is free there holds them; else as they are."""
        parts = [rows for rows in (self.rows, self.taps) if rows is not None]
        if not has_room(device, sum(rows.nbytes for rows in parts)):
            return self
        return Activations(self.boundary, *(rows.loaded(device) for rows in parts))

    def drawn(self, indices: np.ndarray, key: int) -> Hidden:
        """One view of each of some images, drawn by the key."""
        return self.batch(np.random.default_rng(key).integers(self.views, size=len(indices)), indices)


def as_batch(pixels: np.ndarray) -> torch.Tensor:
    """Pixels (N, S, S, 3) of a store as a tensor (N, 3, S, S), uint8."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)


def run_prefix(
    model: Classifier,
    dataset: Dataset,
    pixels: Pixels,
    engine: Engine,
    store: Store,
    *,
    views: int = 1,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    batch_size: int = 64,
    listener: Listener,
    name: str = "prefix",
) -> Activations:
    """Find or compute the activations at the engine's boundary.

    Args:
        model: Whose prefix it is; used in inference mode.
        dataset: N samples.
        pixels: Theirs.
        engine: What computes those that are missing, at its boundary and in its precision.
        store: Where the activations are and go.
        views: K; 1 is the plain image alone.
        augmentation: What the other K - 1 views differ in.
        seed: Of the views.
        batch_size: Images for one pass.
        listener: Told after each batch.
        name: What the work is called there.
    """
    model.eval()
    precision, tables = engine.precision, list(_tables(model, store, engine))
    drawn = "" if augmentation is None else repr((asdict(augmentation), seed))
    names = [[name_of(s.sha256, v, drawn if v else "") for s in dataset.samples] for v in range(views)]
    numbers = [np.stack([table.find(row) for row in names]) for table in tables]
    missing = np.argwhere(np.any([found < 0 for found in numbers], axis=0))  # (view, image), view by view
    done = 0
    for view in range(views):
        images = missing[missing[:, 0] == view, 1]
        for start in range(0, len(images), batch_size):
            chosen = images[start : start + batch_size]
            batch = as_batch(pixels[chosen])
            if model.mean.device.type == "cuda":  # where views are drawn, too
                batch = batch.to(model.mean.device)
            if view and augmentation is not None:
                keys = [_view_key(seed, view, dataset.samples[i].sha256) for i in chosen]
                batch = augment(batch, augmentation, keys)
            for table, found, values in zip(tables, numbers, engine(batch), strict=True):
                new = np.flatnonzero(found[view, chosen] < 0)
                fresh = values[new].contiguous()
                fresh = fresh.view(torch.uint16) if precision == torch.bfloat16 else fresh
                found[view, chosen[new]] = table.append([names[view][i] for i in chosen[new]], fresh.numpy())
            done += len(chosen)
            listener.work(name, done, len(missing))
    rows = [Rows(table, found, precision) for table, found in zip(tables, numbers, strict=True)]
    return Activations(engine.boundary, *rows)


def read_features(
    model: Classifier, activations: Activations, views: int, precision: torch.dtype, listener: Listener
) -> torch.Tensor:
    """What the head reads of the first K views, float32 (K, N, F), in memory.

    Args:
        model: On the device that it is to run on.
        activations: Of N images at any boundary.
        views: K.
        precision: Of the arithmetic.
        listener: Told after each batch.
    """
    count, device = len(activations), model.mean.device
    features = torch.empty(views, count, model.head.features)
    model.eval()
    with torch.inference_mode(), autocast(device, precision):
        for view in range(views):
            for start in range(0, count, 128):
                batch = activations.batch(view, slice(start, start + 128)).to(device)
                part = model.features_from(batch, activations.boundary)
                features[view, start : start + 128] = part
                listener.work("features", view * count + start + len(part), views * count, "for the head")
    return features


def row_bytes(model: Classifier, boundary: int, precision: torch.dtype) -> int:
    """Bytes of one image's activations at a boundary."""
    return (int(np.prod(_shape(model, boundary))) + model.taps_below(boundary)) * precision.itemsize


def _shape(model: Classifier, boundary: int) -> tuple[int, ...]:
    size = model.preprocessing.size
    return model.stages[boundary - 1].shape if boundary else (3, size, size)


def _tables(model: Classifier, store: Store, engine: Engine) -> Iterator[Table]:
    boundary, precision = engine.boundary, engine.precision
    key: dict[str, Any] = {
        "backbone": model.spec.name,
        "weights": _fingerprint(model, boundary),
        "boundary": model.stages[boundary].name if boundary < len(model.stages) else "head",
        "pooling": model.pooling,
        "preprocessing": model.preprocessing.to_json(),
        "precision": str(precision).removeprefix("torch."),
        "engine": engine.version,
    }
    yield store.table("activations", key, _shape(model, boundary), _STORED[precision])
    if length := model.taps_below(boundary):
        stages = [model.stages[index].name for index in model.taps if index < boundary]
        yield store.table("taps", {**key, "stages": stages}, (length,), _STORED[precision])


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
