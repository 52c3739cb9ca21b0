"""The command `regraft`: one file a verb, the same verbs as the Python functions.

Enters: words on a command line. Leaves: text for people on the terminal, JSON for programs with `--json`, and an exit
code: 0 done, 1 the work failed, 2 the request was wrong. Verbs import what they need when they run, so that `--help`
answers at once.
"""

from __future__ import annotations

import errno
import gc
import io
import sys

import typer

from regraft.cli import (
    backbones,
    cache,
    clean,
    compare,
    config,
    crossval,
    demo,
    evaluate,
    explain,
    export,
    inspect,
    learning_curve,
    predict,
    report,
    serve,
    split,
    summary,
    train,
    tune,
    verify,
)
from regraft.cli.output import fail
from regraft.errors import RegraftError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Transfer learning for image classification: a folder of labelled images in, a classifier you can trust out.",
    epilog=(
        "Start with [bold]regraft demo[/bold], or with [bold]regraft train FOLDER[/bold], "
        "where FOLDER holds one folder of images a class."
    ),
)
_VERBS = (
    demo, inspect, split, clean, train, tune, crossval, compare, learning_curve, evaluate, report, predict, explain,
    export, verify, serve, summary,
    backbones, config, cache,
)  # fmt: skip
for verb in _VERBS:
    app.command(name=verb.__name__.rpartition(".")[2].replace("_", "-"))(verb.command)


def _version(value: bool) -> None:
    if value:
        from regraft import __version__

        print(f"regraft {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and leave."
    ),
) -> None:
    """Options before the verb."""


def main() -> None:
    """Run the command and leave with its exit code."""
    gc.set_threshold(100_000)  # a data set is many small objects and no cycles: looking for these takes a third
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may be anything
    try:
        app()
    except RegraftError as error:
        sys.exit(fail(error))
    except BrokenPipeError:  # `regraft predict ... | head`
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:  # no permission, a full disk, a drive that went away
        where = f"{error.filename}: " if error.filename else ""
        room = _NO_ROOM if error.errno == errno.ENOSPC else ""
        sys.exit(fail(RegraftError(f"{where}{error.strerror or error}{room}")))
    except (MemoryError, RuntimeError) as error:
        if not _is_lack_of_memory(error):
            raise
        sys.exit(fail(RegraftError(_NO_MEMORY)))


_NO_ROOM = (
    ". `regraft cache` says what is kept from earlier runs and where, and --prune removes it; $REGRAFT_CACHE puts it "
    "on another disk; --set training.cache_gb=0 keeps none."
)
_NO_MEMORY = (
    "There is not enough memory. Take a smaller --image-size, --set training.batch_size=8, a smaller "
    "--backbone, or where a GPU is too small --device cpu."
)


def _is_lack_of_memory(error: Exception) -> bool:
    """Python's own, a GPU's (by the name of OutOfMemoryError), or that of PyTorch on a CPU."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or "can't allocate memory" in str(error)
