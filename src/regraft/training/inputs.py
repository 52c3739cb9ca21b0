"""What the phases train on: decoded pixels and activations of the parts, from the store or made for it.

Enters: a classifier and a split. Leaves: pixels, and activations at a cut, which the engine that is quickest here made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from regraft.data.augmentation import Augmentation
from regraft.data.dataset import Part, Split
from regraft.data.pixels import Pixels, load_pixels
from regraft.models.classifier import Classifier
from regraft.store import Store
from regraft.training.engine import EngineName, choose_engine, make_engine
from regraft.training.loop import Batches, MirroredMaps
from regraft.training.options import TrainingOptions
from regraft.training.prefix import Activations, row_bytes, run_prefix
from regraft.training.progress import Listener


class Inputs:
    """Pixels and activations of one training.

    Args:
        model: To be trained.
        split: Whose parts train and val are used.
        options: Of the training.
        augmentation: Of the views.
        store: Where pixels and activations are found and kept, as far as its limit allows.
        scratch: Where what is not kept is.
        device: That the model is on.
        precision: Of the arithmetic.
        listener: Told how far the work is.
    """

    def __init__(
        self,
        model: Classifier,
        split: Split,
        options: TrainingOptions,
        augmentation: Augmentation,
        store: Store,
        scratch: Store,
        device: torch.device,
        precision: torch.dtype,
        listener: Listener,
    ) -> None:
        """Nothing is read yet."""
        self._model, self._split, self._options, self._augmentation = model, split, options, augmentation
        self._store, self._scratch, self._listener = store, scratch, listener
        self._device, self._precision = device, precision
        self.engine: EngineName = "torch"

    def prepare(self, cut: int, views: int, *, chosen: EngineName | None = None) -> Iterator[str]:
        """Choose the engine, unless one was chosen before, and see to it that there is room.

        Args:
            cut: Boundary at which activations will be made.
            views: Of each training image.
            chosen: The engine of a training that goes on.

        Yields:
            What a person should know.
        """
        model, counts = self._model, {part: len(self._split[part]) for part in ("train", "val")}
        rows = counts["train"] * views + counts["val"]
        if chosen:
            self.engine = chosen
        else:
            store = self._store if self._options.cache_gb else None
            self.engine, why = choose_engine(self._options.engine, model, cut, self._precision, rows=rows, store=store)
            if why:
                yield why
        size = row_bytes(model, cut, self._precision) * rows + 3 * model.preprocessing.size**2 * sum(counts.values())
        if not self._options.cache_gb:
            self._store = self._scratch
        elif not self._store.make_room(size):
            yield (
                f"The cache keeps {self._store.limit / 1e9:g} GB (training.cache_gb) and this training may need "
                f"{size / 1e9:.1f} GB: it works in a folder that is removed at its end."
            )
            self._store = self._scratch

    def pixels(self, part: Part) -> Pixels:
        """The decoded images of a part."""

        def tell(done: int, total: int) -> None:
            self._listener.work("decode", done, total, f"{part} images")

        return load_pixels(self._split[part], self._model.preprocessing, self._store, progress=tell)

    def activations(
        self, pixels: Mapping[Part, Pixels], cut: int, views: int = 1, *, kept: bool = True
    ) -> dict[Part, Activations]:
        """The activations of some parts at a cut, the train part's in its views.

        Args:
            pixels: Of the parts.
            cut: Boundary; at 0 they are normalised pixels, which nobody needs again.
            views: Of each training image.
            kept: Whether anybody could use them again: not if they come from weights that were just trained.
        """
        kept = kept and cut > 0
        engine = make_engine(self.engine if kept else "torch", self._model, cut, self._precision)
        return {
            part: run_prefix(
                self._model,
                self._split[part],
                pixels[part],
                engine,
                self._store if kept else self._scratch,
                views=views if part == "train" else 1,
                augmentation=self._augmentation,
                seed=self._options.seed,
                batch_size=64 if self._device.type == "cpu" else 256,
                listener=self._listener,
                name=f"backbone, {part} images",
            )
            for part in pixels
        }

    def mirrored(self, activations: Activations) -> Batches:
        """Where there is only the plain view, maps are mirrored in its place, at no cost."""
        shares = (self._augmentation.flip, self._augmentation.vertical_flip)
        maps = len(self._model.stages[activations.boundary - 1].shape) == 3 and not self._model.channels_last_maps
        return MirroredMaps(activations, *shares) if activations.views == 1 and maps and any(shares) else activations
