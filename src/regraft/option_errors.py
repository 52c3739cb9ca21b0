"""Say what is wrong with the options of a class in a `ConfigError` instead of pydantic's own error.

Input: a class that pydantic validates. Output: the same class, whose wrong options raise a `ConfigError` that lists all
of them, with the nearest names of those that do not exist.
"""

from __future__ import annotations

import functools
from typing import Any, TypeVar

from pydantic import ValidationError

from regraft.errors import ConfigError
from regraft.synonyms import names_like

T = TypeVar("T", bound=type)
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def usage_errors(cls: T) -> T:
    """Decorate a pydantic class; what it validates as a part of another class is reported by that class."""
    initialize: Any = cls.__init__  # type: ignore[misc]  # a class that pydantic made has no subclasses here

    @functools.wraps(initialize)
    def checked(self: Any, *args: Any, **options: Any) -> None:
        try:
            initialize(self, *args, **options)
        except ValidationError as error:
            found = error.errors()
            count = "1 option is" if len(found) == 1 else f"{len(found)} options are"
            lines = [f"{cls.__name__}: {count} wrong:", *(_describe(one, cls) for one in found)]
            raise ConfigError("\n  ".join(lines)) from error

    cls.__init__ = checked  # type: ignore[misc]
    return cls


def _describe(error: Any, cls: Any) -> str:
    path = [str(part) for part in error["loc"]]
    if error["type"] not in _UNKNOWN:
        reason = error["msg"].removeprefix("Value error, ")
        return f"{'.'.join(path)} = {error['input']!r}: {reason[0].lower()}{reason[1:]}"
    for section in path[:-1]:
        cls = _fields(cls)[section].annotation
    known = list(_fields(cls))
    near = names_like(path[-1], known)
    advice = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}."
    return f"{'.'.join(path)}: no such option; {advice}"


def _fields(cls: Any) -> dict[str, Any]:
    fields: dict[str, Any] = cls.model_fields if hasattr(cls, "model_fields") else cls.__pydantic_fields__
    return fields
