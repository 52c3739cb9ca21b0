"""From decoded pixels to the square that a backbone reads.

Enters: RGB uint8 of any size. Leaves: RGB uint8 (size, size, 3). Mean and standard deviation are kept beside
it and applied inside the model, so whoever holds the model cannot normalise differently.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from regraft.data.decode import MAX_PIXELS, ImageSource, decode_image

Resize = Literal["stretch", "crop", "pad"]
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a model's input; it travels with the model.

    Attributes:
        size: Side of the square in pixels.
        resize: `stretch` uses the whole image and changes its aspect; `crop` keeps the aspect and cuts the
            middle out; `pad` keeps both and fills with the backbone's mean colour.
        interpolation: `nearest`, `bilinear`, `bicubic` or `lanczos`, always antialiased.
        mean: Per channel, on the scale 0..1, subtracted inside the model.
        std: Per channel, on the scale 0..1, divided by inside the model.
    """

    size: int
    resize: Resize = "stretch"
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        """Refuse what no image could be prepared with."""
        if self.interpolation not in _FILTERS:
            raise ValueError(f"interpolation {self.interpolation!r}; expected one of {', '.join(_FILTERS)}")
        if self.resize not in get_args(Resize):
            raise ValueError(f"resize {self.resize!r}; expected one of {', '.join(get_args(Resize))}")
        if self.size < 8:
            raise ValueError(f"size {self.size}; expected at least 8 pixels")

    def __call__(self, source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Decode and resize.

        Args:
            source: What `decode_image` takes.
            max_pixels: The largest width x height that is decoded.

        Returns:
            uint8 array (size, size, 3).

        Raises:
            ImageError: The image cannot be read.
        """
        # Twice as many pixels as are wanted lose nothing that the resizing would have kept.
        pixels = decode_image(source, max_pixels=max_pixels, at_least=2 * self.size)
        height, width = pixels.shape[:2]
        size, resample = self.size, _FILTERS[self.interpolation]
        if (height, width) == (size, size):
            return pixels
        image = Image.fromarray(pixels)
        if self.resize == "stretch":
            return np.asarray(image.resize((size, size), resample))
        if self.resize == "crop":
            side = min(width, height)
            left, top = (width - side) / 2, (height - side) / 2
            return np.asarray(image.resize((size, size), resample, box=(left, top, left + side, top + side)))
        inner = self._inner(width, height)
        canvas = Image.new("RGB", (size, size), tuple(round(255 * channel) for channel in self.mean))
        canvas.paste(image.resize(inner, resample), ((size - inner[0]) // 2, (size - inner[1]) // 2))
        return np.asarray(canvas)

    def laid_back(self, values: np.ndarray, width: int, height: int) -> np.ndarray:
        """What was found over the square, over the image that it was made from.

        Args:
            values: (size, size) numbers.
            width: Of the image in pixels.
            height: Of it.

        Returns:
            float32 (height, width), interpolated; 0 where the square shows nothing of the image.
        """
        square = Image.fromarray(np.ascontiguousarray(values, np.float32))
        bilinear = Image.Resampling.BILINEAR
        if self.resize == "stretch":
            return np.asarray(square.resize((width, height), bilinear))
        if self.resize == "crop":
            side = min(width, height)
            whole = Image.new("F", (width, height))
            whole.paste(square.resize((side, side), bilinear), ((width - side) // 2, (height - side) // 2))
            return np.asarray(whole)
        inner = self._inner(width, height)
        left, top = (self.size - inner[0]) // 2, (self.size - inner[1]) // 2
        box = (left, top, left + inner[0], top + inner[1])
        return np.asarray(square.resize((width, height), bilinear, box=box))

    def _inner(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the image where it is padded to the square."""
        scale = self.size / max(width, height)
        return max(1, round(width * scale)), max(1, round(height * scale))

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `model.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Preprocessing:
        """The inverse of `to_json`."""
        return cls(**{**value, "mean": tuple(value["mean"]), "std": tuple(value["std"])})
