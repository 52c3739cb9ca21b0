"""What the activations of a frozen prefix depend on besides the image, as the key under which they are cached."""

from __future__ import annotations

import hashlib
from typing import Any

import PIL
import torch

from regraft.data.decode import DECODER_VERSION
from regraft.models.classifier import Classifier
from regraft.models.several_backbones import SeveralBackbones


def prefix_key(model: Classifier, boundary: int, precision: torch.dtype, backend: str) -> dict[str, Any]:
    """JSON values that differ whenever the values at a boundary could, computed by a `backend` of this version."""
    key: dict[str, Any] = {
        "decoder": DECODER_VERSION,
        "pillow": PIL.__version__,
        "backbone": model.spec.name,
        "weights": _fingerprint(model, boundary),
        "boundary": model.stages[boundary].name if boundary < len(model.stages) else "head",
        "pooling": model.pooling,
        "preprocessing": model.preprocessing.to_json(),
        "precision": str(precision).removeprefix("torch."),
        "backend": backend,
    }
    if isinstance(model.backbone, SeveralBackbones):  # each has its own size and normalization, and reads its own taps
        key["members"] = model.backbone.get_config()
    return key


def taps_key(model: Classifier, boundary: int) -> dict[str, Any]:
    """As `prefix_key`, what only the taps below a boundary depend on."""
    return {"stages": {model.stages[index].name: parts for index, parts in model.tap_parts.items() if index < boundary}}


def _fingerprint(model: Classifier, boundary: int) -> str:
    """Hash of all weights and buffers below a boundary."""
    digest = hashlib.blake2b(digest_size=16)
    for stage in model.stages[:boundary]:
        for _, module in stage.modules:
            for tensor in (*module.parameters(), *module.buffers()):
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        for _, tensor in stage.parameters_outside_modules:
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
