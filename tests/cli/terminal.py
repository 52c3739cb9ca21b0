"""The command `regraft` as a person types it, in this process, since starting one takes seconds each time."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from regraft import cli


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, standard output and standard error."""

    returncode: int
    stdout: str
    stderr: str


def regraft(*arguments: object, cwd: Path | None = None) -> Done:
    """Run `regraft` with these arguments."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    before, code = Path.cwd(), 0
    with (
        mock.patch.object(sys, "argv", ["regraft", *map(str, arguments)]),
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
