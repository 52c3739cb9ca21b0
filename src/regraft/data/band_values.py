"""Which bands of a data set's images are the channels, and which values of them become 0 and 255.

Input: the modes of the images and a setting, and images. Output: numbers of bands, and values of these bands.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from regraft.data.bands import BandRanges, count_bands, has_bands
from regraft.data.decode import ImageSource, select_bands
from regraft.errors import DataError, UsageError
from regraft.resources import usable_cpus
from regraft.text import join_truncated, pluralize

#: Images, evenly spread over the training images, whose values are measured, and pixels of each for mean and deviation.
_IMAGES, _PIXELS = 1000, 1024
#: Percentiles over the images of their own percentiles.
_LOW, _HIGH = 1, 99
#: Largest number of bands, which no sensor exceeds.
MAX_BANDS = 1024


@dataclass(frozen=True)
class Bands:
    """The bands that are the channels of a model's input, by their numbers from 1, in the order of the channels.

    `ranges` are the values of each band that become 0 and 255; `mean` and `std` are those of the channels after that,
    on the scale 0..1.
    """

    numbers: tuple[int, ...]
    ranges: BandRanges
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.numbers or not all(1 <= number <= MAX_BANDS for number in self.numbers):
            raise ValueError(f"bands {self.numbers}; expected numbers from 1 to {MAX_BANDS}")
        if len(self.ranges) != len(self.numbers) or not all(-math.inf < a < b < math.inf for a, b in self.ranges):
            raise ValueError(f"ranges {self.ranges}; expected a lower and a higher value for each of {self.numbers}")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Bands:
        """Read the values that `dataclasses.asdict` returned."""
        ranges = tuple((float(low), float(high)) for low, high in value["ranges"])
        return cls(tuple(map(int, value["numbers"])), ranges, tuple(value["mean"]), tuple(value["std"]))

    def describe_pictures(self) -> str:
        """A sentence about what pictures of the images show; "" if they show all channels."""
        if len(self.numbers) == 3:
            return ""
        if len(self.numbers) < 3:
            return f"Pictures show the band {self.numbers[0]} as gray."
        red, green, blue = self.numbers[:3]
        return f"Pictures show the bands {red}, {green} and {blue} as red, green and blue."

    def describe(self) -> str:
        """A sentence about the channels and their values."""
        if set(self.ranges) == {(0.0, 255.0)}:
            return f"The channels are the bands {format_numbers(self.numbers)}, whose values stay as they are."
        listed = (f"{n} ({low:,.4g} to {high:,.4g})" for n, (low, high) in zip(self.numbers, self.ranges, strict=True))
        return f"The channels are the bands {join_truncated(listed, shown=16)}; these values become 0 to 255."


def read_numbers(setting: str) -> tuple[int, ...]:
    """The numbers of bands in a setting such as `4,3,2` or `1-6,8`; () for "" and `all`.

    Raises `ValueError` for anything else.
    """
    if setting in ("", "all"):
        return ()
    numbers: list[int] = []
    for part in re.split(r"[,\s]+", setting.strip()):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last <= MAX_BANDS:
            raise ValueError("expected all, or numbers of bands from 1, such as 4,3,2 or 1-6")
        numbers += range(first, last + 1)
    return tuple(numbers)


def format_numbers(numbers: Sequence[int]) -> str:
    """Numbers of bands as in the setting: `1-13` or `4,3,2`."""
    first = numbers[0]
    if len(numbers) > 2 and tuple(numbers) == tuple(range(first, first + len(numbers))):
        return f"{first}-{numbers[-1]}"
    return ",".join(map(str, numbers))


def choose_bands(
    setting: str, names: Sequence[str] | np.ndarray, modes: np.ndarray, frames: np.ndarray
) -> tuple[int, ...]:
    """The bands that images have as channels, by a setting; () where all images are gray or have colors.

    `modes`, bytes (N,), and `frames`, int (N,), are as in `ImageStats`. Raises `DataError`, with names of images, if
    these differ in their bands or have too few, and `UsageError` for another setting.
    """
    try:
        chosen = read_numbers(setting)
    except ValueError as error:
        raise UsageError(f"data.bands = {setting!r}: {error}.") from error
    if not setting and not any(has_bands(mode.decode()) for mode in np.unique(modes).tolist()):
        return ()
    texts = [mode.decode() for mode in modes.tolist()]
    counts = [count_bands(mode, pages) for mode, pages in zip(texts, frames.tolist(), strict=True)]
    types, convert = [_number_type(mode) for mode in texts], "convert or remove some"
    if chosen and min(counts, default=max(chosen)) < max(chosen):
        few = [f"{name} ({count})" for name, count in zip(names, counts, strict=True) if count < max(chosen)]
        what = pluralize(len(few), "image has", "images have")
        raise DataError(
            f"{what} fewer bands than {max(chosen)}, which data.bands = {setting} needs: {join_truncated(few)}."
        )
    if not chosen:
        # Without a setting, four bands of a raster and the four of a transparent picture are not the same.
        common = format_numbers(range(1, min(counts, default=1) + 1))
        choose = f", or choose bands that all have, such as data.bands = {common}" if len(set(types)) == 1 else ""
        keys = [(count, not setting and not has_bands(mode)) for count, mode in zip(counts, texts, strict=True)]
        _refuse_different(
            keys, names, lambda key: f"{pluralize(key[0], 'band')}{' of gray or colors' * key[1]}", "bands",
            convert + choose,
        )  # fmt: skip
    _refuse_different(types, names, str, "type of numbers", convert)
    return chosen or tuple(range(1, max(counts, default=1) + 1))


_Key = TypeVar("_Key", bound=Hashable)


def _refuse_different(
    keys: Sequence[_Key], names: Sequence[str] | np.ndarray, describe: Callable[[_Key], str], what: str, advice: str
) -> None:
    """Raise `DataError` with an example of each key if there are several."""
    if len(found := Counter(keys)) < 2:
        return
    examples = (
        f"{count:,} with {describe(key)}, such as {names[keys.index(key)]}" for key, count in found.most_common()
    )
    raise DataError(
        f"The images differ in their {what}: {join_truncated(examples, '; ')}. Expected images that are alike: "
        f"{advice}."
    )


def check_bands(bands: Bands | None, numbers: tuple[int, ...]) -> None:
    """Raise `UsageError` if a model with these bands, or with none, does not take the images of a data set."""
    own = () if bands is None else bands.numbers
    if own == numbers:
        return
    has, takes = (f"the bands {format_numbers(one)}" if one else "gray or colors" for one in (numbers, own))
    how = f"Choose the same: data.bands = {format_numbers(own)}." if own else "Build it with bands=split.dataset.bands."
    raise UsageError(f"The model takes {takes} of an image, and of this data {has} are used. {how}")


def choose_bands_of_arrays(setting: str, names: Sequence[str], arrays: Sequence[np.ndarray]) -> tuple[int, ...]:
    """`choose_bands` for arrays (H, W) or (H, W, C); without a setting, 1, 3 and 4 channels are colors."""
    channels = [1 if array.ndim == 2 else array.shape[-1] for array in arrays]
    if not setting and not {1, 3, 4}.isdisjoint(channels):
        return ()  # an array of other channels beside images of colors is no image, as `decode_image` says
    modes = (f"{n}x{array.dtype.kind}{array.dtype.itemsize}" for n, array in zip(channels, arrays, strict=True))
    return choose_bands(setting, names, np.array([mode.encode() for mode in modes], "S16"), np.ones(len(arrays), int))


def _number_type(mode: str) -> str:
    if match := re.match(r"\d+x(\w)(\d)", mode):
        is_float, is_wide = match[1] == "f", match[2] != "1"
    else:
        is_float, is_wide = mode[:1] == "F", mode[:1] == "I" or ";" in mode
    return "floats" if is_float else "integers of more than 8 bits" if is_wide else "integers of 8 bits"


def measure_bands(numbers: tuple[int, ...], count: int, source: Callable[[int], ImageSource], max_pixels: int) -> Bands:
    """Measure the bands of images by their index, 0 to `count` - 1; of more than 1000 images, of as many evenly spread.

    The ends of a range are the 1st percentile of the images' 0.1th percentiles and the 99th of their 99.9th. Raises
    `ImageError` if an image cannot be read.
    """

    def read(index: int) -> tuple[np.ndarray, np.ndarray, bool]:
        raster = select_bands(source(index), numbers, max_pixels)
        values = raster.values.reshape(-1, len(numbers))[:: max(1, raster.values[..., 0].size // _PIXELS)]
        valid = raster.is_valid(values)
        return np.array(raster.own_ranges()), np.where(valid, values, np.nan), raster.values.dtype == np.uint8

    chosen = np.linspace(0, count - 1, min(count, _IMAGES)).round().astype(int).tolist()
    with ThreadPoolExecutor(usable_cpus()) as pool:
        measured = list(pool.map(read, chosen))
    ends = np.stack([own for own, _, _ in measured])
    low, high = np.percentile(ends[:, :, 0], _LOW, axis=0), np.percentile(ends[:, :, 1], _HIGH, axis=0)
    if all(is_8_bit for _, _, is_8_bit in measured):
        low, high = np.zeros(len(numbers)), np.full(len(numbers), 255.0)
    high = np.where(high > low, high, low + 1)
    pixels = np.concatenate([values for _, values, _ in measured])
    scaled = np.nan_to_num(np.clip((pixels - low) / (high - low), 0, 1))
    return Bands(
        numbers,
        tuple(zip(low.tolist(), high.tolist(), strict=True)),
        tuple(scaled.mean(axis=0).tolist()),
        tuple(scaled.std(axis=0).clip(min=1 / 255).tolist()),
    )
