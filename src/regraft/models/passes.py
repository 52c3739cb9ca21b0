"""How many images run through a network at once.

Input: a batch of images, or of their activations. Output: the parts of it that are passes through the network.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

#: Values that enter a pass on a CPU: those of 8 color images of 224 pixels. More take more memory, and no less time;
#: fewer would make many passes of small images, of which each takes its time (docs/decisions/keep-freed-memory.md).
_VALUES = 8 * 3 * 224 * 224
#: Fewest images of a pass: a part of them is never a single one, which runs other kernels than several.
_FEWEST = 4


def images_per_pass(values: int) -> int:
    """Number of images of so many values each that a CPU runs at once."""
    return max(_FEWEST, _VALUES // max(1, values))


def split_into_passes(device: torch.device, *inputs: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Nearly equal parts (n, ...) of each input (N, ...), of which the first has what the network runs.

    There are several for a CPU, by `images_per_pass`, and one for a GPU, which many images keep busy.
    """
    images = inputs[0]
    at_once = images_per_pass(images[0].numel()) if device.type == "cpu" and len(images) else len(images)
    parts = max(1, -(-len(images) // max(1, at_once)))
    return zip(*(torch.tensor_split(part, parts) for part in inputs), strict=True)
