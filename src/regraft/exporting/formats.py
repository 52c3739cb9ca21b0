"""The formats: how each is written, what reads it, and what runs it.

Enters: a `DeployedNetwork` and a folder. Leaves: the format's files. Enters: such a folder. Leaves: a `Runtime`. What a
format needs is imported when it is used.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.errors import ExportError, MissingExtraError
from regraft.exporting.checks import check_onnx, check_openvino, check_program

if TYPE_CHECKING:
    from regraft.exporting.network import DeployedNetwork, Precision

Metadata = Mapping[str, str]


def first_line(error: Exception) -> str:
    """What an exception of another library says, or its name."""
    return (str(error) or type(error).__name__).splitlines()[0]


class Format(ABC):
    """One format.

    Attributes:
        name: As `--to` has it.
        files: What it writes, the graph first.
        precisions: What it can be written in.
        runs_code: Whether loading a file of somebody else's may run what is in it.
        needs: What its script needs, in words.
        script: Of `predict.py`: what it imports, what loads the model, and what gives one image's probabilities.
    """

    name: str
    files: tuple[str, ...]
    runs_code: bool = False
    precisions: tuple[Precision, ...]
    needs: str
    script: tuple[str, str, str]

    @abstractmethod
    def write(self, network: DeployedNetwork, folder: Path, precision: Precision, metadata: Metadata) -> None:
        """Write the files; `metadata` goes into the graph where the format has room for it."""

    @abstractmethod
    def open(self, folder: Path, threads: int = 0) -> Runtime:
        """Check the files and load them.

        Args:
            folder: Where they are.
            threads: Of the runtime; 0: its own choice.

        Raises:
            ExportError: A file is missing, damaged, or does what a model has no business to do.
            MissingExtraError: The runtime is not installed.
        """


class Runtime(ABC):
    """A loaded export."""

    @abstractmethod
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Images, uint8 (N, S, S, 3), to probabilities, float32 (N, classes)."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what converters tell about themselves."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class Onnx(Format):
    """ONNX, run by ONNX Runtime."""

    name = "onnx"
    files = ("model.onnx",)
    precisions = ("fp32", "fp16")
    needs = "ONNX Runtime, NumPy and Pillow"
    script = (
        "import onnxruntime",
        'session = onnxruntime.InferenceSession(here / "model.onnx")',
        'session.run(None, {"images": np.asarray(image)[None]})[0][0]',
    )

    def write(self, network: DeployedNetwork, folder: Path, precision: Precision, metadata: Metadata) -> None:
        """One file, no external data."""
        try:
            import onnx
            import onnxscript  # noqa: F401  # what torch writes ONNX with
        except ImportError as error:
            raise MissingExtraError("ONNX", "onnx") from error
        import torch

        with _quiet():
            program = torch.onnx.export(
                network.exported(), (network.example(),), dynamo=True, opset_version=18,
                input_names=["images"], output_names=["probabilities"], verbose=False,
            )  # fmt: skip
        assert program is not None
        proto = program.model_proto
        if precision == "fp16":
            proto = _half(proto)
        onnx.helper.set_model_props(proto, dict(metadata))
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
        onnx.checker.check_model(proto)
        (folder / self.files[0]).write_bytes(proto.SerializeToString())

    def open(self, folder: Path, threads: int = 0) -> Runtime:
        """By ONNX Runtime, on the CPU."""
        file = folder / self.files[0]
        check_onnx(file)
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("ONNX Runtime", "onnx") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        try:
            return _OnnxRuntime(
                onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
            )
        except Exception as error:  # onnxruntime has a class of its own for each fault
            raise ExportError(f"{file} cannot be loaded: {first_line(error)}") from error


def _half(proto: Any) -> Any:
    """The same graph with half the bytes; what goes in and out stays as it is."""
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise MissingExtraError("ONNX Runtime", "onnx") from error
    with _quiet():
        return convert_float_to_float16(proto, keep_io_types=True)


class _OnnxRuntime(Runtime):
    def __init__(self, session: Any) -> None:
        self.session = session

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(self.session.run(None, {"images": np.ascontiguousarray(images)})[0], np.float32)


class OpenVino(Format):
    """OpenVINO's own format."""

    name = "openvino"
    files = ("model.xml", "model.bin")
    precisions = ("fp32", "fp16")
    needs = "OpenVINO, NumPy and Pillow"
    script = (
        "import openvino",
        'model = openvino.Core().compile_model(here / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})',
        "model(np.asarray(image)[None])[0][0]",
    )

    def write(self, network: DeployedNetwork, folder: Path, precision: Precision, metadata: Metadata) -> None:
        """Graph and weights."""
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError("OpenVINO", "openvino") from error
        side = network.model.preprocessing.size
        with _quiet():
            model = openvino.convert_model(network.exported())
        model.reshape([-1, side, side, 3])
        model.inputs[0].get_tensor().set_names({"images"})
        model.outputs[0].get_tensor().set_names({"probabilities"})
        for key, value in metadata.items():
            model.set_rt_info(value, ["regraft", key])
        openvino.save_model(model, folder / self.files[0], compress_to_fp16=precision == "fp16")

    def open(self, folder: Path, threads: int = 0) -> Runtime:
        """On the CPU in float32; by itself it would take bfloat16 where the processor has it."""
        check_openvino(folder / self.files[0], folder / self.files[1])
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError("OpenVINO", "openvino") from error
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            core = openvino.Core()
            return _OpenVinoRuntime(core.compile_model(core.read_model(folder / self.files[0]), "CPU", options))
        except RuntimeError as error:
            raise ExportError(f"{folder / self.files[0]} cannot be loaded: {first_line(error)}") from error


class _OpenVinoRuntime(Runtime):
    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.array(self.model(np.ascontiguousarray(images))[0], np.float32)


class Program(Format):
    """PyTorch's exported program, run by PyTorch without timm and regraft."""

    name = "exported-program"
    runs_code = True
    files = ("model.pt2",)
    precisions = ("fp32",)
    needs = "PyTorch, NumPy and Pillow"
    script = (
        "import torch",
        'model = torch.export.load(here / "model.pt2").module()',
        "model(torch.tensor(np.asarray(image)[None]))[0].detach().numpy()",
    )

    def write(self, network: DeployedNetwork, folder: Path, precision: Precision, metadata: Metadata) -> None:
        """A zip archive of a graph and of tensors."""
        import torch

        with _quiet():
            program = network.exported()
            program._example_inputs = None  # they would be pickled
            torch.export.save(program, folder / self.files[0], extra_files=dict(metadata))

    def open(self, folder: Path, threads: int = 0) -> Runtime:
        """By PyTorch; threads are those of the process."""
        import torch

        file = folder / self.files[0]
        check_program(file)
        try:
            with _quiet():
                return _ProgramRuntime(torch.export.load(file).module())
        except Exception as error:  # whatever a damaged archive leads to
            raise ExportError(f"{file} cannot be loaded: {first_line(error)}") from error


class _ProgramRuntime(Runtime):
    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, images: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return np.asarray(self.module(torch.from_numpy(np.ascontiguousarray(images))).numpy(), np.float32)


FORMATS: Mapping[str, Format] = {known.name: known for known in (Onnx(), OpenVino(), Program())}
