"""Throughput of the frozen prefix with each backend, in turns.

The backends are the network as timm builds it, with folded norms, with activations fused into the convolutions as well
(regraft's backend `torch`), OpenVINO if it is installed, and OpenVINO in 8 bits if NNCF is, too.

    python benchmarks/prefix_backends.py [BACKBONE ...] [--size PIXELS] [--data FOLDER] [--record [NAME]]

With `--data`, a folder of images, the pretrained network runs on 64 of them; otherwise a network with random weights
runs on noise, and not in 8 bits. Prints images/s (median and range), the seconds of the first batch, and the relative
error of the features to float32. With `--data` the last lines are the accuracies that decide whether 8 bits are used:
of heads that are fitted on features in 8 bits and in float, by cross-validation on 500 images that did not calibrate.
Without a size each network has its own, and without a name the backbone is EfficientNet-Lite0. `--record`, after the
names, writes `benchmarks/results/prefix.json`, or NAME.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from evidence import save

import regraft
from regraft.data.dataset import Dataset
from regraft.errors import MissingExtraError, UsageError
from regraft.models.classifier import Classifier
from regraft.models.cpu.fold_inference import fold_inference
from regraft.training.device import autocast, choose_device, choose_precision, has_int8
from regraft.training.feature_cache import as_batch
from regraft.training.int8_decision import Int8Decision, decide
from regraft.training.linear_head import stratified_part
from regraft.training.losses import Objective
from regraft.training.prefix_backend import OpenVinoBackend, PrefixBackend, make_backend

BATCH, ROUNDS, CALIBRATED, COMPARED = 64, 9, 304, 500
#: The backend `torch`.
OURS = "activations fused"


def unfused(model: Classifier, precision: torch.dtype) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    def run(pixels: torch.Tensor) -> list[torch.Tensor]:
        with torch.inference_mode(), autocast(model.mean.device, precision):
            return [model.activations(pixels.to(model.mean.device), len(model.stages)).values.cpu()]

    return run


def read(model: Classifier, data: Dataset, chosen: np.ndarray) -> torch.Tensor:
    samples = [data.samples[i] for i in chosen.tolist()]
    return as_batch(np.stack([model.preprocessing(data.source(sample)) for sample in samples]))


def compare(model: Classifier, data: Dataset, exact: PrefixBackend, int8: PrefixBackend) -> Int8Decision:
    others = np.setdiff1d(np.arange(len(data)), stratified_part(data.labels, min(CALIBRATED, len(data))))
    chosen = others[stratified_part(data.labels[others], min(COMPARED, len(others)), seed=1)]
    pixels, labels = read(model, data, chosen), data.labels[chosen]
    features = [torch.cat([part.float().flatten(1) for part in backend(pixels)], dim=1) for backend in (exact, int8)]
    return decide(*features, torch.from_numpy(labels), Objective.of_labels(labels, data.classes))


@dataclass(frozen=True)
class Measured:
    """Samples in images/s, and facts, by backend; `decision` is about 8 bits."""

    rates: dict[str, list[float]]
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    decision: Int8Decision | None = None


def measure(model: Classifier, data: Dataset | None) -> Measured:
    device, end = model.mean.device, len(model.stages)
    precision = choose_precision("auto", device)
    if data is not None:
        pixels = read(model, data, np.arange(len(data))[:: max(1, len(data) // BATCH)][:BATCH])
    else:
        noise = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (BATCH, *model.preprocessing.input_shape), dtype=torch.uint8, generator=noise)
    exact = unfused(model, torch.float32)(pixels)[0]
    backends: dict[str, Callable[[torch.Tensor], list[torch.Tensor]]] = {
        "as timm builds it": unfused(model, precision),
        "norms folded": unfused(fold_inference(model, end, fuse=False), precision),
    }
    backends[OURS] = make_backend("torch", model, end, precision)
    try:
        backends["OpenVINO"] = make_backend("openvino", model, end, precision)
    except (MissingExtraError, UsageError) as error:
        print(error)
    if data is not None and device.type == "cpu" and has_int8():
        calibration = read(model, data, stratified_part(data.labels, min(CALIBRATED, len(data))))
        backends["int8"] = OpenVinoBackend(model, end, precision, None, calibration)
    measured = Measured({backend: [] for backend in backends})
    for backend, run in backends.items():
        started = time.perf_counter()
        features = run(pixels)[0].float()
        first, off = time.perf_counter() - started, float((features - exact).norm() / exact.norm())
        measured.facts[backend] = {"first_batch_seconds": round(first, 2), "relative_error": round(off, 4)}
    for backend in list(backends) * ROUNDS:
        started = time.perf_counter()
        backends[backend](pixels)
        measured.rates[backend].append(BATCH / (time.perf_counter() - started))
    for backend, rates in measured.rates.items():
        shown = f"{median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})"
        if backend == OURS and "OpenVINO" in measured.rates:
            shown += f", {median(rates) / median(measured.rates['OpenVINO']):.2f} of OpenVINO"
        measured.facts[backend]["images_per_second"] = shown
    if data is None or "int8" not in backends:
        return measured
    decision = compare(model, data, backends["OpenVINO"], backends["int8"])
    measured.facts["OpenVINO"]["accuracy"] = f"accuracy {decision.float_accuracy:.1%}"
    measured.facts["int8"]["accuracy"] = f"accuracy {decision.accuracy:.1%}"
    return replace(measured, decision=decision)


def main() -> None:
    """Measure each backend of each backbone and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="*", default=["efficientnet_lite0"])
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--record", nargs="?", const="prefix", default="")
    given = parser.parse_args()
    device = choose_device("auto")
    data = regraft.scan(given.data) if given.data else None
    samples: dict[str, list[float]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for name in given.backbones:
        weights = "auto" if data is not None else "none"
        model = regraft.build(name, classes=("a", "b"), image_size=given.size, weights=weights).to(device)
        measured = measure(model, data)
        title = f"{name}, {model.preprocessing.named_size} px"
        print(f"{title}, {str(choose_precision('auto', device)).removeprefix('torch.')} on {device}")
        for backend, values in measured.rates.items():
            of_backend = measured.facts[backend]
            print(
                f"{backend:<18} {of_backend['images_per_second']} images/s"
                f"  first batch after {of_backend['first_batch_seconds']:.1f} s"
                f"  error {of_backend['relative_error']:.1%}",
                flush=True,
            )
            samples[f"{title}: {backend}"], facts[f"{title}: {backend}"] = values, of_backend
        if (decision := measured.decision) is not None:
            print(
                f"cross-validated on {decision.images} images: accuracy {decision.accuracy:.1%} in int8, "
                f"{decision.float_accuracy:.1%} in float (standard error of the difference "
                f"{decision.accuracy_error:.1%}), loss {decision.loss:.3f} and {decision.float_loss:.3f}: int8 "
                f"{'used' if decision.used else 'refused'}"
            )
    if given.record:
        save(given.record, samples, unit="images/s", facts=facts, data=given.data)


if __name__ == "__main__":
    main()
