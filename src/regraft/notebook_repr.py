"""Results that notebooks display as HTML.

Input: a result at the end of a cell. Output: HTML. Results are defined in lower layers than the code that draws them.
`NotebookRepr` is therefore the one place in regraft that names a higher layer: it imports `regraft.notebook` when a
notebook asks for HTML. The contracts in `pyproject.toml` say so.
"""

from __future__ import annotations

from importlib import import_module
from typing import TypeVar, cast

T = TypeVar("T")


class NotebookRepr:
    """Base class of results that notebooks display as HTML; `regraft.notebook` draws each of them."""

    def _repr_html_(self) -> str | None:
        return cast("str | None", import_module("regraft.notebook").to_html(self))


class ResultList(list[T], NotebookRepr):
    """A list of results that a notebook displays side by side."""
