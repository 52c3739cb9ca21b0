"""The command `regraft`: one module per verb, with the same verbs as the Python functions.

Input: words on a command line. Output: text for people, or JSON for programs with `--json`, and an exit code: 0 for
success, 1 if the work failed, 2 if the request was wrong. A verb imports what it needs when it runs, so that `--help`
answers at once.
"""

from __future__ import annotations

import errno
import gc
import io
import os
import sys
import warnings
from typing import Any

import typer
from rich.markup import escape

from regraft.cli.data import clean, inspect, split
from regraft.cli.deployment import export, serve, sign, verify
from regraft.cli.options import Command, CommandGroup
from regraft.cli.output import err, fail
from regraft.cli.results import drift, evaluate, explain, predict, report, summary
from regraft.cli.setup import backbones, cache, config
from regraft.cli.training import classes, compare, crossval, demo, distill, learning_curve, plan, train, tune
from regraft.distributed import PeerError, launch
from regraft.errors import AmbiguousNameWarning, RegraftError, UsageError
from regraft.resources import limit_threads

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Transfer learning for image classification: from a folder of labeled images to a classifier you can trust.",
    epilog=(
        "Start with [bold]regraft demo[/bold], or with [bold]regraft train FOLDER[/bold], "
        "where FOLDER contains one folder of images per class."
    ),
)
_PANELS = {
    "Data": (inspect, split, clean),
    "Training": (demo, train, plan, tune, distill, classes, crossval, compare, learning_curve),
    "Results": (evaluate, report, predict, explain, drift, summary),
    "Deployment": (export, sign, verify, serve),
    "Setup": (backbones, config, cache),
}
for panel, verbs in _PANELS.items():
    for verb in verbs:
        name = verb.__name__.rpartition(".")[2].replace("_", "-")
        app.command(name=name, cls=Command, rich_help_panel=panel)(verb.command)


def _version(value: bool) -> None:
    if value:
        from regraft import __version__

        print(f"regraft {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
    threads: int | None = typer.Option(
        None, metavar="N", min=1, help="Use at most N CPUs. Default: all that the process may use."
    ),
) -> None:
    """Options before the verb."""
    if context.invoked_subcommand != "train" and (launched := launch()):
        raise (PeerError if launched.rank else UsageError)(
            f"`regraft {context.invoked_subcommand}` runs in one process, and a launcher has started "
            f"{launched.world_size}. Only `regraft train` divides its work among them."
        )
    if threads:
        limit_threads(threads)  # a verb imports PyTorch afterwards


def main() -> None:
    """Run the command and exit with its code."""
    if os.name == "posix" and sys.getfilesystemencoding() != "utf-8":  # file names would be misread
        encoding = sys.stdout.encoding if sys.stdout else "utf-8"
        os.environ.setdefault("PYTHONIOENCODING", encoding)
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for some reads all packages
    gc.set_threshold(100_000)  # a data set is many small objects without cycles; looking for cycles takes a third
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by `>&-`; otherwise the next file to be opened takes its number
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115 - stays open
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name may be any bytes
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                app()
            finally:
                sys.stdout.flush()
    except PeerError as error:  # the process that it comes from prints it
        sys.exit(error.exit_code)
    except RegraftError as error:
        sys.exit(fail(error))
    except BrokenPipeError:  # `regraft predict ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python flushes at exit
        sys.exit(1)
    except OSError as error:  # no permission, a full disk, a drive that was removed
        name = error.filename2 or error.filename  # the file that is written, not the one that is copied
        file = f"{name}: " if name else ""
        advice = _DISK_FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        sys.exit(fail(RegraftError(f"{file}{error.strerror or error}{advice}")))
    except (MemoryError, RuntimeError, ImportError) as error:
        if not (lack := _lack(error)):
            raise
        try:
            code = fail(RegraftError(lack))
        except MemoryError:  # there is none for colors either
            os.write(2, f"Error: {lack}\n".encode())
            code = 1
        # For what libraries do as a process ends, such as a table of times, there is no memory either.
        sys.unraisablehook = lambda _: None
        sys.exit(code)


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
    """Print what was chosen for an ambiguous name as a sentence, and other warnings with their place in the code."""
    if issubclass(category, AmbiguousNameWarning):
        err.print(f"[yellow]{escape(str(message))}[/yellow]")
    else:
        sys.stderr.write(warnings.formatwarning(message, category, *place[:2]))


_DISK_FULL = (
    ". `regraft cache` shows the cache of earlier runs and its folder, `regraft cache --prune` empties it, "
    "$REGRAFT_CACHE moves it to another disk, and --set training.cache_gb=0 turns it off."
)
_OUT_OF_MEMORY = (
    "There is not enough memory. Use a smaller --image-size, --set training.batch_size=8, a smaller --backbone or, "
    "if the GPU is too small, --device cpu."
)
_OUT_OF_THREADS = (
    "The system starts no further thread: its memory or its limit of processes (`ulimit -u`) is reached. "
    "Use --threads 1, or raise the limit."
)

#: Words of PyTorch's allocator, of oneDNN where kernels find no memory, of the loader of libraries, and of Python.
_LACKS = {
    "can't allocate memory": _OUT_OF_MEMORY,
    "could not create a primitive": _OUT_OF_MEMORY,
    "failed to map segment from shared object": _OUT_OF_MEMORY,
    "can't start new thread": _OUT_OF_THREADS,
}


def _lack(error: Exception) -> str:
    """What to say of an error for lack of memory or threads, in Python, on GPUs and in libraries; empty for others."""
    of_device = getattr(sys.modules.get("torch.cuda"), "OutOfMemoryError", MemoryError)  # none without PyTorch
    if isinstance(error, (MemoryError, of_device)):
        return _OUT_OF_MEMORY
    return next((said for text, said in _LACKS.items() if text in str(error)), "")
