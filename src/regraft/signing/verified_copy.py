"""Copies of signed folders that nobody else can change, verified after they were made.

Between a check of a folder and the reading of its files, somebody who may write there could exchange them, and a file
that is mapped into memory can be changed even later. Nobody else can do so in the copies.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from regraft.errors import SignatureError, as_path
from regraft.signing.signature import Signature, verify_signature

#: Returns the verified copy of a folder, and its signature with the path of the original.
CopyVerified = Callable[[Path], tuple[Path, Signature]]


@contextmanager
def verified_copies(key: Path | str) -> Iterator[CopyVerified]:
    """Yield a function that copies what is signed by this key into a private temporary folder; it goes at the end.

    The function raises as `verify_signature`, and copies nothing then.
    """
    with tempfile.TemporaryDirectory(prefix="regraft-verified-") as parent:  # only this user can read or write it

        def copy_verified(folder: Path) -> tuple[Path, Signature]:
            return _copy(folder, Path(tempfile.mkdtemp(dir=parent)), as_path(key, "The public key"))

        yield copy_verified


def _copy(folder: Path, into: Path, key: Path) -> tuple[Path, Signature]:
    signature = verify_signature(folder, key=key)
    from regraft.signing.every_file import SIGNATURE, list_files

    original = folder.resolve()
    copy = into / original.name
    copy.mkdir()
    for file in (*list_files(original), original / SIGNATURE):
        target = copy / file.relative_to(original)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target, follow_symlinks=False)
    try:
        copied = verify_signature(copy, key=key)
    except SignatureError as error:
        raise SignatureError(f"{folder} was changed while it was read. Try again.") from error
    return copy, replace(copied, path=signature.path)
