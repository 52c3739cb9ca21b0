"""What a signature covers: every file below a folder, except the signature itself.

Input: a folder. Output: its files, and their hashes for model-signing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from model_signing import hashing, manifest

from regraft.errors import SignatureError

#: The name that model-signing proposes.
SIGNATURE = "model.sig"


def list_files(folder: Path) -> list[Path]:
    """The files below a folder without its signature, sorted.

    Raises:
        SignatureError: Something is no regular file, such as a link, which could lead out of the folder, or has a name
            that is no text.
        OSError: A folder cannot be read.
    """
    files = []
    for root, folders, names in os.walk(folder, onerror=_fail):
        for path in (Path(root, name) for name in (*folders, *names)):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                kind = "a link" if path.is_symlink() else "no file"
                raise SignatureError(
                    f"{path} is {kind}, which no signature covers. Copy what it leads to, or remove it."
                )
            if not str(path.relative_to(folder)).isascii() and _is_no_text(path.name):
                raise SignatureError(f"{path} has a name that is no text, which no signature can contain. Rename it.")
        files += [path for name in names if (path := Path(root, name)) != folder / SIGNATURE]
    return sorted(files)


def _fail(error: OSError) -> NoReturn:
    raise error


def _is_no_text(name: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in name)


class EveryFile(hashing.Config):
    """Hashes every file of a folder but its signature, whatever a signature says may be left out.

    Attributes:
        found: What was hashed; None before. A signature is checked before any file, so None also means that the
            signature is not authentic.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the library does not annotate it
        self.found: manifest.Manifest | None = None
        self.set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)  # for other programs, which read it in there

    def hash(
        self, model_path: hashing.PathLike, *, files_to_hash: Iterable[hashing.PathLike] | None = None
    ) -> manifest.Manifest:
        """Hash the files with SHA-256."""
        folder = Path(os.fsdecode(model_path))
        self.found = super().hash(folder, files_to_hash=list_files(folder))
        return self.found

    def add_ignored_paths(self, *, model_path: hashing.PathLike, paths: Iterable[hashing.PathLike]) -> None:
        """Leave nothing out."""

    def digests(self) -> dict[str, str]:
        """The hashes by the names of the files, {} before anything was hashed."""
        if self.found is None:
            return {}
        return {one.identifier: one.digest.digest_hex for one in self.found.resource_descriptors()}
