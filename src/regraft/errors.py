"""Every error that regraft raises on purpose.

A message says what was received, what was expected and what to do. The command line prints it and
leaves with the error's exit code; anything else that escapes is a bug.

    RegraftError                exit 1: the work failed
    ├── UsageError              exit 2: the request was wrong
    │   ├── ConfigError         unknown keys or wrong values, all of them at once
    │   ├── UnknownNameError    a name that is in no registry
    │   └── MissingExtraError   an optional dependency is not installed
    ├── DataError               the images, labels or parts cannot be used
    │   └── ImageError          one image cannot be read
    ├── WeightsError            pretrained weights are missing or do not fit
    ├── RunError                a run's folder is missing, damaged or in use
    ├── ExportError             an export answers otherwise than its run, is damaged or hostile
    └── TrainingError           the loss stopped being a number
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RegraftError(Exception):
    """The work failed."""

    exit_code = 1


class UsageError(RegraftError):
    """The request was wrong; nothing was done."""

    exit_code = 2


class ConfigError(UsageError):
    """The configuration has unknown keys or wrong values."""


class UnknownNameError(UsageError):
    """A name that is in no registry."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        """Name the nearest known names beside the unknown one."""
        known = list(known)
        near = nearest(name, known)
        advice = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known)}."
        super().__init__(f"Unknown {kind} {name!r}. {advice}{' ' + hint if hint else ''}")


class MissingExtraError(UsageError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        """Print the command that installs the extra."""
        super().__init__(f"{what} needs the extra {extra!r}. Install it with: pip install 'regraft[{extra}]'")


class DataError(RegraftError):
    """The images, labels or parts cannot be used."""


class ImageError(DataError):
    """One image cannot be read; `reason` says why in a few words."""

    def __init__(self, reason: str, path: str = "") -> None:
        """Keep the reason apart from the path, so that lists can show both."""
        super().__init__(f"{path}: {reason}" if path else reason)
        self.reason = reason
        self.path = path


class WeightsError(RegraftError):
    """Pretrained weights are missing or do not fit."""


class RunError(RegraftError):
    """A run's folder is missing, damaged or in use."""


class ExportError(RegraftError):
    """A model could not be written in a format, or one that was written does not answer as it must, or is damaged."""


class TrainingError(RegraftError):
    """Training cannot go on."""


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known names most like `name`, best first, at most three."""
    return difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)


def counted(number: int, one: str, many: str = "") -> str:
    """`3 images`; the plural is `many`, or `one` with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(items: Iterable[str], separator: str = ", ", *, shown: int = 10) -> str:
    """The first few of them, and how many more there are."""
    items = list(items)
    return separator.join(items[:shown]) + (f"{separator}and {len(items) - shown:,} more" if len(items) > shown else "")
