"""Compute the activations of the frozen prefix with PyTorch, or with OpenVINO where that is installed and faster.

A backend sets itself up at its first batch, so a run that finds everything in the cache pays nothing. The network that
OpenVINO has compiled is cached too: reading it takes far less time than compiling. With images that calibrate it,
OpenVINO computes in 8 bits.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import platform
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property, partial
from importlib.metadata import version
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn

from regraft.cache import Cache
from regraft.errors import MissingExtraError, UsageError
from regraft.models.classifier import Classifier
from regraft.models.cpu.fold_inference import fold_inference, keeps_activations
from regraft.models.cpu.patterns import sample_pixels
from regraft.models.passes import is_same_on_one_thread, run_passes
from regraft.models.quantization import HalfRange, quantize
from regraft.models.staged import StageOutput
from regraft.resources import usable_cpus
from regraft.timing import time_passes
from regraft.training.device import autocast, computes_int8
from regraft.training.prefix_key import prefix_key, taps_key

BackendName = Literal["torch", "openvino"]
#: Multiply-accumulates of all passes in 10^9 below which setting up another backend takes longer than it saves: about
#: 500 images through a ResNet50 at 224 pixels, or 5,000 through EfficientNet-Lite0.
_WORTH_MEASURING = 2000.0
#: Changes when a backend becomes faster, so that earlier measurements no longer decide.
_MEASURED = "twice as many images in bfloat16"
#: Images per pass of OpenVINO, always the same, because a row must not depend on the size of its batch.
_BATCH = 16
#: Factor by which OpenVINO must be faster; smaller differences are within the noise of the measurement.
_CLEARLY_FASTER = 1.15
#: Bytes of a row of a cached network.
_BLOCK = 2**20


class PrefixBackend(Protocol):
    """Computes the frozen prefix."""

    name: BackendName
    boundary: int
    precision: torch.dtype

    @property
    def version(self) -> str:
        """Versions of everything that can change the last bits of the result."""

    def __call__(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Values (n, ...) at the boundary and taps (n, L) if any, of uint8 (n, C, S, S): on the CPU, in `precision`."""


class TorchBackend:
    """PyTorch, with norms and activations folded into the convolutions; on a CPU in channels_last."""

    name: BackendName = "torch"

    def __init__(self, model: Classifier, boundary: int, precision: torch.dtype) -> None:
        self.model, self.boundary, self.precision = model, boundary, precision
        self.network: Classifier | None = None
        self.on_one_thread: bool | None = None  # whether passes run side by side, which gives the same bits

    @property
    def version(self) -> str:
        """Versions of PyTorch and of the folding, and the processor."""
        return f"torch {torch.__version__} fused2 {self.model.mean.device.type} {platform.machine()}"

    def __call__(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Run the prefix."""
        return _in_passes(self, [pixels], lambda network, images: network.activations(images, self.boundary))

    def can_continue_from(self, lower: int) -> bool:
        """Whether `continue_from` gives what the whole prefix does: what is kept in float32 has lost nothing."""
        return self.precision == torch.float32 and keeps_activations(_folded(self), self.model, lower)

    def continue_from(self, inputs: StageOutput, lower: int) -> list[torch.Tensor]:
        """Run the stages from a `lower` boundary on, on the activations there; returns what a whole prefix does."""
        return _in_passes(
            self, inputs, lambda network, *part: network.run_stages(StageOutput(*part), lower, self.boundary)
        )


def _in_passes(
    backend: TorchBackend, inputs: Sequence[torch.Tensor], run: Callable[..., StageOutput]
) -> list[torch.Tensor]:
    """What the folded network computes of the inputs, each (N, ...): values, and taps where there are any."""
    network = _folded(backend)
    device = network.mean.device

    def run_one(*parts: torch.Tensor) -> list[torch.Tensor]:
        count = len(parts[0])
        if count == 1:  # a batch of one runs other kernels, with other last bits
            parts = tuple(torch.cat([part, part]) for part in parts)
        with torch.inference_mode(), autocast(device, backend.precision):
            computed = run(network, *(part.to(device, non_blocking=True) for part in parts))
        return [part[:count].to("cpu", backend.precision) for part in computed if part.numel()]

    if backend.on_one_thread is None:
        backend.on_one_thread = device.type == "cpu" and is_same_on_one_thread(partial(_sampled, backend))
    outputs = run_passes(run_one, device, *inputs, precision=backend.precision, on_one_thread=backend.on_one_thread)
    return [torch.cat(part) for part in zip(*outputs, strict=True)]


def _sampled(backend: TorchBackend) -> list[torch.Tensor]:
    """What the whole prefix computes of two images of noise."""
    network = _folded(backend)
    with torch.inference_mode(), autocast(network.mean.device, backend.precision):
        return list(network.activations(sample_pixels(network), backend.boundary))


def _folded(backend: TorchBackend) -> Classifier:
    if backend.network is None:
        backend.network = fold_inference(backend.model, backend.boundary)
    return backend.network


class OpenVinoBackend:
    """OpenVINO on the CPU; in 8 bits if `calibration` images, uint8 (n, C, S, S), say between which limits.

    What is not in 8 bits, and the result, is in `precision`.
    """

    name: BackendName = "openvino"

    def __init__(
        self,
        model: Classifier,
        boundary: int,
        precision: torch.dtype,
        cache: Cache | None = None,
        calibration: torch.Tensor | None = None,
    ) -> None:
        self.model, self.boundary, self.precision, self.cache = model, boundary, precision, cache
        self.calibration = None if calibration is None else calibration.contiguous().numpy()
        self.network: Any = None

    @cached_property
    def version(self) -> str:
        """Version of OpenVINO, and the processor; in 8 bits also that of NNCF, and a hash of the images."""
        plain = f"openvino {version('openvino')} {platform.machine()}"
        if self.calibration is None:
            return plain
        images = hashlib.blake2b(self.calibration.tobytes(), digest_size=16).hexdigest()
        return f"{plain} int8 nncf {version('nncf')} half range {_half_range()} {images}"

    def __call__(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Run the prefix."""
        if self.network is None:
            self.network = _openvino_network(self)
        out: list[list[torch.Tensor]] = []
        for batch in torch.split(pixels, _BATCH):
            padded = torch.cat([batch, batch.new_zeros(_BATCH - len(batch), *batch.shape[1:])])
            outputs = self.network(padded.contiguous().numpy())
            parts = [torch.from_numpy(outputs[i]) for i in range(len(outputs))]
            out.append([part[: len(batch)].to(self.precision, copy=True) for part in parts])
        return [torch.cat(part) for part in zip(*out, strict=True)]


def make_backend(
    name: BackendName, model: Classifier, boundary: int, precision: torch.dtype, cache: Cache | None = None
) -> PrefixBackend:
    """The backend, whose compiled network, if it has one, is kept in the cache.

    Raises `MissingExtraError` without OpenVINO, and `UsageError` if that is wanted on a GPU or in float16.
    """
    if name == "torch":
        return TorchBackend(model, boundary, precision)
    if not _has_openvino():
        raise MissingExtraError("prefix_backend = openvino", "openvino")
    if model.mean.device.type != "cpu" or precision == torch.float16:
        raise UsageError(
            f"prefix_backend = openvino runs on the CPU; on {model.mean.device.type} use prefix_backend = torch or "
            "auto."
        )
    return OpenVinoBackend(model, boundary, precision, cache)


def choose_backend(
    wanted: BackendName | Literal["auto"],
    model: Classifier,
    boundary: int,
    precision: torch.dtype,
    *,
    rows: int,
    cache: Cache | None = None,
) -> tuple[BackendName, str]:
    """Choose the backend of a prefix, by measuring both where that can matter; returns its name and the reason.

    The first measurement on a machine decides for all later runs, so that the same command gives the same numbers. For
    a few image passes, `rows`, the set-up would not pay. The reason is a sentence, or "" where there was no choice.
    Raises as `make_backend` does.
    """
    if wanted != "auto":
        make_backend(wanted, model, boundary, precision)
        return wanted, ""
    possible = _has_openvino() and model.mean.device.type == "cpu" and precision != torch.float16
    if not possible or not boundary or not _is_worth_measuring(model, rows):
        return "torch", ""
    backends: list[PrefixBackend] = [
        TorchBackend(model, boundary, precision),
        OpenVinoBackend(model, boundary, precision, cache),
    ]
    compare = partial(_compare, backends, model.preprocessing.input_shape)
    key = key_of_measurement(model, backends)
    measurement = compare() if cache is None else cache.get_or_measure("backends", key, compare)
    rates = measurement["rates"]
    if "openvino" not in rates:
        return "torch", f"The frozen prefix runs on torch: OpenVINO {measurement['failed']['openvino']}."
    name: BackendName = "openvino" if is_clearly_faster(rates["openvino"], rates["torch"]) else "torch"
    measured = ", ".join(f"{backend} {rate:.0f}" for backend, rate in rates.items())
    return name, f"The frozen prefix runs on {name} (images per second: {measured})."


def _is_worth_measuring(model: Classifier, rows: int) -> bool:
    """Whether another backend may save more in the passes of so many images than setting it up takes."""
    return rows * gmac_of_pass(model) >= _WORTH_MEASURING


def gmac_of_pass(model: Classifier) -> float:
    """Multiply-accumulates of a pass of one image through all backbones, in 10^9."""
    return sum(
        one.spec.gmac * float(np.prod(one.preprocessing.shape)) / max(1, one.spec.image_size) ** 2
        for one in model.members or (model,)
    )


def remembered_rates(model: Classifier, backends: Sequence[PrefixBackend], cache: Cache | None) -> list[float]:
    """Images per second of each backend, by the first measurement on this machine, which the cache keeps."""

    def measure() -> list[float]:
        return [images_per_second(backend, model.preprocessing.input_shape) for backend in backends]

    key = key_of_measurement(model, backends)
    return measure() if cache is None else cache.get_or_measure("backends", key, measure)


def key_of_measurement(model: Classifier, backends: Sequence[PrefixBackend]) -> list[Any]:
    """JSON values on which speeds of these backends depend, with this model, on one machine."""
    first = backends[0]
    key: list[Any] = [model.spec.name, model.preprocessing.size, first.boundary, list(model.taps), str(first.precision)]
    key += [[member.spec.name, member.preprocessing.size, list(member.taps)] for member in model.members]
    return [*key, *(backend.version for backend in backends), _MEASURED]


def is_clearly_faster(rate: float, other: float) -> bool:
    """Whether a rate is above another by more than the noise of their measurement."""
    return rate > _CLEARLY_FASTER * other


def _compare(backends: Sequence[PrefixBackend], shape: tuple[int, int, int]) -> dict[str, dict[str, Any]]:
    """`rates`: images per second of each backend that agrees with the first; `failed`: problems of the others."""
    noise = _noise(shape, 4)
    expected, rates, failed = backends[0](noise), dict[str, float](), dict[str, str]()
    for backend in backends:
        try:
            outputs = backend(noise)
            if all(_agrees(ours, theirs) for ours, theirs in zip(outputs, expected, strict=True)):
                rates[backend.name] = images_per_second(backend, shape)
            else:
                failed[backend.name] = "computes different activations for this backbone"
        except Exception as error:  # the converter of another library may raise anything
            if backend is backends[0]:
                raise
            lines = str(error).strip().splitlines() or [type(error).__name__]
            failed[backend.name] = f"cannot run this backbone ({lines[0]})"
    return {"rates": rates, "failed": failed}


def _agrees(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether two results differ only by the rounding of bfloat16 over many layers."""
    return ours.shape == theirs.shape and bool((ours.float() - theirs.float()).norm() <= 0.1 * theirs.float().norm())


def _noise(shape: tuple[int, int, int], count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)


def images_per_second(backend: PrefixBackend, shape: tuple[int, int, int]) -> float:
    """Throughput of a backend on noise of this shape (C, H, W): the best of three passes after one that sets it up."""
    pixels = _noise(shape, 2 * _BATCH)
    return len(pixels) / min(time_passes(lambda: backend(pixels), passes=3))


class _Prefix(nn.Module):
    """The module that OpenVINO converts."""

    def __init__(self, model: Classifier, boundary: int) -> None:
        super().__init__()
        self.model, self.boundary = model, boundary

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(_run(self.model, pixels, self.boundary))


def _openvino_network(backend: OpenVinoBackend) -> Any:
    """Compile the prefix for this machine, or read what an earlier process has compiled, which computes the same."""
    import openvino  # type: ignore[import-untyped,unused-ignore]  # it declares no types

    core, model, boundary, cache = openvino.Core(), backend.model, backend.boundary, backend.cache
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if backend.precision == torch.bfloat16 else "f32",
        "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, on every core
        "INFERENCE_NUM_THREADS": usable_cpus(),
        "ENABLE_CPU_PINNING": False,  # a pinned thread waits while another program has its CPU
    }
    if cache is None:
        return core.compile_model(_uncompiled(backend), "CPU", hints)
    processor = [core.get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
    key = prefix_key(model, boundary, backend.precision, backend.version) | taps_key(model, boundary)
    table = cache.table("compiled", key | {"hints": hints, "processor": processor}, (_BLOCK,), np.uint8)
    blocks = table.read_list()
    if blocks is not None:
        # A processor that is described alike may still refuse it.
        with suppress(RuntimeError):
            return core.import_model(io.BytesIO(blocks.tobytes()), "CPU", hints)
    network = core.compile_model(_uncompiled(backend), "CPU", hints)
    written = io.BytesIO()
    network.export_model(written)  # what it returns without a stream is of another type in each version
    compiled = np.frombuffer(written.getvalue(), np.uint8)
    if blocks is None and cache.make_room(len(compiled)):
        # What follows the network in its last row is not read.
        table.write_list(np.pad(compiled, (0, -len(compiled) % _BLOCK)).reshape(-1, _BLOCK))
    return network


def _uncompiled(backend: OpenVinoBackend) -> Any:
    """The prefix as a model of OpenVINO, in 8 bits if there are images for that."""
    converted, images = _converted(backend.model, backend.boundary), backend.calibration
    if images is None:
        return converted
    full = np.resize(images, (-(-len(images) // _BATCH) * _BATCH, *images.shape[1:]))  # the last batch repeats images
    batches = np.split(full, len(full) // _BATCH)
    return quantize(converted, batches, fast_bias_correction=True, half_range=_half_range())


def _half_range() -> HalfRange:
    """Sums of products of 8 bits overflow on a processor without instructions for them."""
    return "disable" if computes_int8(torch.device("cpu")) else "enable"


def _converted(model: Classifier, boundary: int) -> Any:
    """The prefix as a model of OpenVINO, for batches of one size."""
    import openvino

    shape = model.preprocessing.input_shape
    example = torch.zeros(2, *shape, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # tracing warns that sizes become constants, which is intended
        traced = torch.jit.trace(_Prefix(model, boundary).eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
        converted = openvino.convert_model(traced, example_input=example)
    converted.reshape([_BATCH, *shape])
    return converted


def _run(model: Classifier, pixels: torch.Tensor, boundary: int) -> list[torch.Tensor]:
    """Values, and taps where there are any."""
    return [part for part in model.activations(pixels, boundary) if part.numel()]


def openvino_version() -> str | None:
    """Version of the installed OpenVINO, or None."""
    return version("openvino") if _has_openvino() else None


def _has_openvino() -> bool:
    return importlib.util.find_spec("openvino") is not None
