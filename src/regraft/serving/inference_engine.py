"""Run a model in the server with the same bits as `regraft predict`.

The result of an image can depend on the size of its batch, because sums are ordered differently. So an engine tries its
batch sizes once on noise, and uses those that give every image the bits of a batch of one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import torch

from regraft.attribution.cam import default_stage, explain_pixels
from regraft.errors import UsageError
from regraft.models.classifier import Classifier
from regraft.models.inference import Prediction, Predictor, has_order, predict_pixels, tree_of


class Engine:
    """Predicts batches of pixels; for use by one thread. Heat maps need a `Classifier` with spatial stages.

    `sizes` are the batch sizes that do not change a bit, largest first; the last is 1. `precision` is that of the
    network, as exports name it.
    """

    def __init__(self, model: Classifier | Predictor, name: str, precision: str = "fp32") -> None:
        self.model, self.name, self.precision = model, name, precision
        self.classes, self.preprocessing, self.thresholds = model.classes, model.preprocessing, model.thresholds
        self.task, self.taxonomy, self.ordered = model.task, tree_of(model), has_order(model)
        self.sizes: tuple[int, ...] = (1,)
        self._stage: int | None = None
        self.has_ood = False  # whether predictions have an out-of-distribution p-value
        if isinstance(model, Classifier):
            self.has_ood = model.ood is not None and len(model.ood.calibration_distances) > 0
            with contextlib.suppress(UsageError):  # no stage keeps positions
                self._stage = default_stage(model, "gradcam")
        self.explains = self._stage is not None

    def predict(self, images: np.ndarray) -> list[Prediction]:
        """Predict images, uint8 (N, S, S, C), in batches whose sizes do not change a bit."""
        predictions: list[Prediction] = []
        while (done := len(predictions)) < len(images):
            size = next(size for size in self.sizes if size <= len(images) - done)
            predictions += predict_pixels(self.model, images[done : done + size])
        return predictions

    def explain(self, image: np.ndarray, targets: Sequence[int]) -> np.ndarray:
        """Grad-CAM of T classes at the last spatial stage, (T, S, S) in [0, 1], for an image, uint8 (S, S, C).

        Of a number the targets are those of `DIRECTIONS`, whose maps are on one scale.
        """
        if self._stage is None or not isinstance(self.model, Classifier):
            raise UsageError(f"{self.name} has no heat maps.")
        pixels = torch.tensor(image[None]).permute(0, 3, 1, 2).expand(len(targets), -1, -1, -1)
        maps = explain_pixels(
            self.model, pixels, torch.tensor(targets), method="gradcam", stage=self._stage,
            images=torch.zeros(len(targets), dtype=torch.int64) if self.task == "regression" else None,
        )  # fmt: skip
        return maps.numpy()

    def warm_up(self, max_size: int) -> None:
        """Set `sizes` to the powers of two up to `max_size` that do not change a bit."""
        count = 1 << (max_size.bit_length() - 1)
        noise = np.random.default_rng(0).integers(0, 256, (count, *self.preprocessing.pixel_shape), dtype=np.uint8)
        alone = [prediction for image in noise for prediction in predict_pixels(self.model, image[None])]
        sizes = [1]
        while sizes[0] < count:
            size = 2 * sizes[0]
            starts = range(0, count, size)
            batched = [prediction for i in starts for prediction in predict_pixels(self.model, noise[i : i + size])]
            if not all(map(_is_same, alone, batched)):
                break
            sizes.insert(0, size)
        self.sizes = tuple(sizes)
        if self.explains:
            self.explain(noise[0], [0])


def _is_same(one: Prediction, other: Prediction) -> bool:
    return np.array_equal(one.answer, other.answer) and one.ood_distance == other.ood_distance
