"""The inputs of the phases: decoded pixels, activations, features, and the batches that are drawn from them.

Input: a classifier, and the images of each part. Output: pixels, activations at a cut, computed by the fastest prefix
backend, and the inputs of the head. Each is on disk, in memory, or computed whenever it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from regraft import distributed
from regraft.cache import Cache
from regraft.data.augmentation import augment, random_key
from regraft.data.augmentation_options import Augmentation
from regraft.data.dataset import Dataset, Part
from regraft.data.pixel_cache import PixelSource, StreamedPixels, load_pixels
from regraft.models.classifier import Classifier
from regraft.models.staged import StageOutput
from regraft.training.activations import Activations, ActivationSource
from regraft.training.callbacks import ProgressReporter
from regraft.training.device import has_room
from regraft.training.feature_cache import as_batch, continue_cached, extract_features, run_prefix, stored_dtype
from regraft.training.live_prefix import LiveActivations
from regraft.training.memory_cache import MemoryCache
from regraft.training.options import TrainingOptions
from regraft.training.prefix_backend import (
    BackendName,
    OpenVinoBackend,
    PrefixBackend,
    TorchBackend,
    choose_backend,
    make_backend,
    remembered_rates,
)
from regraft.training.storage import (
    StorageNeeds,
    check_disk,
    check_memory,
    check_shared_cache,
    free_disk,
    head_bytes,
    memory_limit,
    storage_needs,
)

if TYPE_CHECKING:
    from regraft.training.phase_plan import PhasePlan

_SHARE_CACHE = "Set REGRAFT_CACHE to a folder that all machines see, such as one on a network file system."
_SHARE_RUN = "Choose an --out that all machines see, such as a folder on a network file system."


class Batches(Protocol):
    """Source of a phase's training inputs."""

    @property
    def boundary(self) -> int:
        """Index of the first stage that the inputs have not passed."""

    def __len__(self) -> int:
        """Number of training images."""

    def sample(self, indices: np.ndarray, key: int, chosen: np.ndarray | slice = slice(None)) -> StageOutput:
        """Activations at `boundary` of one random view of each of these images, or of those at the places `chosen`.

        What is drawn for an image does not depend on which others are chosen.
        """


@dataclass(frozen=True)
class OnlineAugmentation:
    """Batches of freshly augmented pixels, for training without a frozen prefix.

    The pixels, uint8 (N, S, S, C), are on disk or in files, or in the memory of the device that augments them.
    """

    pixels: PixelSource | torch.Tensor
    augmentation: Augmentation
    boundary: int = 0

    @classmethod
    def of(cls, pixels: PixelSource, augmentation: Augmentation, device: torch.device) -> OnlineAugmentation:
        """Make batches of these pixels, which are moved to a GPU if they fit there."""
        if not has_room(device, int(np.prod(pixels.shape))):
            return cls(pixels, augmentation)
        on_device = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(pixels), 256):
            on_device[start : start + 256] = torch.from_numpy(pixels[slice(start, start + 256)]).to(device)
        return cls(on_device, augmentation)

    def __len__(self) -> int:
        return len(self.pixels)

    def sample(self, indices: np.ndarray, key: int, chosen: np.ndarray | slice = slice(None)) -> StageOutput:
        """One augmented view of each of these images, uint8 (n, C, S, S)."""
        indices = indices[chosen]
        keys = [random_key(key, int(i)) for i in indices]
        if isinstance(self.pixels, torch.Tensor):
            batch = self.pixels[torch.from_numpy(indices)].permute(0, 3, 1, 2)
        else:
            batch = as_batch(self.pixels[indices])
        return StageOutput(augment(batch, self.augmentation, keys), torch.empty(len(indices), 0, device=batch.device))


@dataclass(frozen=True)
class FlippedMaps:
    """Batches of cached feature maps (N, C, H, W), flipped at random with the probabilities `flip` and `vertical_flip`.

    A convolutional prefix maps a flipped image to nearly the flipped feature map, so a flip is nearly a second view
    without its cost. The pooled taps of the stages below stay as they are.
    """

    activations: Activations
    flip: float
    vertical_flip: float

    @property
    def boundary(self) -> int:
        """Index of the first stage that the maps have not passed."""
        return self.activations.boundary

    def __len__(self) -> int:
        return len(self.activations)

    def sample(self, indices: np.ndarray, key: int, chosen: np.ndarray | slice = slice(None)) -> StageOutput:
        """The maps of these images, each flipped or not."""
        maps, taps = self.activations.batch(0, indices[chosen])
        rng = np.random.default_rng(random_key(key, 1))
        for probability, axis in ((self.flip, 3), (self.vertical_flip, 2)):
            flipped = torch.from_numpy((rng.random(len(indices)) < probability)[chosen]).to(maps.device)
            maps = torch.where(flipped[:, None, None, None], maps.flip(axis), maps)
        return StageOutput(maps.contiguous(memory_format=torch.channels_last), taps)


class TrainingData:
    """Pixels, activations and features of one training; `scratch` is a temporary cache for what `cache` does not keep.

    Attributes:
        backend: Name of the prefix backend, once `prepare` has chosen it.
        int8: The backend in 8 bits that training images pass instead, and validation images do not; or None.
        cache_too_small: Whether the training uses `scratch` because the cache has no space for it.
    """

    def __init__(
        self,
        model: Classifier,
        images: Mapping[Part, Dataset],
        *,
        options: TrainingOptions,
        augmentation: Augmentation,
        cache: Cache,
        scratch: Cache,
        device: torch.device,
        precision: torch.dtype,
        reporter: ProgressReporter,
    ) -> None:
        self._model, self._images, self._options, self._augmentation = model, images, options, augmentation
        self._cache, self._scratch, self._reporter = cache, scratch, reporter
        self._kept = cache if options.cache_gb else None
        self._device, self._precision = device, precision
        self.backend: BackendName = "torch"
        self.int8: OpenVinoBackend | None = None
        self.cache_too_small = False
        # `auto` is decided by the plan of a run; without one, activations are kept on disk.
        self._keeps = "disk" if options.feature_cache == "auto" else options.feature_cache
        self._memory, self._in_memory, self._stores_pixels = memory_limit(options.memory_gb), MemoryCache(), False

    def prepare(self, phases: PhasePlan, *, backend: BackendName | None = None) -> Iterator[str]:
        """Choose the prefix backend and make room for what is kept; yields messages for the user.

        A training that resumes gives its `backend`; None chooses one. Raises `UsageError` if memory or disk are too
        small for what the options want to keep there.
        """
        model, cut = self._model, phases.cut
        counts: dict[str, int] = {part: len(images) for part, images in self._images.items()}
        rows = counts["train"] * phases.views + counts["val"]
        if backend:
            self.backend = backend
        else:
            self.backend, reason = distributed.broadcast(
                choose_backend(self._options.prefix_backend, model, cut, self._precision, rows=rows, cache=self._kept)
            )
            if reason:
                yield reason
        check_shared_cache(self._keeps, distributed.world_size())
        needs = storage_needs(model, counts, phases, self._precision, processes=distributed.world_size())
        if self._keeps == "memory":
            check_memory(needs, self._memory)
        on_disk = needs.activations if self._keeps == "disk" else 0
        if not self._options.cache_gb:
            self._cache = self._scratch
        elif on_disk and not distributed.on_rank_0(lambda: self._cache.make_room(on_disk)):
            self.cache_too_small = True
            yield (
                f"This training may need {on_disk / 1e9:.1f} GB of cache, and the limit is "
                f"{self._cache.limit / 1e9:g} GB (training.cache_gb): it uses a temporary folder instead."
            )
            self._cache = self._scratch
        for folder, advice in ((self._cache.root, _SHARE_CACHE), (self._scratch.root, _SHARE_RUN)):
            distributed.check_shared(folder, advice)
        self._stores_pixels = distributed.on_rank_0(lambda: self._make_room(on_disk, needs))

    def _make_room(self, on_disk: int, needs: StorageNeeds) -> bool:
        """Make room on disk; returns whether there is room for pixels that are read more than once, too.

        Raises `UsageError` if the activations do not fit on the disk.
        """
        if on_disk:
            check_disk(on_disk, self._cache.root)
        if needs.reads_once:
            return False
        wanted = on_disk + needs.pixels
        return wanted <= free_disk(self._cache.root) and (self._cache is self._scratch or self._cache.make_room(wanted))

    @property
    def _store(self) -> Cache | MemoryCache:
        """Where activations are kept, or for the time of the training."""
        if self._keeps == "memory":
            return self._in_memory
        return self._cache if self._keeps == "disk" else self._scratch

    def pixels(self, part: Part) -> PixelSource:
        """Decode the images of a part, or find them in the cache; or a source that decodes them when they are read."""
        if not self._stores_pixels:
            return self._streamed(self._images[part])
        return load_pixels(
            self._images[part],
            self._model.preprocessing,
            self._cache,
            progress=lambda done, total: self._reporter.on_progress("decode", done, total, f"{part} images"),
        )

    def activations(
        self,
        pixels: Mapping[Part, PixelSource],
        cut: int,
        views: int = 1,
        *,
        reusable: bool = True,
        deadline: float | None = None,
    ) -> dict[Part, ActivationSource]:
        """Compute the activations of some parts at a cut, or find them in the cache.

        Only training images have several views. `reusable`: a later pass or training could use the activations, because
        they do not come from weights that were just trained. Those that could not, normalized pixels (a cut of 0), and
        all below the head if nothing is to be kept, are computed whenever they are read. No further view is begun that
        would end after `deadline`.
        """
        is_live = not reusable or cut == 0 or (self._keeps == "none" and cut < len(self._model.stages))
        kind: BackendName = self.backend if reusable and cut else "torch"
        backend = make_backend(kind, self._model, cut, self._precision, self._kept)
        backends: dict[Part, PrefixBackend] = dict.fromkeys(pixels, backend)
        if self.int8 is not None and reusable and cut:
            backends["train"] = self.int8
        if is_live:
            return {
                part: LiveActivations(pixels[part], backends[part], self._augmentation, self._device) for part in pixels
            }
        # An earlier training that fine-tuned has cached activations where it began.
        lower, store = self._model.resolve(self._options.finetune_from), self._store
        if (
            0 < lower < cut == len(self._model.stages)
            and isinstance(backend, TorchBackend)
            and isinstance(store, Cache)
        ):
            for part in (part for part in pixels if backends[part] is backend):
                name = f"upper stages, {part} images"
                continue_cached(
                    self._model, self._images[part], lower, backend, store, reporter=self._reporter, name=name
                )
        return {
            part: run_prefix(
                self._model,
                self._images[part],
                pixels[part],
                backends[part],
                self._store,
                views=views if part == "train" else 1,
                deadline=deadline,
                augmentation=self._augmentation,
                seed=self._options.seed,
                batch_size=64 if self._device.type == "cpu" else 256,
                reporter=self._reporter,
                name=f"backbone, {part} images",
            )
            for part in pixels
        }

    def head_inputs(
        self, activations: Mapping[Part, ActivationSource], views: int, *, fitted: bool, own: bool = False
    ) -> dict[Part, Activations]:
        """Inputs of the head: of `views` views of the training images and of the plain validation images.

        They are float32 tensors where these fit into memory, with `own` of only those images whose rows belong to this
        process; else rows in the precision of training: the activations themselves where nothing is above them, or a
        temporary table. A head that is `fitted` by L-BFGS needs more memory than one that trains in epochs.
        """
        model, end = self._model, len(self._model.stages)
        taken = {part: views if part == "train" else 1 for part in activations}
        counts = {part: len(rows) for part, rows in activations.items()}
        room = self._memory
        if self._keeps == "memory":
            room -= sum(rows.nbytes for rows in activations.values() if isinstance(rows, Activations))
        processes = distributed.world_size() if own else 1
        needed = head_bytes(
            model, counts["train"], counts.get("val", 0), views=views, processes=processes, fitted=fitted
        )
        fits = all(distributed.all_gather(needed <= room))  # each machine has its own memory
        inputs: dict[Part, Activations] = {}
        for part, rows in activations.items():
            if not fits and isinstance(rows, Activations) and rows.boundary == end:
                inputs[part] = rows
                continue
            dtype = stored_dtype(self._precision)
            store = None if fits else self._scratch.table("features", {"part": part}, (model.head.features,), dtype)
            features = extract_features(model, rows, taken[part], self._precision, self._reporter, store=store, own=own)
            inputs[part] = Activations(end, features)
        return inputs

    def unlabeled_features(self, images: Dataset) -> torch.Tensor:
        """Inputs of the head for the plain images without labels, float32 (M, F), kept as the other activations are."""
        backend = self.int8 or self.float_backend(len(self._model.stages))
        return self.plain_features(images, backend, "backbone, unlabeled images")

    def plain_features(self, images: Dataset, backend: PrefixBackend, name: str) -> torch.Tensor:
        """Inputs of the head for plain images, float32 (M, F), whose activations are kept as the others are.

        `name` is the step in the progress.
        """
        model = self._model
        activations = run_prefix(
            model,
            images,
            self._streamed(images),
            backend,
            self._store,
            batch_size=64 if self._device.type == "cpu" else 256,
            reporter=self._reporter,
            name=name,
        )
        features = extract_features(model, activations, 1, self._precision, self._reporter).values
        assert isinstance(features, torch.Tensor)
        return features[0]

    def float_backend(self, cut: int) -> PrefixBackend:
        """The backend that `prepare` has chosen, up to a cut."""
        return make_backend(self.backend, self._model, cut, self._precision, self._kept)

    def int8_backend(self, cut: int, images: Dataset) -> OpenVinoBackend:
        """A backend in 8 bits up to a cut, calibrated on these images."""
        calibration = as_batch(self._streamed(images)[:])
        return OpenVinoBackend(self._model, cut, self._precision, self._kept, calibration)

    def rates(self, backends: Sequence[PrefixBackend]) -> list[float]:
        """Images per second of each backend, by the first measurement on this machine."""
        return remembered_rates(self._model, backends, self._kept)

    def _streamed(self, images: Dataset) -> StreamedPixels:
        return StreamedPixels(images, self._model.preprocessing, self._cache)

    def has_memory_for(self, size: int) -> bool:
        """Whether so many bytes fit into the memory for features."""
        return size <= self._memory

    def batches(self, activations: ActivationSource) -> Batches:
        """Batches for fine-tuning: of the cached views, of flipped maps if only the plain view is, or of new views."""
        if not isinstance(activations, Activations):
            return activations
        flips = (self._augmentation.flip, self._augmentation.vertical_flip)
        maps = len(self._model.stages[activations.boundary - 1].shape) == 3 and not self._model.channels_last_maps
        return FlippedMaps(activations, *flips) if activations.views == 1 and maps and any(flips) else activations
