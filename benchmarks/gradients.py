"""Fine-tuning in bfloat16 on a CPU: PyTorch, `FastGradients`, and both it and `FusedTraining`, in turns.

    python benchmarks/gradients.py [BACKBONE] [--record]

Prints images/s (median and range of the rounds) of training steps from the default freeze boundary, and the relative
error of the gradients to float32. Backbones other than EfficientNet-Lite0 have random weights.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from statistics import median

import torch
from evidence import save, take_flag

import regraft
from regraft.models.classifier import Classifier
from regraft.models.cpu.conv_backward import FastGradients
from regraft.models.cpu.fuse_training import FusedTraining
from regraft.models.staged import StageOutput

BATCH, STEPS, ROUNDS = 32, 8, 7


def gradients(
    model: Classifier,
    hidden: StageOutput,
    boundary: int,
    context: AbstractContextManager[object],
    *,
    exact: bool = False,
) -> list[torch.Tensor]:
    """Gradients of the mean square of the logits with respect to all trainable parameters."""
    with nullcontext() if exact else torch.autocast("cpu", torch.bfloat16), context:
        features = model.forward_tail(hidden, boundary)
    loss = model.head(features).square().mean()
    return list(torch.autograd.grad(loss, [p for _, p in model.trainable_parameters()]))


def main() -> None:
    """Measure the variants and print the results."""
    record = take_flag()
    name = sys.argv[1] if len(sys.argv) > 1 else "efficientnet_lite0"
    weights = "auto" if name == "efficientnet_lite0" else "none"
    model = regraft.build(name, classes=tuple("abcdefghij"), weights=weights)
    boundary = model.resolve("auto")
    size = model.preprocessing.size
    pixels = torch.randint(
        0, 256, (BATCH, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        exact = model.activations(pixels, boundary)
    half = StageOutput(exact.values.bfloat16(), exact.taps.bfloat16())
    model.freeze(boundary)
    model.train()
    fused = FusedTraining(model, boundary, torch.bfloat16)

    @contextmanager
    def both() -> Iterator[None]:
        with FastGradients(), fused:
            yield

    variants: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "PyTorch": nullcontext, "FastGradients": FastGradients, "FusedTraining too": both,
    }  # fmt: skip
    truth = gradients(model, exact, boundary, nullcontext(), exact=True)
    scale = sum(float(g.square().sum()) for g in truth) ** 0.5
    rates: dict[str, list[float]] = {variant: [] for variant in variants}
    for variant in list(variants) * ROUNDS:
        started = time.perf_counter()
        for _ in range(STEPS):
            gradients(model, half, boundary, variants[variant]())
        rates[variant].append(BATCH * STEPS / (time.perf_counter() - started))
    facts = {}
    for variant, make_context in variants.items():
        ours = gradients(model, half, boundary, make_context())
        error = sum(float((a - b).square().sum()) for a, b in zip(ours, truth, strict=True)) ** 0.5 / scale
        low, high = min(rates[variant]), max(rates[variant])
        facts[variant] = {"relative_error": round(error, 4)}
        print(
            f"{variant:<24} {median(rates[variant]):6.0f} images/s ({low:.0f} to {high:.0f})"
            f"  error of gradients {error:.2%}"
        )
    if record:
        save(f"gradients-{name}", rates, unit="images/s", title=f"{name}, {size} px", facts=facts)


if __name__ == "__main__":
    main()
