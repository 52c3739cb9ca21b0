"""Resize decoded images to the square, or rectangle, that a backbone takes as input.

The mean and standard deviation are part of the preprocessing but are applied inside the model, so no user of the model
can normalize differently.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from regraft.data.band_values import Bands
from regraft.data.decode import MAX_PIXELS, ImageSource, decode_bands, decode_image, decode_picture
from regraft.data.rgb import UNKNOWN_RANGE, ValueRange

Resize = Literal["stretch", "crop", "pad"]
#: Side of a square in pixels, or height and width.
ImageSize = int | tuple[int, int]
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def read_size(named: int | str) -> ImageSize:
    """The size that `Preprocessing.named_size` names."""
    if isinstance(named, int):
        return named
    height, width = map(int, named.split("x"))
    return height, width


def shape_of(named: int | str) -> tuple[int, int]:
    """Height and width of the size that `Preprocessing.named_size` names."""
    size = read_size(named)
    return (size, size) if isinstance(size, int) else size


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a model; saved with the model.

    The input is a square of `size` pixels, or `size` is its height and width. `stretch` changes the aspect ratio;
    `crop` takes the largest part at the center with the input's aspect ratio; `pad` keeps the whole image and its
    aspect ratio and fills the rest with the mean color. Interpolation is antialiased. `mean` and `std` of each channel
    are on the scale 0..1; the model subtracts and divides by them. `value_range` is that of `decode_image`. `bands` are
    the channels if these are not red, green and blue, or are chosen bands.
    """

    size: ImageSize
    resize: Resize = "stretch"
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    value_range: ValueRange = UNKNOWN_RANGE
    bands: Bands | None = None

    def __post_init__(self) -> None:
        if self.interpolation not in _FILTERS:
            raise ValueError(f"interpolation {self.interpolation!r}; expected one of {', '.join(_FILTERS)}")
        if self.resize not in get_args(Resize):
            raise ValueError(f"resize {self.resize!r}; expected one of {', '.join(get_args(Resize))}")
        if not isinstance(self.size, int):
            if not isinstance(self.size, (tuple, list)) or len(self.size) != 2:
                raise ValueError(f"size {self.size!r}; expected a number of pixels, or height and width")
            height, width = self.size
            object.__setattr__(self, "size", height if height == width else (height, width))
        if min(self.shape) < 8:
            raise ValueError(f"size {self.size}; expected at least 8 pixels")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} deviations of {self.channels} channels")

    @property
    def named_size(self) -> int | str:
        """The size as in `model.image_size`: 224, or "384x128" for height and width."""
        return self.size if isinstance(self.size, int) else "{}x{}".format(*self.size)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def channels(self) -> int:
        """Number of channels C of the input."""
        return 3 if self.bands is None else len(self.bands.numbers)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the input."""
        return (self.channels, *self.shape)

    @property
    def pixel_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the pixels."""
        return (*self.shape, self.channels)

    def picture(self, source: ImageSource, *, max_pixels: int = MAX_PIXELS, at_least: int | None = None) -> np.ndarray:
        """The image as a picture to look at, uint8 (H, W, 3), at its own size: that of `decode_picture`."""
        numbers, ranges = ((), ()) if self.bands is None else (self.bands.numbers, self.bands.ranges)
        return decode_picture(
            source, max_pixels=max_pixels, at_least=at_least, value_range=self.value_range, numbers=numbers,
            ranges=ranges,
        )  # fmt: skip

    def __call__(self, source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Decode and resize to uint8 (H, W, C); arguments and errors are those of `decode_image` or `decode_bands`."""
        if self.bands is None:
            # Twice the final size keeps every frequency that survives the resizing.
            at_least = 2 * max(self.shape)
            pixels = decode_image(source, max_pixels=max_pixels, at_least=at_least, value_range=self.value_range)
        else:
            pixels = decode_bands(source, self.bands.numbers, self.bands.ranges, max_pixels=max_pixels)
        if pixels.shape[:2] == self.shape:
            return pixels
        height, width = pixels.shape[:2]
        size, resample = self.shape[::-1], _FILTERS[self.interpolation]
        if self.resize == "stretch":
            return _resized(pixels, size, resample)
        if self.resize == "crop":
            inner_width, inner_height = self._cropped_size(width, height)
            left, top = (width - inner_width) / 2, (height - inner_height) / 2
            return _resized(pixels, size, resample, (left, top, left + inner_width, top + inner_height))
        inner = self._padded_size(width, height)
        left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
        canvas = np.empty(self.pixel_shape, np.uint8)
        canvas[:] = [round(255 * channel) for channel in self.mean]
        canvas[top : top + inner[1], left : left + inner[0]] = _resized(pixels, inner, resample)
        return canvas

    def for_value_range(self, value_range: ValueRange) -> Preprocessing:
        """The same with the data's `value_range`, unless the model has one of its own."""
        return replace(self, value_range=value_range) if self.value_range == UNKNOWN_RANGE else self

    def map_to_image(self, values: np.ndarray, width: int, height: int) -> np.ndarray:
        """Map a heat map over the model's input, (H, W), back to the original image of this size in pixels.

        Returns float32 (height, width), interpolated; 0 where the image was cropped.
        """
        heat = Image.fromarray(np.ascontiguousarray(values, np.float32))
        bilinear = Image.Resampling.BILINEAR
        if self.resize == "stretch":
            return np.asarray(heat.resize((width, height), bilinear))
        if self.resize == "crop":
            inner_width, inner_height = self._cropped_size(width, height)
            part = max(1, round(inner_width)), max(1, round(inner_height))
            canvas = Image.new("F", (width, height))
            canvas.paste(heat.resize(part, bilinear), ((width - part[0]) // 2, (height - part[1]) // 2))
            return np.asarray(canvas)
        inner = self._padded_size(width, height)
        left, top = (self.shape[1] - inner[0]) // 2, (self.shape[0] - inner[1]) // 2
        box = (left, top, left + inner[0], top + inner[1])
        return np.asarray(heat.resize((width, height), bilinear, box=box))

    def _cropped_size(self, width: int, height: int) -> tuple[float, float]:
        """Width and height of the largest part of an image that has the aspect ratio of the input."""
        rows, columns = self.shape
        return min(width, height * columns / rows), min(height, width * rows / columns)

    def _padded_size(self, width: int, height: int) -> tuple[int, int]:
        rows, columns = self.shape
        scale = min(rows / height, columns / width)
        return max(1, round(width * scale)), max(1, round(height * scale))

    def to_json(self) -> dict[str, Any]:
        """JSON values for `model.json`; `bands` only where there are some."""
        return {name: value for name, value in asdict(self).items() if name != "bands" or value is not None}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Preprocessing:
        """Read the values that `to_json` returned."""
        # In models of the versions before, black was 0, and in the first ones all integers had values of 16 bits.
        value = dict(value)
        integers, floats = value.pop("white", (65535, 0))
        (first, second) = value.pop("value_range", ((0.0, integers), (0.0, floats)))
        bands = Bands.from_json(value["bands"]) if value.get("bands") else None
        tuples = {name: tuple(value[name]) for name in ("mean", "std", "size") if isinstance(value[name], list)}
        return cls(**{**value, **tuples, "value_range": (tuple(first), tuple(second)), "bands": bands})


def _resized(
    pixels: np.ndarray,
    size: tuple[int, int],
    resample: Image.Resampling,
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """Resize pixels (H, W, C), or a part of them, to a width and height; Pillow resizes each channel on its own."""
    if pixels.shape[2] == 3:
        return np.asarray(Image.fromarray(pixels).resize(size, resample, box=box))
    channels = (Image.fromarray(np.ascontiguousarray(channel)) for channel in pixels.transpose(2, 0, 1))
    return np.stack([np.asarray(channel.resize(size, resample, box=box)) for channel in channels], axis=2)
