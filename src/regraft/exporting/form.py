"""What a format is: how it is written, what reads it, and what runs it.

Enters: a `DeployedNetwork` and a folder. Leaves: the format's files. Enters: such a folder. Leaves: a `Runtime`. What a
format needs is imported when it is used.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regraft.errors import ExportError, MissingExtraError

if TYPE_CHECKING:
    from regraft.exporting.network import DeployedNetwork, Precision

Metadata = Mapping[str, str]


@dataclass(frozen=True)
class EightBits:
    """How a network is brought to 8 bits.

    Attributes:
        images: What the ranges of its values are measured on, uint8 (N, S, S, 3).
        floating: Layers of the backbone that stay in float, by their names in PyTorch. All else than the backbone does
            so anyway.
    """

    images: np.ndarray
    floating: tuple[str, ...] = ()


def first_line(error: Exception) -> str:
    """What an exception of another library says, or its name."""
    return (str(error) or type(error).__name__).splitlines()[0]


class Format(ABC):
    """One format.

    Attributes:
        name: As `--to` has it.
        files: What it writes, the graph first.
        precisions: What it can be written in.
        modules: What writing and running it needs, and the extras that bring that; `modules_int8`: for int8 besides.
        runs_code: Whether loading a file of somebody else's may run what is in it.
        needs: What its script needs, in words.
        script: Of `predict.py`: what it imports, what loads the model, and what gives one image's probabilities.
    """

    name: str
    files: tuple[str, ...]
    runs_code: bool = False
    precisions: tuple[Precision, ...]
    modules: Mapping[str, str] = {}
    modules_int8: Mapping[str, str] = {}
    needs: str
    script: tuple[str, str, str]

    def check_installed(self, precision: Precision) -> None:
        """Look whether all is there before anything is written.

        Raises:
            MissingExtraError: Something is not.
        """
        needed = {**self.modules, **(self.modules_int8 if precision == "int8" else {})}
        for module, extra in needed.items():
            if importlib.util.find_spec(module) is None:
                raise MissingExtraError(f"The format {self.name} (package {module})", extra)

    @abstractmethod
    def write(
        self, network: DeployedNetwork, folder: Path, precision: Precision, metadata: Metadata,
        eight_bits: EightBits | None = None,
    ) -> None:  # fmt: skip
        """Write the files.

        Args:
            network: What to write.
            folder: Where to.
            precision: One of `precisions`.
            metadata: Goes into the graph where the format has room for it.
            eight_bits: For "int8".
        """

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

    @property
    def takes_files(self) -> bool:
        """Whether there is `encoded`."""
        return False

    def encoded(self, contents: list[bytes]) -> np.ndarray:
        """Contents of JPEG or PNG files to probabilities, float32 (N, classes), where it takes them."""
        raise ExportError("This export takes pixels alone.")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what converters tell about themselves, from Python and from below it."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "nncf")]
    before, handlers = [logger.level for logger in loggers], logging.root.handlers[:]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with _nowhere(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.handlers[:] = handlers  # TensorFlow and ONNX Runtime put their own there
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _nowhere() -> Iterator[None]:
    """The process's standard error goes nowhere meanwhile."""
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
