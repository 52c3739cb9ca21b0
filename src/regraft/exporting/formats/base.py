"""The interface of an export format, and of a model that is loaded from an export.

Packages that a format needs are imported only when it is used.
"""

from __future__ import annotations

import contextlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from regraft.errors import ExportError, MissingExtraError, RegraftError
from regraft.exporting.validation import check_file
from regraft.resources import usable_cpus
from regraft.silence import quiet

if TYPE_CHECKING:
    from regraft.exporting.inference_module import InferenceModule

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class QuantizationSpec:
    """How to quantize a network to 8 bits: calibration images, uint8 (N, S, S, C), and layers that stay in float.

    The layers are named as in PyTorch; the head always stays in float.
    """

    images: np.ndarray
    float_layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExportJob:
    """A network to write, with texts for its graph if the format supports that; int8 needs a quantization."""

    module: InferenceModule
    precision: Precision = "fp32"
    metadata: Mapping[str, str] = field(default_factory=dict)
    quantization: QuantizationSpec | None = None


class ScriptParts(NamedTuple):
    """The parts of `predict.py` that depend on the format; `requirements` names its packages in words.

    `load` loads the model from the folder `here`; `predict` is its probabilities of one image, the pixels `image`;
    `predict_all` are all outputs of a graph with maps for a batch of pixels, `pixels`.
    """

    requirements: str
    imports: str
    load: str
    predict: str
    predict_all: str = ""


@dataclass(frozen=True)
class Runtime:
    """A loaded export, from images, uint8 (N, S, S, C), to probabilities, (N, classes).

    `predict_files` takes the contents of JPEG or PNG files; None if the graph takes only pixels. `predict_all` returns
    arrays by the names of the outputs of the graph; None if the format cannot have more than the probabilities.
    """

    predict: Callable[[np.ndarray], Any]
    predict_files: Callable[[list[bytes]], Any] | None = None
    predict_all: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return probabilities, float32 (N, classes), that share no memory with the runtime."""
        return np.array(self.predict(np.ascontiguousarray(images)), np.float32)


class Format(ABC):
    """One export format.

    `files` are relative to an export's folder, the graph first. The packages run an export, write one, and write one in
    int8, each with the extra that installs it. `runs_code`: loading a file of this format can run code from that file.
    `has_maps`: the graph can also return the evidence for each class at each position.
    """

    name: str
    files: tuple[str, ...]
    precisions: tuple[Precision, ...] = ("fp32",)
    runtime_packages: Mapping[str, str] = {}
    export_packages: Mapping[str, str] = {}
    int8_packages: Mapping[str, str] = {}
    runs_code: bool = False
    has_maps: bool = False
    script: ScriptParts

    def check_installed(self, precision: Precision) -> None:
        """Raise `MissingExtraError` if a package that writes or runs an export is missing."""
        int8_packages = self.int8_packages if precision == "int8" else {}
        self._require({**self.runtime_packages, **self.export_packages, **int8_packages})

    def package_versions(self, precision: Precision) -> dict[str, str]:
        """Return the versions of the installed packages that write and run an export, by the names to install them."""
        int8_packages = self.int8_packages if precision == "int8" else {}
        names = (_distribution(name) for name in {**self.runtime_packages, **self.export_packages, **int8_packages})
        return {name: version(name) for name in names if name}

    def open(self, folder: Path, threads: int = 0) -> Runtime:
        """Check the files of an export and load them; 0 threads means one for each usable CPU.

        Raises `ExportError` if a file is missing, damaged or unsafe, `MissingExtraError` without the runtime.
        """
        self._require(self.runtime_packages)
        self._check(folder)
        try:
            with quiet():
                return self._load(folder, threads or usable_cpus())
        except RegraftError:
            raise
        except Exception as error:  # the runtimes' errors have no common base class
            raise ExportError(f"{folder / self.files[0]} cannot be loaded: {first_line(error)}") from error

    @abstractmethod
    def write(self, folder: Path, job: ExportJob) -> None:
        """Write the files of an export into an existing folder, in one of `precisions`."""

    @abstractmethod
    def _load(self, folder: Path, threads: int) -> Runtime: ...

    def _check(self, folder: Path) -> None:
        for name in self.files:
            check_file(folder / name)

    def _require(self, packages: Mapping[str, str]) -> None:
        for package, extra in packages.items():
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(f"The format {self.name} (package {package})", extra)


def _distribution(package: str) -> str:
    """The name to install a package that is imported under this name; "" if it was not installed by one."""
    with contextlib.suppress(PackageNotFoundError):  # mostly it is the same
        return distribution(package).name
    return next(iter(packages_distributions().get(package, ())), "")


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, or the name of its class if it has no message."""
    return (str(error) or type(error).__name__).splitlines()[0]
