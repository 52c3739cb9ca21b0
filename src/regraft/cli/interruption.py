"""What a verb says after Ctrl-C: the command that continues its work."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from rich.markup import escape

from regraft.cli.output import err
from regraft.data.sources.urls import redact
from regraft.errors import Interrupted

#: Exit code of a program that Ctrl-C ended: 128 and the number of the signal.
EXIT_CODE = 130
#: Verbs whose folder is continued by `--resume`, and the verb that has it.
_RESUMED = {"train": "train", "demo": "train", "classes": "train", "distill": "distill", "tune": "tune"}
#: Verbs whose same command finds in the cache, or in its folder of results, what is done.
_REPEATED = ("crossval", "learning-curve", "compare")


def print_interrupted(verb: str, parameters: dict[str, Any], error: KeyboardInterrupt) -> None:
    """Print what continues the verb, which got these parameters."""
    command = _continuing(verb, parameters, error.folder if isinstance(error, Interrupted) else None)
    err.print("Interrupted." + (f" Continue with: {escape(command)}" if command else ""))


def _continuing(verb: str, parameters: dict[str, Any], folder: Path | None) -> str:
    if verb in _RESUMED:
        return "" if folder is None else shlex.join(["regraft", _RESUMED[verb], "--resume", str(folder)])
    out = parameters.get("out")
    predicts_into_folder = verb in ("predict", "evaluate") and out is not None and Path(out).is_dir()
    if verb not in _REPEATED and not predicts_into_folder:
        return ""
    words = ["regraft", *map(redact, sys.argv[1:])]  # what is printed is often kept, as in the log of a cluster
    return shlex.join(words if folder is None or out is not None else [*words, "--out", str(folder)])
