"""Where a training stands, on disk, so that a killed one goes on as if nothing had happened.

Enters: tensors and plain values, after an epoch. Leaves: one file, the old state or the new one, and both again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from regraft.errors import RunError
from regraft.files import replacing


def write_standing(file: Path, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
    """Replace the file."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(file) as temporary:
        save_file(plain, temporary, metadata={"standing": json.dumps(values)})


def read_standing(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What was written.

    Raises:
        RunError: The file is damaged.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            values = json.loads(opened.metadata()["standing"])
            return {name: opened.get_tensor(name) for name in opened.keys()}, values  # noqa: SIM118  # it is no dict
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{file} is damaged: {error}. Remove it to train from the start.") from error


def under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
