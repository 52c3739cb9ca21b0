"""Run the frozen prefix once, keep its activations for later passes and trainings, and predict from them.

Input: pixels of N images, and the number K of views of each. Output: activations at a boundary, (K, N, ...), in tables
of the cache, on disk or in memory. View 0 is the plain image. A row depends on the image, the view, the weights below
the boundary and the arithmetic, never on the rest of its batch, so a later training finds it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from regraft import distributed
from regraft.cache import Cache, Table, cache_key
from regraft.data.augmentation import augment, random_key
from regraft.data.augmentation_options import Augmentation
from regraft.data.dataset import Dataset
from regraft.data.pixel_cache import PixelSource
from regraft.key_index import collect_keys
from regraft.models.classifier import Classifier
from regraft.models.head import Head
from regraft.models.passes import split_into_passes
from regraft.models.staged import StageOutput
from regraft.training.activations import Activations, ActivationSource, CachedTensor
from regraft.training.callbacks import ProgressReporter
from regraft.training.device import autocast
from regraft.training.losses import Objective
from regraft.training.memory_cache import MemoryCache, MemoryTable
from regraft.training.prefix_backend import PrefixBackend, TorchBackend
from regraft.training.prefix_key import prefix_key, taps_key
from regraft.training.row_sums import own_rows

#: Images whose activations are read at once, and whose features processes exchange at once.
_BATCH, _EXCHANGED = 128, 8192
_STORED = {torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: np.uint16}


def as_batch(pixels: np.ndarray) -> torch.Tensor:
    """Cached pixels (N, S, S, C) as a tensor (N, C, S, S), uint8."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)


def run_prefix(
    model: Classifier,
    dataset: Dataset,
    pixels: PixelSource,
    backend: PrefixBackend,
    cache: Cache | MemoryCache,
    *,
    views: int = 1,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    batch_size: int = 64,
    deadline: float | None = None,
    reporter: ProgressReporter,
    name: str = "prefix",
) -> Activations:
    """Compute the activations at the backend's boundary, or find them in the cache.

    The prefix runs in inference mode, `batch_size` images per pass. View 0 is the plain image; `augmentation` and
    `seed` give the others; there are fewer than `views` if one more would end after `deadline`, a value of
    `time.monotonic()`. `name` is the step in the progress. Several processes, which share the cache, divide the images
    among them.
    """
    model.eval()
    precision, tables = backend.precision, list(_tables(model, cache, backend))
    # MixUp and CutMix mix what is stored here.
    of_views = None if augmentation is None else asdict(replace(augmentation, mixup=0.0, cutmix=0.0))
    view_key = "" if of_views is None else repr((of_views, seed))
    names = [
        collect_keys((cache_key(sha256, v, view_key if v else "") for sha256 in dataset.table.sha256s()), len(dataset))
        for v in range(views)
    ]
    # What is missing is the same for all processes: what rank 0 does not find.
    numbers = distributed.on_rank_0(lambda: [np.stack([table.find(row) for row in names]) for table in tables])
    missing = np.argwhere(np.any([rows < 0 for rows in numbers], axis=0))  # (view, image), view by view
    done, longest, computed = 0, 0.0, 0
    for view in range(views):
        images, started = missing[missing[:, 0] == view, 1], time.monotonic()
        is_late = bool(view and len(images)) and deadline is not None and started + longest > deadline
        if distributed.broadcast(is_late):
            numbers = [rows[:view] for rows in numbers]
            break
        computed = view + 1 if len(images) else computed
        own = images[distributed.share(len(images))]
        parts = [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
        for chosen, decoded in zip(parts, pixels.batches(parts), strict=True):
            batch = as_batch(decoded)
            if model.mean.device.type == "cuda":  # augmentation then runs there, too
                batch = batch.to(model.mean.device)
            if view and augmentation is not None:
                keys = [_view_key(seed, view, dataset.samples[i].sha256) for i in chosen]
                batch = augment(batch, augmentation, keys)
            for table, rows, values in zip(tables, numbers, backend(batch), strict=True):
                new = np.flatnonzero(rows[view, chosen] < 0)
                rows[view, chosen[new]] = table.append(names[view][chosen[new]], _stored(values[new]))
            done += len(chosen)
            reporter.on_progress(name, min(done * distributed.world_size(), len(missing)), len(missing))
        longest = max(longest, time.monotonic() - started)
    if distributed.is_distributed() and computed:  # find what the others have computed
        distributed.barrier()
        return run_prefix(
            model, dataset, pixels, backend, cache, views=len(numbers[0]), augmentation=augmentation, seed=seed,
            batch_size=batch_size, reporter=reporter, name=name,
        )  # fmt: skip
    cached = [CachedTensor(table, rows, precision) for table, rows in zip(tables, numbers, strict=True)]
    return Activations(backend.boundary, *cached)


def continue_cached(
    model: Classifier,
    dataset: Dataset,
    lower: int,
    backend: TorchBackend,
    cache: Cache,
    *,
    batch_size: int = 64,
    reporter: ProgressReporter,
    name: str = "upper stages",
) -> None:
    """Bring plain images from their activations at a `lower` boundary to that of the backend, in the cache.

    A fine-tuning has left those for its images, whose lower stages then need not run again for a head alone. The
    numbers are those of the whole prefix. Leaves `run_prefix` all to do where there are none, or they do not suffice.
    """
    model.eval()
    below = [cache.existing_table(*place) for place in _places(model, TorchBackend(model, lower, backend.precision))]
    sources, tables = [table for table in below if table is not None], list(_tables(model, cache, backend))
    keys = collect_keys((cache_key(sha256, 0, "") for sha256 in dataset.table.sha256s()), len(dataset))
    if distributed.broadcast(len(sources) < len(below)):
        return
    # As in `run_prefix`, what rank 0 finds is found for all processes.
    numbers, is_missing = distributed.on_rank_0(
        lambda: (
            np.stack([table.find(keys) for table in sources]),
            np.stack([table.find(keys) < 0 for table in tables]),
        )
    )
    images = np.flatnonzero(is_missing.any(axis=0) & (numbers >= 0).all(axis=0))
    if not len(images) or not distributed.broadcast(backend.can_continue_from(lower)):
        return
    rows = [CachedTensor(table, row[None], backend.precision) for table, row in zip(sources, numbers, strict=True)]
    activations, own = Activations(lower, *rows), images[distributed.share(len(images))]
    for start in range(0, len(own), batch_size):
        chosen = own[start : start + batch_size]
        outputs = backend.continue_from(activations.batch(0, chosen), lower)
        for table, missing, values in zip(tables, is_missing, outputs, strict=True):
            new = np.flatnonzero(missing[chosen])
            table.append(keys[chosen[new]], _stored(values[new]))
        reporter.on_progress(name, min((start + len(chosen)) * distributed.world_size(), len(images)), len(images))
    distributed.barrier()


def extract_features(
    model: Classifier,
    activations: ActivationSource,
    views: int,
    precision: torch.dtype,
    reporter: ProgressReporter,
    *,
    store: Table | None = None,
    own: bool = False,
    embedded: bool = False,
) -> CachedTensor:
    """Run the tail over the first `views` views, K: the inputs of the head, (K, N, F).

    They are a tensor, float32, in main memory, or rows in `precision` of the table `store`. With `own` a tensor has
    only the images whose rows belong to this process, by `row_sums.own_rows`. `embedded`: (K, N, E), the inputs of the
    head's layers, which are fewer where attention pools the features.
    """
    count, head = len(activations), model.head
    width = head.embedding if embedded else head.features
    numbers = own_rows(count) if own else np.arange(count)
    values = torch.zeros(views if store is None else 0, len(numbers), width)
    stored = range(count if store is not None else 0)
    keys = [collect_keys((cache_key(view, i) for i in stored), len(stored)) for view in range(views)]
    for view in range(views):
        computed = _features(model, activations, view, precision)
        if embedded:
            computed = _embedded(head, computed)
        if store is None:
            for rows, batch in _exchanged(computed, count, width):
                first, end = np.searchsorted(numbers, (rows.start, rows.stop))
                values[view, first:end] = batch[torch.from_numpy(numbers[first:end] - rows.start)]
                reporter.on_progress("features", view * count + rows.stop, views * count, "for the head")
        else:
            for rows, batch in computed:
                store.append(keys[view][rows], _stored(batch.to("cpu", precision)))
                reporter.on_progress("features", view * count + rows.stop, views * count, "for the head")
    if store is None:
        return CachedTensor(values)
    distributed.barrier()  # the table then has the rows of all processes
    return CachedTensor(store, np.stack([store.find(row) for row in keys]), precision)


def _embedded(head: Head, computed: Iterator[tuple[slice, torch.Tensor]]) -> Iterator[tuple[slice, torch.Tensor]]:
    for rows, batch in computed:
        with torch.inference_mode():
            embedded = head.embed(batch)
        yield rows, embedded


def _exchanged(
    computed: Iterator[tuple[slice, torch.Tensor]], count: int, features: int
) -> Iterator[tuple[slice, torch.Tensor]]:
    """The rows that the processes compute in turns, for all of them, block by block: float32 on the CPU."""
    if not distributed.is_distributed():
        yield from ((rows, batch.cpu().float()) for rows, batch in computed)
        return
    step = _BATCH * distributed.world_size()
    step *= max(1, _EXCHANGED // step)
    own = next(computed, None)
    for start in range(0, count, step):
        block = torch.zeros(min(step, count - start), features)
        while own is not None and own[0].start < start + step:
            rows, batch = own
            block[rows.start - start : rows.stop - start] = batch.cpu().float()
            own = next(computed, None)
        yield slice(start, start + len(block)), distributed.all_reduce_sum(block)


def stored_dtype(precision: torch.dtype) -> type:
    """The type of numpy in which a table has rows of a precision; bfloat16 as its bits."""
    return _STORED[precision]


def _stored(rows: torch.Tensor) -> np.ndarray:
    rows = rows.contiguous()
    return (rows.view(torch.uint16) if rows.dtype == torch.bfloat16 else rows).numpy()


def predict_logits(model: Classifier, activations: ActivationSource, precision: torch.dtype) -> torch.Tensor:
    """Run the tail and the head over the plain view of every image: float32 (N, C), on the CPU."""
    logits = torch.zeros(len(activations), len(model.classes))
    with torch.inference_mode():
        for rows, features in _features(model, activations, 0, precision):
            logits[rows] = model.head(features).cpu()
    return distributed.all_reduce_sum(logits)


def score_with_features(
    model: Classifier,
    activations: ActivationSource,
    labels: torch.Tensor,
    objective: Objective,
    precision: torch.dtype,
    *,
    max_images: int,
) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Run the tail and the head over the plain views, and keep what the head embeds of some images, evenly spread.

    Only the images with a label count: the first N, for labels of N images. Returns the accuracy (`Objective.hits`), in
    0..1; indices of K <= `max_images` images, int64 (K,); float32 (K, E), as `Head.embed` has it. All are on the CPU.
    """
    count = len(labels)
    indices = torch.linspace(0, count - 1, min(count, max_images)).round().long()
    correct, kept = torch.zeros(1, dtype=torch.float64), torch.zeros(len(indices), model.head.embedding)
    with torch.inference_mode():
        for rows, features in _features(model, activations, 0, precision, count):
            is_kept = (indices >= rows.start) & (indices < rows.stop)
            embedded = model.head.embed(features)
            kept[is_kept] = embedded.cpu()[indices[is_kept] - rows.start]
            hits = objective.hits(model.head.classify(embedded).cpu(), objective.targets(labels[rows]))
            correct += hits.double().sum()
    accuracy = float(distributed.all_reduce_sum(correct)) / count
    return accuracy, indices, distributed.all_reduce_sum(kept)


def _features(
    model: Classifier, activations: ActivationSource, view: int, precision: torch.dtype, count: int | None = None
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Output of the tail for one view of the first `count` images (default: all): rows of a batch, and their features.

    Several processes take turns at the batches, which are those of one process, so that the numbers are the same.
    """
    model.eval()
    device, count = model.mean.device, len(activations) if count is None else count
    step = _BATCH * distributed.world_size()
    parts = [slice(start, min(start + _BATCH, count)) for start in range(_BATCH * distributed.rank(), count, step)]
    for rows, batch in zip(parts, activations.batches(view, parts), strict=True):
        with torch.inference_mode(), autocast(device, precision):
            passes = split_into_passes(device, *batch.to(device), precision=precision)
            features = [model.forward_tail(StageOutput(*part), activations.boundary) for part in passes]
        yield rows, torch.cat(features)


def row_bytes(model: Classifier, boundary: int, precision: torch.dtype) -> int:
    """Bytes of one image's activations at a boundary."""
    return (int(np.prod(_shape(model, boundary))) + model.taps_below(boundary)) * precision.itemsize


def _shape(model: Classifier, boundary: int) -> tuple[int, ...]:
    return model.stages[boundary - 1].shape if boundary else model.preprocessing.input_shape


def _tables(model: Classifier, cache: Cache | MemoryCache, backend: PrefixBackend) -> Iterator[Table | MemoryTable]:
    return (cache.table(*place) for place in _places(model, backend))


def _places(model: Classifier, backend: PrefixBackend) -> Iterator[tuple[str, dict[str, Any], tuple[int, ...], type]]:
    """Kind, key, shape and type of the tables of a prefix: values, and taps where there are any."""
    boundary, precision = backend.boundary, backend.precision
    key = prefix_key(model, boundary, precision, backend.version)
    yield "activations", key, _shape(model, boundary), _STORED[precision]
    if length := model.taps_below(boundary):
        yield "taps", {**key, **taps_key(model, boundary)}, (length,), _STORED[precision]


def _view_key(seed: int, view: int, sha256: str) -> int:
    content = hashlib.sha256(sha256.encode()).digest()  # images in memory have other names than hashes
    return random_key(seed, view, *np.frombuffer(content[:16], "<u4").tolist())
