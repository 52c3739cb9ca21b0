"""The inputs of the phases: decoded pixels, cached activations, and the batches that are drawn from them.

Input: a classifier and a split. Output: pixels, and activations at a cut, computed by the fastest prefix backend.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from regraft import distributed
from regraft.cache import Cache
from regraft.data.augmentation import augment, random_key
from regraft.data.augmentation_options import Augmentation
from regraft.data.dataset import Part, Split
from regraft.data.pixel_cache import Pixels, load_pixels
from regraft.models.classifier import Classifier, StageOutput
from regraft.training.callbacks import ProgressReporter
from regraft.training.device import has_room
from regraft.training.feature_cache import Activations, as_batch, row_bytes, run_prefix
from regraft.training.options import TrainingOptions
from regraft.training.prefix_backend import BackendName, choose_backend, make_backend

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

    The pixels, uint8 (N, S, S, 3), are on disk, or in the memory of the device that augments them.
    """

    pixels: Pixels | torch.Tensor
    augmentation: Augmentation
    boundary: int = 0

    @classmethod
    def of(cls, pixels: Pixels, augmentation: Augmentation, device: torch.device) -> OnlineAugmentation:
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
        """One augmented view of each of these images, uint8 (n, 3, S, S)."""
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
    """Pixels and activations of one training; `scratch` is a temporary cache for what `cache` does not keep.

    Attributes:
        backend: Name of the prefix backend, once `prepare` has chosen it.
        cache_too_small: Whether the training uses `scratch` because the cache has no space for it.
    """

    def __init__(
        self,
        model: Classifier,
        split: Split,
        *,
        options: TrainingOptions,
        augmentation: Augmentation,
        cache: Cache,
        scratch: Cache,
        device: torch.device,
        precision: torch.dtype,
        reporter: ProgressReporter,
    ) -> None:
        self._model, self._split, self._options, self._augmentation = model, split, options, augmentation
        self._cache, self._scratch, self._reporter = cache, scratch, reporter
        self._device, self._precision = device, precision
        model.preprocessing = model.preprocessing.for_white(split.dataset.white)
        self.backend: BackendName = "torch"
        self.cache_too_small = False

    def prepare(self, cut: int, views: int, *, backend: BackendName | None = None) -> Iterator[str]:
        """Choose the prefix backend and make room in the cache; yields messages for the user.

        A training that resumes gives its `backend`; None chooses one.
        """
        model, counts = self._model, {part: len(self._split[part]) for part in ("train", "val")}
        rows = counts["train"] * views + counts["val"]
        if backend:
            self.backend = backend
        else:
            cache = self._cache if self._options.cache_gb else None
            self.backend, reason = distributed.broadcast(
                choose_backend(self._options.prefix_backend, model, cut, self._precision, rows=rows, cache=cache)
            )
            if reason:
                yield reason
        size = row_bytes(model, cut, self._precision) * rows + 3 * model.preprocessing.size**2 * sum(counts.values())
        if not self._options.cache_gb:
            self._cache = self._scratch
        elif not distributed.on_rank_0(lambda: self._cache.make_room(size)):
            self.cache_too_small = True
            yield (
                f"This training may need {size / 1e9:.1f} GB of cache, and the limit is {self._cache.limit / 1e9:g} GB "
                "(training.cache_gb): it uses a temporary folder instead."
            )
            self._cache = self._scratch
        for folder, advice in ((self._cache.root, _SHARE_CACHE), (self._scratch.root, _SHARE_RUN)):
            distributed.check_shared(folder, advice)

    def pixels(self, part: Part) -> Pixels:
        """Decode the images of a part, or find them in the cache."""
        return load_pixels(
            self._split[part],
            self._model.preprocessing,
            self._cache,
            progress=lambda done, total: self._reporter.on_progress("decode", done, total, f"{part} images"),
        )

    def activations(
        self,
        pixels: Mapping[Part, Pixels],
        cut: int,
        views: int = 1,
        *,
        reusable: bool = True,
        deadline: float | None = None,
    ) -> dict[Part, Activations]:
        """Compute the activations of some parts at a cut, or find them in the cache.

        A cut of 0 gives normalized pixels, which are never cached. Only training images have several views. `reusable`:
        a later training could use the activations, because they do not come from weights that were just trained. No
        further view is begun that would end after `deadline`.
        """
        reusable = reusable and cut > 0
        backend = make_backend(self.backend if reusable else "torch", self._model, cut, self._precision)
        return {
            part: run_prefix(
                self._model,
                self._split[part],
                pixels[part],
                backend,
                self._cache if reusable else self._scratch,
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

    def batches(self, activations: Activations) -> Batches:
        """Batches for fine-tuning: of the cached views, or of flipped maps where only the plain view is cached."""
        flips = (self._augmentation.flip, self._augmentation.vertical_flip)
        maps = len(self._model.stages[activations.boundary - 1].shape) == 3 and not self._model.channels_last_maps
        return FlippedMaps(activations, *flips) if activations.views == 1 and maps and any(flips) else activations
