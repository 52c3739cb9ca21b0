"""Every error that regraft raises on purpose.

A message says what was received, what was expected and what to do. The command line prints it and
exits with the error's exit code. Any other exception is a bug.

    RegraftError                exit 1: the work failed
    ├── UsageError              exit 2: the request was wrong
    │   ├── ConfigError         the configuration has unknown keys or wrong values
    │   ├── UnknownNameError    no registry has this name
    │   ├── MissingExtraError   an optional dependency is not installed
    │   └── BudgetError         the time budget is too short for any training
    ├── DataError               the images, labels or parts cannot be used
    │   └── ImageError          one image cannot be read
    ├── WeightsError            pretrained weights are missing or do not fit
    ├── RunError                a run's folder is missing, damaged or in use
    ├── ClusterError            a cluster cannot be reached, or differs from this machine
    ├── ExportError             an export failed, is damaged or differs from its run
    ├── SignatureError          a run or an export is not signed, not by this key, or was changed since
    └── TrainingError           training cannot continue
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import ParamSpec, TypeVar

from regraft.synonyms import names_like, setting_names_like
from regraft.text import nearest

#: Number of names that a message lists.
_MOST_NAMES = 40

P = ParamSpec("P")
R = TypeVar("R")


class RegraftError(Exception):
    """The work failed."""

    exit_code = 1


class UsageError(RegraftError):
    """The request was wrong and nothing was done."""

    exit_code = 2


class ConfigError(UsageError):
    """The configuration has unknown keys or wrong values; the message lists all of them."""


class UnknownNameError(UsageError):
    """No registry has this name."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = list(known)
        near = nearest(name, known)
        listed = f"Known: {', '.join(known)}." if len(known) <= _MOST_NAMES else ""
        advice = f"Did you mean {' or '.join(near)}?" if near else listed
        super().__init__(" ".join(part for part in (f"Unknown {kind} {name!r}.", advice, hint) if part))


class AmbiguousNameWarning(UserWarning):
    """A name may mean several things, and the documented one is chosen."""


class MissingExtraError(UsageError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra {extra!r}. Install it with: pip install 'regraft[{extra}]'")


class BudgetError(UsageError):
    """The time budget is too short for the smallest training of this model."""


class DataError(RegraftError):
    """The images, labels or parts cannot be used."""


class ImageErrorCode(StrEnum):
    """Why an image cannot be read, for programs; messages are for people."""

    EMPTY = "empty"
    #: More pixels than allowed: possibly a decompression bomb.
    TOO_LARGE = "too_large"
    TRUNCATED = "truncated"
    #: Its format is read by a package that is not installed.
    MISSING_EXTRA = "missing_extra"
    #: Any other reason: not an image, no permission, damaged.
    UNREADABLE = "unreadable"


class ImageError(DataError):
    """One image cannot be read: the reason in a few words, its code, and the path, empty for bytes and arrays."""

    def __init__(self, reason: str, path: str = "", code: ImageErrorCode = ImageErrorCode.UNREADABLE) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.reason, self.path, self.code = reason, path, code


class WeightsError(RegraftError):
    """Pretrained weights are missing or do not fit."""


class RunError(RegraftError):
    """A run's folder is missing, damaged or in use."""


class ClusterError(RegraftError):
    """A cluster cannot be reached or has other versions, or its processes die."""


class ExportError(RegraftError):
    """A model cannot be exported, or an exported model is damaged or gives other predictions than its run."""


class SignatureError(RegraftError):
    """A run or an export cannot be signed, is not signed by this key or identity, or was changed since."""


class TrainingError(RegraftError):
    """Training cannot continue, for example because the loss is not a number."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended work whose folder can be continued."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"What is done so far is in {folder}, and can be continued.")
        self.folder = folder


@contextmanager
def continued_in(folder: Path) -> Iterator[None]:
    """Let a `KeyboardInterrupt` from the block say which folder can be continued."""
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt as error:
        raise Interrupted(folder) from error


def cause_of(error: Exception) -> str:
    """Why something failed: the words of the system, without the number and the file that an `OSError` adds."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def as_path(value: object, what: str) -> Path:
    """Return a path; raise `UsageError` for anything else, also for an empty text, which would mean this folder."""
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        received = repr(value) if value is None or value == "" else f"a {type(value).__name__}"
        raise UsageError(f"{what} is {received}; expected a path.")
    return Path(value)


def refuse_old_names(**renamed: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function so that an argument with its old name (old name = new name) raises a `UsageError`."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        function = suggest_names(function)

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            check_names(kwargs, renamed)
            return function(*args, **kwargs)

        return checked

    return decorate


def suggest_names(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that an argument that it does not have raises a `UsageError` with what it may mean."""

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            parameters = inspect.signature(function).parameters
            takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
            for name in [] if takes_all else set(kwargs) - set(parameters):
                advice = _advise_on_argument(name, list(parameters))
                raise UsageError(f"{function.__name__}() has no argument {name}=; {advice}") from error
            raise

    return checked


def _advise_on_argument(name: str, parameters: list[str]) -> str:
    """What an argument that a function does not have may mean: another one, or a setting of its `config`."""
    known = names_like(name, parameters)
    settings = setting_names_like(name) if "config" in parameters else []
    is_plural = bool(known) and known[0].rstrip("s") == name.rstrip("s")
    if settings and not is_plural:
        quoted = ", ".join(f'"{setting}": ...' for setting in settings)
        return f"it is a setting: config=regraft.load_config(overrides={{{quoted}}})."
    if known:
        return f"did you mean {' or '.join(known)}?"
    return f"it has {', '.join(parameters)}."


def check_names(arguments: Iterable[str], renamed: Mapping[str, str]) -> None:
    """Raise a `UsageError` with the new name of an argument that is called as in the version before."""
    for name in arguments:
        if name in renamed:
            raise UsageError(f"The argument {name}= is now called {renamed[name]}=.")
