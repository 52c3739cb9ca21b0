"""What computes the frozen prefix: PyTorch, or OpenVINO where the extra is installed and faster.

Enters: pixels of a batch. Leaves: the activations at a boundary, and what the head reads of the stages below it.
Each engine sets itself up at its first batch, so that a run which finds everything in the store pays nothing.
"""

from __future__ import annotations

import importlib.util
import platform
import time
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Literal, Protocol

import torch
from torch import nn

from regraft.errors import MissingExtraError, UsageError
from regraft.models.classifier import Classifier
from regraft.models.folding import folded
from regraft.store import Store
from regraft.training.hardware import autocast

EngineName = Literal["torch", "openvino"]
#: Below so many passes of an image, setting another engine up takes longer than it can save.
_WORTH_MEASURING = 5000
#: Images in one pass of OpenVINO, always: a row must not depend on how many are computed with it.
_BATCH = 16
#: By which OpenVINO must be faster: a difference within the noise of a measurement is none.
_CLEARLY = 1.15


class Engine(Protocol):
    """A prefix that can be run."""

    name: EngineName
    boundary: int
    precision: torch.dtype

    @property
    def version(self) -> str:
        """Of all that its last bits depend on."""

    def __call__(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Run it.

        Args:
            pixels: uint8 (n, 3, S, S).

        Returns:
            The values (n, ...) at the boundary, and the taps (n, L) where there are any; on the CPU, in the precision.
        """


class TorchEngine:
    """PyTorch, with norms and activations in the convolutions; on a CPU in channels_last."""

    name: EngineName = "torch"

    def __init__(self, model: Classifier, boundary: int, precision: torch.dtype) -> None:
        """Nothing is folded yet."""
        self.model, self.boundary, self.precision = model, boundary, precision
        self.network: Classifier | None = None

    @property
    def version(self) -> str:
        """Of PyTorch and the processor."""
        return f"torch {torch.__version__} fused2 {self.model.mean.device.type} {platform.machine()}"

    def __call__(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Activations of a batch."""
        if self.network is None:
            self.network = folded(self.model, self.boundary)
        count, device = len(pixels), self.network.mean.device
        if count == 1:  # other kernels serve a batch of one, with other last bits
            pixels = torch.cat([pixels, pixels])
        with torch.inference_mode(), autocast(device, self.precision):
            parts = _passed(self.network, pixels.to(device, non_blocking=True), self.boundary)
        return [part[:count].to("cpu", self.precision) for part in parts]


class OpenVinoEngine:
    """OpenVINO on the CPU."""

    name: EngineName = "openvino"

    def __init__(self, model: Classifier, boundary: int, precision: torch.dtype) -> None:
        """Nothing is converted yet."""
        self.model, self.boundary, self.precision = model, boundary, precision
        self.network: Any = None

    @property
    def version(self) -> str:
        """Of OpenVINO and the processor."""
        return f"openvino {version('openvino')} {platform.machine()}"

    def __call__(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Activations of a batch."""
        if self.network is None:
            self.network = _compiled(self.model, self.boundary, self.precision)
        out: list[list[torch.Tensor]] = []
        for batch in torch.split(pixels, _BATCH):
            full = torch.cat([batch, batch.new_zeros(_BATCH - len(batch), *batch.shape[1:])])
            answers = self.network(full.contiguous().numpy())
            parts = [torch.from_numpy(answers[i]) for i in range(len(answers))]
            out.append([part[: len(batch)].to(self.precision, copy=True) for part in parts])
        return [torch.cat(part) for part in zip(*out, strict=True)]


def make_engine(name: EngineName, model: Classifier, boundary: int, precision: torch.dtype) -> Engine:
    """The engine of this name.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        UsageError: OpenVINO is to run on a GPU, or in float16.
    """
    if name == "torch":
        return TorchEngine(model, boundary, precision)
    if not _has_openvino():
        raise MissingExtraError("engine = openvino", "openvino")
    if model.mean.device.type != "cpu" or precision == torch.float16:
        raise UsageError(f"engine = openvino runs on the CPU; on {model.mean.device.type} use engine = torch or auto.")
    return OpenVinoEngine(model, boundary, precision)


def choose_engine(
    wanted: EngineName | Literal["auto"],
    model: Classifier,
    boundary: int,
    precision: torch.dtype,
    *,
    rows: int,
    store: Store | None = None,
) -> tuple[EngineName, str]:
    """Decide which engine runs a prefix, by measuring both where that can matter.

    The first measurement on a machine decides for all that come after it, so that the same command gives the same
    numbers.

    Args:
        wanted: `auto`, or the one to be used.
        model: On the device that it will run on.
        boundary: Of the prefix.
        precision: Of the arithmetic.
        rows: Passes of an image that are wanted; for a few the set-up would not pay.
        store: Where measurements are remembered.

    Returns:
        The name, and why, in a sentence; "" where there was nothing to choose.

    Raises:
        MissingExtraError: As `make_engine`.
        UsageError: As `make_engine`.
    """
    if wanted != "auto":
        make_engine(wanted, model, boundary, precision)
        return wanted, ""
    possible = _has_openvino() and model.mean.device.type == "cpu" and precision != torch.float16
    if not possible or not boundary or rows < _WORTH_MEASURING:
        return "torch", ""
    engines: list[Engine] = [kind(model, boundary, precision) for kind in (TorchEngine, OpenVinoEngine)]
    key = [model.spec.name, model.preprocessing.size, boundary, list(model.taps), str(precision)]
    key += [engine.version for engine in engines]
    measurement = None if store is None else store.recall("engines", key)
    if measurement is None:
        measurement = _measured(engines, model.preprocessing.size)
        if store is not None:
            measurement = store.remember("engines", key, measurement)
    rates = measurement["rates"]
    if "openvino" not in rates:
        return "torch", f"The frozen prefix runs on torch: OpenVINO {measurement['failed']['openvino']}."
    name: EngineName = "openvino" if rates["openvino"] > _CLEARLY * rates["torch"] else "torch"
    measured = ", ".join(f"{engine} {rate:.0f}" for engine, rate in rates.items())
    return name, f"The frozen prefix runs on {name} (images a second: {measured})."


def _measured(engines: Sequence[Engine], size: int) -> dict[str, dict[str, Any]]:
    """`rates`: images a second of each engine that gives what the first one gives; `failed`: why others do not."""
    noise = _noise(size, 4)
    expected, rates, failed = engines[0](noise), dict[str, float](), dict[str, str]()
    for engine in engines:
        try:
            got = engine(noise)
            if all(_is_near(a, b) for a, b in zip(got, expected, strict=True)):
                rates[engine.name] = measure(engine, size)
            else:
                failed[engine.name] = "gives other activations for this backbone"
        except Exception as error:  # of another library's converter, which may raise anything
            if engine is engines[0]:
                raise
            lines = str(error).strip().splitlines() or [type(error).__name__]
            failed[engine.name] = f"cannot run this backbone ({lines[0]})"
    return {"rates": rates, "failed": failed}


def _is_near(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Within the rounding of bfloat16 over many layers."""
    return ours.shape == theirs.shape and bool((ours.float() - theirs.float()).norm() <= 0.1 * theirs.float().norm())


def _noise(size: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def measure(engine: Engine, size: int, *, batch: int = 2 * _BATCH) -> float:
    """Images a second, the best of three passes over noise after one that sets the engine up."""
    pixels = _noise(size, batch)
    engine(pixels)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        engine(pixels)
        best = min(best, time.perf_counter() - started)
    return batch / best


class _Prefix(nn.Module):
    """What OpenVINO is shown."""

    def __init__(self, model: Classifier, boundary: int) -> None:
        super().__init__()
        self.model, self.boundary = model, boundary

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(_passed(self.model, pixels, self.boundary))


def _compiled(model: Classifier, boundary: int, precision: torch.dtype) -> Any:
    import openvino  # type: ignore[import-untyped,unused-ignore]  # it declares no types

    size = model.preprocessing.size
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of tracing: sizes are constants here
        traced = torch.jit.trace(_Prefix(model, boundary).eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
        converted = openvino.convert_model(traced, example_input=example)
    converted.reshape([_BATCH, 3, size, size])
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == torch.bfloat16 else "f32",
        "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, on every core
    }
    return openvino.Core().compile_model(converted, "CPU", hints)


def _passed(model: Classifier, pixels: torch.Tensor, boundary: int) -> list[torch.Tensor]:
    """Values, and taps where there are any."""
    return [part for part in model.activations(pixels, boundary) if part.numel()]


def openvino_version() -> str | None:
    """Of the one that is installed."""
    return version("openvino") if _has_openvino() else None


def _has_openvino() -> bool:
    return importlib.util.find_spec("openvino") is not None
