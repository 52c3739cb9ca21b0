"""Throughput of the frozen prefix with each backend, in turns.

The backends are the network as timm builds it, with folded norms, with activations fused into the convolutions as well
(regraft's backend `torch`), OpenVINO if it is installed, and OpenVINO in 8 bits if NNCF is, too.

    python benchmarks/prefix_backends.py [BACKBONE] [SIZE] [DATA] [--record]

With DATA, a folder of images, the pretrained network runs on 64 of them; otherwise a network with random weights runs
on noise. Prints images/s (median and range), the seconds of the first batch, and the relative error of the features to
float32. With DATA the last lines are the accuracies that decide whether 8 bits are used: of heads that are fitted on
features in 8 bits and in float, by cross-validation on 500 images that did not calibrate.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from evidence import save, take_flag

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


def main() -> None:
    """Measure each backend and print the results."""
    record = take_flag()
    name = sys.argv[1] if len(sys.argv) > 1 else "efficientnet_lite0"
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    model = regraft.build(name, classes=("a", "b"), image_size=size, weights="auto" if len(sys.argv) > 3 else "none")
    device = choose_device("auto")
    model.to(device)
    size, end, precision = model.preprocessing.size, len(model.stages), choose_precision("auto", device)
    data = regraft.scan(sys.argv[3]) if len(sys.argv) > 3 else None
    if data is not None:
        pixels = read(model, data, np.arange(len(data))[:: max(1, len(data) // BATCH)][:BATCH])
        calibration = read(model, data, stratified_part(data.labels, min(CALIBRATED, len(data))))
    else:
        noise = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (BATCH, 3, size, size), dtype=torch.uint8, generator=noise)
        calibration = pixels
    exact = unfused(model, torch.float32)(pixels)[0]
    backends: dict[str, Callable[[torch.Tensor], list[torch.Tensor]]] = {
        "as timm builds it": unfused(model, precision),
        "norms folded": unfused(fold_inference(model, end, fuse=False), precision),
    }
    backends["activations fused"] = make_backend("torch", model, end, precision)
    try:
        backends["OpenVINO"] = make_backend("openvino", model, end, precision)
    except (MissingExtraError, UsageError) as error:
        print(error)
    if device.type == "cpu" and has_int8():
        backends["int8"] = OpenVinoBackend(model, end, precision, None, calibration)
    first, rates = {}, {backend: [] for backend in backends}
    for backend, run in backends.items():
        started = time.perf_counter()
        run(pixels)
        first[backend] = time.perf_counter() - started
    for backend in list(backends) * ROUNDS:
        started = time.perf_counter()
        backends[backend](pixels)
        rates[backend].append(BATCH / (time.perf_counter() - started))
    print(f"{name}, {size} pixels, {str(precision).removeprefix('torch.')} on {device}")
    facts = {}
    for backend, run in backends.items():
        error = float((run(pixels)[0].float() - exact).norm() / exact.norm())
        low, high = min(rates[backend]), max(rates[backend])
        print(
            f"{backend:<18} {median(rates[backend]):6.0f} images/s ({low:.0f} to {high:.0f})"
            f"  first batch after {first[backend]:.1f} s  error {error:.1%}"
        )
        facts[backend] = {"first_batch_seconds": round(first[backend], 2), "relative_error": round(error, 4)}
    if data is not None and "int8" in backends:
        decision = compare(model, data, backends["OpenVINO"], backends["int8"])
        facts["OpenVINO"]["accuracy"], facts["int8"]["accuracy"] = decision.float_accuracy, decision.accuracy
        print(
            f"cross-validated on {decision.images} images: accuracy {decision.accuracy:.1%} in int8, "
            f"{decision.float_accuracy:.1%} in float (standard error of the difference {decision.accuracy_error:.1%}), "
            f"loss {decision.loss:.3f} and {decision.float_loss:.3f}: int8 {'used' if decision.used else 'refused'}"
        )
    if record:
        data_folder = sys.argv[3] if len(sys.argv) > 3 else None
        title = f"{name}, {size} px"
        save(f"prefix-{name}", rates, unit="images/s", title=title, facts=facts, data=data_folder)


if __name__ == "__main__":
    main()
