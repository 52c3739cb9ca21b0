"""The order of classes that have one, such as grades or bands of age: as it is given, or by the numbers in their names.

Input: the names of classes. Output: the same names, lowest first, or an error that says what to give.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from regraft.errors import UsageError
from regraft.text import join_truncated

#: A number at the beginning, with a sign, or after words that have none. Of `10-19` it is the first.
_FIRST, _LATER = re.compile(r"([-+\u2212]?)\s*(\d*\.?\d+(?:e[-+]?\d+)?)", re.I), re.compile(r"(\D+)(\d+(?:\.\d+)?)")
#: What follows a number that may have separators between thousands.
_THOUSANDS = re.compile(r"[,'\u2019\u00a0 ]\d{3}(?!\d)")
#: What follows a number, or a range, directly or after a space: `h`, `kg`, ` years`.
_UNIT = re.compile(r"(?:\s*[-\u2013]\s*\d*\.?\d+)?\s*([^\W\d_]+|%)")
_ORDINALS = ("st", "nd", "rd", "th")
#: What is said of classes that have both an order and a tree.
ORDERED_TREE = "A tree above the classes is for classes without an order. Leave out one of them."
_HOW = "Give it, lowest first: --order LOW,MEDIUM,HIGH, or data.order in a configuration (order= in Python)."


def in_order(classes: Sequence[str], order: Sequence[str], name: str) -> tuple[str, ...]:
    """The classes of the data `name`, lowest first: in the given `order`, or if that is empty by their numbers.

    The numbers of names are those that they begin with (`0-9`, `10-19`, `60+`), or that follow the same words in all
    (`grade 1`, `grade 10`). Words that follow a number may be its unit (`6 months`, `2h`), so that they have to be the
    same in all names, unless a sign sets them apart (`0_none`, `1: mild`). Raises `UsageError` if the order does not
    name every class once, or there is none and the names have no different numbers.
    """
    if order:
        _check_given(classes, order, name)
        return tuple(order)
    found = [_number_in(one) for one in classes]
    words, numbers = {one and (one[0], one[2]) for one in found}, [one[1] for one in found if one]
    if None in words or len(words) > 1 or len(set(numbers)) < len(classes):
        raise UsageError(
            f"{name}: with task = ordinal the classes have an order, which their names do not tell: "
            f"{join_truncated(classes)}. {_HOW}"
        )
    return tuple(classes[i] for i in sorted(range(len(classes)), key=numbers.__getitem__))


def _number_in(name: str) -> tuple[str, float, str] | None:
    """The words before the number in a name, the number, and its unit; None if it has none, or one that may be several.

    The unit is the word that follows, without the s of a plural; `1st` has none.
    """
    text = name.strip()
    if found := _FIRST.match(text):
        words, number = "", float(found[2]) * (-1 if found[1] in ("-", "\u2212") else 1)
    elif found := _LATER.match(text):
        words, number = found[1].strip().casefold(), float(found[2])
    else:
        return None
    if _THOUSANDS.match(text, found.end()):
        return None
    unit = _UNIT.match(text, found.end())
    word = unit[1].casefold().removesuffix("s") if unit else ""
    return words, number, "" if word in _ORDINALS else word


def _check_given(classes: Sequence[str], order: Sequence[str], name: str) -> None:
    """Raise `UsageError` unless the order names every class once."""
    missing, unknown = ([one for one in ours if one not in theirs] for ours, theirs in
                        ((classes, order), (order, classes)))  # fmt: skip
    twice = [one for one in dict.fromkeys(order) if order.count(one) > 1]
    problems = [
        f"{what} {join_truncated(names)}"
        for what, names in (("does not name", missing), ("names what is no class:", unknown), ("names twice:", twice))
        if names
    ]
    if problems:
        raise UsageError(
            f"The order {', '.join(order)} {'; it '.join(problems)}. Expected each class of {name} once, lowest first: "
            f"{join_truncated(classes)}."
        )
