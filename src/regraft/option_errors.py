"""Say what is wrong with the options of a class in a `ConfigError` instead of pydantic's own error.

Input: a class that pydantic validates. Output: the same class, whose wrong options raise a `ConfigError` that lists all
of them, with the nearest names of those that do not exist.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from regraft.errors import ConfigError
from regraft.synonyms import advice_on, names_like

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
            found = merge_alternatives(error.errors(), 2 if hasattr(cls, "model_fields") else 1)
            count = "1 option is" if len(found) == 1 else f"{len(found)} options are"
            lines = [f"{cls.__name__}: {count} wrong:", *(_describe(one, cls) for one in found)]
            raise ConfigError("\n  ".join(lines)) from error

    cls.__init__ = checked  # type: ignore[misc]
    return cls


def merge_alternatives(errors: Sequence[Any], depth: int) -> list[dict[str, Any]]:
    """One error of pydantic for each wrong value, where a value that may have several types has one for each of them.

    `depth` is the length of the path of an option.
    """
    merged: dict[tuple[Any, ...], dict[str, Any]] = {}
    for error in errors:
        path = tuple(error["loc"])
        is_alternative = len(path) > depth and isinstance(path[depth], str)  # the name of the type
        key = path[:depth] if is_alternative else (*path, error["type"])
        if key not in merged:
            merged[key] = {**error, "loc": path[:depth] if is_alternative else path, "reasons": []}
        if (reason := error["msg"]) not in merged[key]["reasons"]:
            merged[key]["reasons"].append(reason)
    return list(merged.values())


def reason_of(error: Any) -> str:
    """Why a value is wrong, as a part of a sentence."""
    reasons = [reason.removeprefix("Value error, ") for reason in error["reasons"]]
    return "; or ".join(reason[0].lower() + reason[1:] for reason in reasons)


def _describe(error: Any, cls: Any) -> str:
    path = [str(part) for part in error["loc"]]
    if error["type"] not in _UNKNOWN:
        return f"{'.'.join(path)} = {error['input']!r}: {reason_of(error)}"
    for section in path[:-1]:
        cls = _fields(cls)[section].annotation
    known = list(_fields(cls))
    near = names_like(path[-1], known)
    advice = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}."
    return f"{'.'.join(path)}: no such option; {advice_on(path[-1]) or advice}"


def _fields(cls: Any) -> dict[str, Any]:
    fields: dict[str, Any] = cls.model_fields if hasattr(cls, "model_fields") else cls.__pydantic_fields__
    return fields
