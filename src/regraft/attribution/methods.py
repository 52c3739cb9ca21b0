"""Names of the attribution methods; the module does not import torch, so that a command lists them fast."""

from __future__ import annotations

from typing import Literal, get_args

Method = Literal["gradcam", "gradcam++", "hirescam", "layercam", "eigencam", "scorecam", "integrated-gradients"]
#: What a map of a number explains, in the order of its targets: why it is not lower, and why it is not higher.
DIRECTIONS = ("higher", "lower")
METHODS: tuple[Method, ...] = get_args(Method)
