"""What runs a model in the server, to the bits of `regraft predict`.

Enters: a `Classifier`, or a `Predictor` of another runtime. Leaves: an `Engine`. A batch may give an image other bits
than the image alone would get, because sums are ordered otherwise for another number of rows; so an engine tries its
batch sizes once, on noise, and uses those alone that give every image the bits that it gets by itself.
"""

from __future__ import annotations

import numpy as np
import torch

from regraft.attribution.maps import default_stage, explain_pixels
from regraft.errors import UsageError
from regraft.models.classifier import Classifier
from regraft.models.inference import Prediction, Predictor, predict_pixels


class Engine:
    """Answers for batches of pixels; used by one thread.

    Attributes:
        name: What runs it, such as torch.
        classes: Class names in output order.
        preprocessing: How an image file becomes the input.
        sizes: Batch sizes that change no bit, the largest first; the last is 1.
        explains: Whether there are heat maps, which need a `Classifier` with places.
    """

    def __init__(self, model: Classifier | Predictor, name: str) -> None:
        """Nothing runs yet."""
        self.model, self.name = model, name
        self.classes, self.preprocessing = model.classes, model.preprocessing
        self.sizes: tuple[int, ...] = (1,)
        self._stage: int | None = None
        if isinstance(model, Classifier):
            try:
                self._stage = default_stage(model, "gradcam")
            except UsageError:  # a network without places
                self._stage = None

    @property
    def explains(self) -> bool:  # noqa: D102  # told above
        return self._stage is not None

    @property
    def knows_familiarity(self) -> bool:
        """Whether answers say how familiar an image is."""
        known = self.model.familiarity if isinstance(self.model, Classifier) else None
        return known is not None and len(known.reference) > 0

    def predict(self, images: np.ndarray) -> list[Prediction]:
        """Any number of images, uint8 (N, S, S, 3), in passes whose sizes change no bit."""
        answers: list[Prediction] = []
        while len(answers) < len(images):
            left = len(images) - len(answers)
            size = next(size for size in self.sizes if size <= left)
            answers += predict_pixels(self.model, images[len(answers) : len(answers) + size])
        return answers

    def explain(self, image: np.ndarray, target: int) -> np.ndarray:
        """Grad-CAM of a class at the last stage with places.

        Args:
            image: uint8 (S, S, 3).
            target: Number of the class.

        Returns:
            float32 (S, S) in [0, 1].

        Raises:
            UsageError: There are no heat maps.
        """
        if self._stage is None or not isinstance(self.model, Classifier):
            raise UsageError(f"{self.name} gives no heat maps.")
        pixels = torch.tensor(image[None]).permute(0, 3, 1, 2)
        maps = explain_pixels(self.model, pixels, torch.tensor([target]), method="gradcam", stage=self._stage)
        return maps[0].numpy()

    def warm_up(self, largest: int) -> None:
        """Find the powers of two up to `largest` that change no bit as sizes of batches, which also warms up."""
        side = self.preprocessing.size
        count = 1 << (largest.bit_length() - 1)
        noise = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        alone = [answer for image in noise for answer in predict_pixels(self.model, image[None])]
        sizes = [1]
        while sizes[0] < count:
            size = 2 * sizes[0]
            starts = range(0, count, size)
            together = [answer for i in starts for answer in predict_pixels(self.model, noise[i : i + size])]
            if not all(map(_same, alone, together)):
                break
            sizes.insert(0, size)
        self.sizes = tuple(sizes)
        if self.explains:
            self.explain(noise[0], 0)


def _same(one: Prediction, other: Prediction) -> bool:
    return np.array_equal(one.probabilities, other.probabilities) and one.distance == other.distance
