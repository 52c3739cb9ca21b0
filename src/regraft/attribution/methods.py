"""The methods' names, without torch, so that a command can list them at once."""

from __future__ import annotations

from typing import Literal, get_args

Method = Literal["gradcam", "gradcam++", "hirescam", "layercam", "eigencam", "scorecam", "integrated-gradients"]
METHODS: tuple[Method, ...] = get_args(Method)
