"""What a user may pass as images, as what the decoder reads: paths, folders, bytes, open files, arrays and tensors."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from regraft.data.band_values import Bands
from regraft.data.dataset import Split
from regraft.data.decode import ImageSource, decode_image, floats_to_uint8, select_bands
from regraft.data.ignored import describe_ignored
from regraft.data.sources.folders import find_images
from regraft.errors import ImageError, UsageError, as_path, cause_of


def _warn(names: Sequence[str]) -> None:
    for line in describe_ignored(names, Path):
        warnings.warn(line, stacklevel=4)


def iter_sources(
    sources: Any, on_ignored: Callable[[Sequence[str]], None] = _warn, *, bands: Bands | None = None
) -> Iterator[ImageSource]:
    """Iterate over one or several sources, and over the images below each folder that were not yielded before.

    A source is whatever `predict` takes; an array or a tensor with four axes is a batch. `on_ignored` gets the other
    files of each folder; it warns by default. With `bands` an array or tensor has all bands, as the model's images had.
    Raises UsageError for a folder without images, and for anything that is
    no source.
    """
    seen: set[Path] = set()
    if bands is None and _is_collection(sources):
        sources = _batch_to_uint8(sources)
    for source in (_image_source(source, bands) for source in (sources if _is_collection(sources) else [sources])):
        if isinstance(source, (str, Path)) and Path(source).is_dir():
            images, others = find_images(Path(source))
            ignored = [str(path) for path in others]
            if not images:
                raise UsageError("\n".join([f"{source} has no image.", *describe_ignored(ignored, Path)]))
            if ignored:
                on_ignored(ignored)
            yield from (image for image in images if image not in seen)
            seen.update(images)
        else:
            seen.update([Path(source)] if isinstance(source, (str, Path)) else [])
            yield source


def _is_collection(value: Any) -> bool:
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim == 4 or (isinstance(value, np.ndarray) and value.dtype.kind in "OU")  # or names
    one = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, Mapping, Split)
    return isinstance(value, Iterable) and not isinstance(value, one) and not hasattr(value, "read")


def _batch_to_uint8(sources: Any) -> Any:
    """The floats of a batch share a range, which a dark image alone would not show; anything else stays as it is."""
    try:
        if isinstance(sources, np.ndarray) and np.issubdtype(sources.dtype, np.floating):
            return floats_to_uint8(sources)
        if isinstance(sources, torch.Tensor) and sources.is_floating_point() and not sources.is_meta:
            return torch.from_numpy(floats_to_uint8(sources.detach().cpu().float().numpy()))
    except ImageError as error:
        raise UsageError(f"The images are {error}.") from error
    return sources


def _image_source(source: Any, bands: Bands | None) -> ImageSource:
    """Return what the decoder reads, or raise a UsageError that names what was received."""
    match source:
        case bytes():
            return source
        case str() | os.PathLike():
            path = as_path(source, "An image")
            return source if isinstance(source, str) else path
        case bytearray() | memoryview():
            return bytes(source)
        case Image.Image():
            with suppress(Exception):  # here, since threads cannot share its file; the decoder reports an error
                source.load()
            return source
        case torch.Tensor():
            source = _tensor_to_array(source, any_channels=bands is not None)
    try:
        if isinstance(source, np.ndarray):
            if bands is None:
                return decode_image(source)
            select_bands(source, bands.numbers)  # raises if it has too few
            return source
        if hasattr(source, "read") and not isinstance(source, io.TextIOBase):
            if source.seekable():  # whatever was read of it before
                source.seek(0)
            if isinstance(content := source.read(), (bytes, bytearray)):
                return bytes(content)
    except ImageError as error:
        raise UsageError(f"An image is {error}.") from error
    except (AttributeError, OSError, ValueError) as error:
        raise UsageError(f"{source!r} cannot be read: {cause_of(error)}. Expected an open binary file.") from error
    raise UsageError(
        f"An image is a {type(source).__module__}.{type(source).__qualname__}; expected a path, bytes, a file opened "
        "with 'rb', a Pillow image, an array (H, W, C) or a tensor (C, H, W), or a list of them."
    )


def _tensor_to_array(tensor: torch.Tensor, *, any_channels: bool) -> np.ndarray:
    """Convert (C, H, W) or (H, W) to (H, W, C) or (H, W)."""
    if tensor.ndim not in (2, 3) or (tensor.ndim == 3 and tensor.shape[0] not in (1, 3, 4) and not any_channels):
        shape = tuple(tensor.shape)
        raise UsageError(
            f"An image is a tensor of shape {shape}; expected (C, H, W) with 1, 3 or 4 channels, or (H, W)."
        )
    try:
        plain = tensor.detach().cpu()
        plain = plain.float() if plain.is_floating_point() else plain
        return (plain.permute(1, 2, 0) if plain.ndim == 3 else plain).numpy()
    except (NotImplementedError, RuntimeError, TypeError) as error:
        raise UsageError(f"An image is a tensor that has no values in memory: {error}") from error
