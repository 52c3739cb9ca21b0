"""Who reads, hashes and decodes files: this process, or others beside it.

Enters: paths of image files, or their bytes. Leaves: the SHA-256 of each, and what examining it gave. Python lets one
thread run at a time, so that threads read many small files hardly faster than one of them; processes do.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from regraft.data.decode import STREAM, is_stream
from regraft.data.facts import FACTS, examine_image
from regraft.errors import ImageError
from regraft.store import Table

#: A file's SHA-256, and a `RECORD` as bytes, why there is none, or None where the table has one of this content.
Answer = tuple[str, bytes | str | None]
#: While files are smaller one thread at a time reads them: several would wait for the interpreter more than they gain.
_SMALL = 16 * 2**10
#: Answers for files, each given by its path or its bytes.
Examiner = Callable[[Sequence[Path | bytes]], list[Answer]]

#: What a process says when it is ready.
_READY = b"regraft reads\n"
#: What a new process runs; what it imports is found where this process found it.
_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from regraft.data.examiners import serve; serve()"
_PATIENCE = 60.0


class Here:
    """Files are read in this process; safe to be used by several threads.

    Args:
        facts: What is in this table is not examined again.
        max_pixels: Larger images cannot be read.
    """

    def __init__(self, facts: Table, max_pixels: int) -> None:
        """Nothing is read yet."""
        self._known, self._max_pixels = facts, max_pixels
        self._alone, self._are_small = threading.Lock(), False

    def __call__(self, files: Sequence[Path | bytes]) -> list[Answer]:
        """The answer for each file."""
        with self._alone if self._are_small else nullcontext():
            return [self._answer(file) for file in files]

    def _answer(self, file: Path | bytes) -> Answer:
        try:
            if isinstance(file, Path) and is_stream(file):
                return "", STREAM
            data = file if isinstance(file, bytes) else file.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: no path at all, such as one with a null byte
            return "", reason(error)
        self._are_small = len(data) < _SMALL
        digest = hashlib.sha256(data).hexdigest()
        if name_of_content(digest) in self._known:
            return digest, None
        return digest, examine(data, self._max_pixels)


class Apart:
    """Files are read in a process of its own, which begins with the first of them; for one thread.

    A file that ends the process, as may happen where a decoder has a fault, is one that cannot be read.

    Args:
        facts: Folder of the table of facts.
        max_pixels: Larger images cannot be read.
    """

    def __init__(self, facts: Path, max_pixels: int) -> None:
        """Nothing is begun yet."""
        self._here = partial(_examiner, facts, max_pixels)
        self._settings = {"facts": str(facts), "max_pixels": max_pixels, "pillow": Image.MAX_IMAGE_PIXELS}
        self._process: subprocess.Popen[bytes] | None = None
        self._instead: Examiner | None = None

    def __call__(self, files: Sequence[Path | bytes]) -> list[Answer]:
        """The answer for each file."""
        if self._instead is None and self._process is None and not self._begin():
            self._instead = self._here()
        if self._instead is not None:
            return self._instead(files)
        try:
            return self._ask(files)
        except (EOFError, OSError, pickle.UnpicklingError):
            code = self.end()
            if len(files) == 1:
                return [("", f"reading it ended the process that did ({_how(code)})")]
            return [answer for file in files for answer in self([file])]

    def end(self) -> int:
        """Let the process end; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        try:
            process.communicate(timeout=_PATIENCE)  # closes what it listens to
        except (OSError, ValueError, subprocess.TimeoutExpired):
            process.kill()
        return process.wait()

    def _begin(self) -> bool:
        """Start the process; whether there is one."""
        # A frozen program's executable is no Python.
        if not sys.executable or getattr(sys, "frozen", False):
            return False
        arguments = map(json.dumps, ([str(folder) for folder in sys.path], self._settings))
        command = [sys.executable, "-P", "-c", _PROGRAM, *arguments]
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError:
            return False
        if _pipe(self._process.stdout).readline() == _READY:
            return True
        self.end()
        return False

    def _ask(self, files: Sequence[Path | bytes]) -> list[Answer]:
        process = self._process
        assert process is not None
        pickle.dump(files, _pipe(process.stdin))
        _pipe(process.stdin).flush()
        answers: list[Answer] = pickle.load(_pipe(process.stdout))
        return answers


def examine(data: bytes, max_pixels: int) -> bytes | str:
    """The `RECORD` of an image as bytes, or why there is none."""
    try:
        return examine_image(data, max_pixels=max_pixels).tobytes()
    except ImageError as error:
        return error.reason


def name_of_content(sha256: str) -> bytes:
    """The name of what is kept for a file's content."""
    return bytes.fromhex(sha256)[:16]


def reason(error: OSError | ValueError) -> str:
    """Why a file has no bytes, in a few words."""
    return str(getattr(error, "strerror", None) or error).lower()


def serve() -> None:
    """Answer for the files that come in, until no more do: what a process that `Apart` begins does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the other process's affair, which then says that it ends
    warnings.simplefilter("ignore")
    settings = json.loads(sys.argv[2])
    Image.MAX_IMAGE_PIXELS = settings["pillow"]
    # What a library prints must not come between the answers.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers, os.fdopen(os.dup(0), "rb") as files:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        examiner = _examiner(Path(settings["facts"]), settings["max_pixels"])
        answers.write(_READY)
        answers.flush()
        while True:
            try:
                asked = pickle.load(files)
            except EOFError:
                return
            pickle.dump(examiner(asked), answers)
            answers.flush()


def _examiner(facts: Path, max_pixels: int) -> Here:
    return Here(Table(facts, (FACTS.itemsize,), np.uint8), max_pixels)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
