"""One problem or peculiarity of the data: what every check returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]
#: The most severe first.
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """A problem or a peculiarity of the data.

    Attributes:
        kind: Name of the check, such as `near_duplicates`.
        severity: `error`: results will be wrong; `warning`: results may be wrong; `info`: good to know.
        title: What was found, as a sentence.
        advice: What to do about it.
        files: Paths; each entry is one file, or a set of files that belong together.
        details: A few words for each entry of `files`, or for the finding as a whole if it has no files.
    """

    kind: str
    severity: Severity
    title: str
    advice: str
    files: tuple[tuple[str, ...], ...] = ()
    details: tuple[str, ...] = ()
