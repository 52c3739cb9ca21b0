"""Shared by the scripts of the peers: options, decoding, and the line with the result."""

# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

EXTENSIONS = {".png", ".jpg", ".jpeg"}


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """Create a parser with the options of every script."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/CLASS and test/CLASS")
    parser.add_argument("--weights", type=Path, required=True, help="backbone weights under timm's names")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--architecture", default="tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser


def listing(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the image files in class folders, and the class of each."""
    files = sorted(file for file in folder.glob("*/*") if file.suffix.lower() in EXTENSIONS)
    return files, [file.parent.name for file in files]


def decode(files: list[Path], size: int) -> torch.Tensor:
    """Decode to RGB, uint8 (N, 3, size, size), with EXIF rotation applied, stretched to a square."""
    pixels = np.empty((len(files), size, size, 3), np.uint8)
    for i, file in enumerate(files):
        with Image.open(file) as image:
            rgb = ImageOps.exif_transpose(image).convert("RGB")
            pixels[i] = np.asarray(rgb.resize((size, size), Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def computes_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16; others emulate it, which is slower than float32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def peak_megabytes(who: int = resource.RUSAGE_SELF) -> float:
    """Peak resident memory so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(who).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def report(
    peer: str,
    recipe: str,
    options: argparse.Namespace,
    *,
    import_seconds: float,
    seconds: float,
    peak: float,
    predicted: list[str],
    packages: tuple[str, ...],
    **extra: Any,
) -> None:
    """Write the predictions of the test images, in the order of `listing`, and print the result as the last line."""
    files, truth = listing(options.data / "test")
    with (options.out / "predictions.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "predicted"])
        for row in zip(files, truth, predicted, strict=True):
            writer.writerow([row[0].relative_to(options.data).as_posix(), *row[1:]])
    correct = sum(a == b for a, b in zip(truth, predicted, strict=True))
    result = {
        "peer": peer,
        "recipe": recipe,
        "accuracy": correct / len(truth),
        "correct": correct,
        "count": len(truth),
        "seconds": round(seconds, 3),
        "import_seconds": round(import_seconds, 3),
        "peak_megabytes": round(peak, 1),
        "size": options.size,
        "seed": options.seed,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in packages},
        **extra,
    }
    print(json.dumps(result), flush=True)
