"""Keep a bounded number of the pictures that a server gets: the strangest, and a part that is drawn at random.

The folder has `strange/` and `random/`. The name of a file begins with the model and a key between 0 and 1, and those
with the smallest keys stay: the farther from the training, the smaller is the key of a strange picture, and that of a
random one is random. So all pictures of any time are equally likely to stay, also when a server is started again or
several processes keep pictures in one folder.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regraft.atomic_io import atomic_write
from regraft.data.file_kinds import suffix_of_image

_KINDS = STRANGE, RANDOM = ("strange", "random")
#: Digits of a key, and of the hash of a content.
_DIGITS, _HASH = 12, 16


@dataclass(frozen=True)
class _Kept:
    """What is kept of a kind: number of files, bytes, and the largest key."""

    count: int
    size: int
    worst: float


class SampleFolder:
    """Pictures in a folder, at most `count` files of `limit_bytes` in all; for use by one thread.

    Raises `OSError` if the folder cannot be written.
    """

    def __init__(self, folder: Path, *, count: int, limit_bytes: int) -> None:
        self._folder, self._rng = folder, np.random.default_rng()
        self._counts = {STRANGE: count // 2, RANDOM: count - count // 2}
        self._limit = limit_bytes // 2  # of each kind
        self._kept: dict[str, _Kept] = {}
        for kind in _KINDS:
            (folder / kind).mkdir(parents=True, exist_ok=True)
            self._kept[kind] = self._shrink(kind)

    def consider(self, model: str, content: bytes, strange_key: float | None) -> list[str]:
        """Keep a picture if it is strange, drawn or both, and return its names below the folder; []: it is not kept.

        `strange_key` is between 0 and 1, the smaller the stranger; None: unknown.
        """
        keys = {RANDOM: float(self._rng.random())}  # whatever is strange: the random part is of all pictures
        if strange_key is not None:
            keys[STRANGE] = strange_key
        names = (self._keep(kind, model, content, key) for kind, key in sorted(keys.items(), reverse=True))
        return [name for name in names if name]

    def _has_room(self, kind: str, size: int, key: float) -> bool:
        kept = self._kept[kind]
        if size > self._limit or not self._counts[kind]:
            return False
        return (kept.count < self._counts[kind] and kept.size + size <= self._limit) or key < kept.worst

    def _keep(self, kind: str, model: str, content: bytes, key: float) -> str | None:
        if not self._has_room(kind, len(content), key):
            return None
        digest = hashlib.sha256(content).hexdigest()[:_HASH]
        folder = self._folder / kind
        if any(digest in path.name for path in folder.iterdir()):  # it is there already
            return None
        path = folder / f"{model}-{key:.{_DIGITS}f}-{digest}{suffix_of_image(content)}"
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
        self._kept[kind] = self._shrink(kind)
        return f"{kind}/{path.name}" if path.exists() else None

    def _shrink(self, kind: str) -> _Kept:
        """Delete the pictures with the largest keys until the others fit, and return what is left."""
        files = []
        for path in (self._folder / kind).iterdir():
            with suppress(OSError, ValueError, IndexError):  # gone meanwhile, or no file of ours
                if not path.name.startswith("."):
                    files.append((float(path.name.rsplit("-", 2)[1]), path, path.stat().st_size))
        count = size = 0
        worst = 0.0
        for key, path, bytes_ in sorted(files):
            if count == self._counts[kind] or size + bytes_ > self._limit:
                with suppress(OSError):
                    path.unlink()
            else:
                count, size, worst = count + 1, size + bytes_, key
        return _Kept(count, size, worst)
