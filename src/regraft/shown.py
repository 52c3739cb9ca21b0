"""What a notebook shows of a result.

Enters: a result at the end of a cell. Leaves: HTML. Results stand in lower steps than what draws them, so each class
names the function that does, and it is imported when a notebook asks; nothing is imported upwards before.
"""

from __future__ import annotations

from importlib import import_module
from typing import ClassVar, TypeVar, cast

T = TypeVar("T")


class Shown:
    """A result that notebooks show as more than its one line: `class Run(Shown, by="regraft.module.function")`."""

    _shown_by: ClassVar[str]

    def __init_subclass__(cls, by: str = "", **others: object) -> None:
        """Take the name of the function that makes HTML of an instance."""
        super().__init_subclass__(**others)
        if by:
            cls._shown_by = by

    def _repr_html_(self) -> str:
        module, _, function = self._shown_by.rpartition(".")
        return cast(str, getattr(import_module(module), function)(self))


class Several(list[T], Shown, by="regraft.pipeline.notebook.several"):
    """A list of results that a notebook shows one beside the other."""
