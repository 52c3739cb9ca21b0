"""Recognize folders of parts by their names, such as `TEST`, `training_set`, `seg_train` or `flowers_valid`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from regraft.data.dataset import Part
from regraft.data.sources.manifest import PART_NAMES

_PARTS: dict[str, Part] = {**PART_NAMES, "eval": "test", "evaluation": "test"}
_CONTENT = "sets?|images?|imgs?|data|dataset|folder|split|files|pictures|photos|pics|samples"
_NAME = re.compile(rf"(?:seg|final|my|x|{_CONTENT})*(?P<part>{'|'.join(_PARTS)})(?:{_CONTENT})*")

_MASKS = r"masks?|labels?|annotations?|segmentations?|gt|ground[\W_]*truths?"
_CONTAINER = re.compile(
    rf"{_CONTENT}|{_MASKS}|depth|rgb|originals?|raw|inputs?|targets?|"
    rf"(.*[\W_])?({_CONTENT}|part|batch|chunk|fold|shard|archive|subset)[\W_]*\d+"
)


def is_container(name: str) -> bool:
    """Whether a name is that of a piece of data or a kind of files rather than a class: `images`, `masks`, `part_1`."""
    return _CONTAINER.fullmatch(name.lower()) is not None


def holds_masks(name: str) -> bool:
    """Whether a folder's name is that of masks or other annotations of images."""
    return re.fullmatch(_MASKS, name.lower()) is not None


def part_of(name: str) -> Part | None:
    """The part that a folder's name means, whatever its case, digits and separators."""
    match = _NAME.fullmatch(re.sub(r"[^a-z]", "", name.lower()))
    return _PARTS[match["part"]] if match else None


def parts_among(names: Iterable[str]) -> dict[str, Part]:
    """The part of each name that means one.

    Names such as `flowers_train` and `trainA` mean one if another differs from them in the part alone.
    """
    found: dict[str, Part] = {}
    alike: defaultdict[tuple[str, ...], dict[str, Part]] = defaultdict(dict)
    for name in names:
        if part := part_of(name):
            found[name] = part
            continue
        words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
        if len(parts := [_PARTS[word] for word in words if word in _PARTS]) == 1:
            alike[tuple(word for word in words if word not in _PARTS)][name] = parts[0]
    for group in alike.values():
        found |= group if len(set(group.values())) > 1 else {}
    return found
