"""The command `regraft` as typed, but in this process, because starting one takes seconds."""

from __future__ import annotations

import contextlib
import csv
import functools
import gc
import io
import os
import sys
import traceback
import types
import warnings
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import typer.main

from regraft import cli

#: A fast training that reaches every step.
FAST_FLAGS = (
    "--image-size", "32", "--finetune-epochs", "1", "--set", "training.views=2", "--set", "training.batch_size=8",
    "--set", "data.test=0.25",
)  # fmt: skip

#: The parsers of all verbs, which a command builds once, and tests once for all commands.
_parsers = functools.cache(typer.main.get_command)


@dataclass(frozen=True)
class Done:
    """The exit code and output of a command."""

    returncode: int
    stdout: str
    stderr: str


def regraft(*arguments: object, cwd: Path | None = None) -> Done:
    """Run `regraft` with these arguments."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    before, code = Path.cwd(), 0
    with (
        mock.patch.object(sys, "argv", ["regraft", *map(str, arguments)]),
        mock.patch.object(typer.main, "get_command", _parsers),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        os.chdir(cwd or before)
        try:
            cli.main()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
        finally:
            os.chdir(before)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]  # a BytesIO
    return Done(code, *texts)


def run_python(code: str, cwd: Path) -> Done:
    """Run Python code as a script of its own would run, but in this process."""
    out, err, before, returncode = io.StringIO(), io.StringIO(), Path.cwd(), 0
    main = sys.modules["__main__"]
    script = types.ModuleType("__main__")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.dict(os.environ, PATH=path),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", ResourceWarning)  # a script's open files close when it ends
        os.chdir(cwd)
        sys.modules["__main__"] = script  # and the modules that it imports stay: some cannot be imported twice
        try:
            exec(compile(code, "<code>", "exec"), script.__dict__)
        except Exception:
            traceback.print_exc()
            returncode = 1
        finally:
            sys.modules["__main__"] = main
            gc.collect()
            os.chdir(before)
    return Done(returncode, out.getvalue(), err.getvalue())


def csv_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def contents(folder: Path) -> dict[str, bytes]:
    """The content of each file below a folder, by its path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
