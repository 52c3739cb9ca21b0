"""Find the files that tables and annotations name, also by the ends of paths of another machine."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from regraft.data.sources.urls import is_url, redact
from regraft.data.storage import Directory, is_image
from regraft.text import join_truncated

#: How Label Studio names files that it stores, and what it puts before their names.
_UPLOADED = re.compile(r"/data/(upload/(\d+/)?|local-files/\?d=)")
_UPLOAD_KEY = re.compile(r"[0-9a-f]{8}-")
#: What it leaves out of their names, with `_` for spaces (Django's `get_valid_filename`).
_UPLOAD_REMOVED = re.compile(r"[^-\w.]")


class FileFinder:
    """Finds files of a storage: `exists` knows them, and `top` lists those that are searched for.

    `moved` has the paths whose files were found elsewhere, with these files.
    """

    def __init__(self, exists: Callable[[str], bool], top: Directory) -> None:
        self._exists, self._top = exists, top
        self.moved = dict[str, str]()

    def find(self, file: str) -> str:
        """The file as written, without spaces around it, with slashes, in another Unicode form, or by its end.

        A path that leads to no file is returned with slashes. Raises `ValueError` if several files have its end.
        """
        stripped = file.strip()
        if is_url(stripped):
            return stripped
        slashes = stripped.replace("\\", "/")
        forms = (unicodedata.normalize(form, slashes) for form in ("NFC", "NFD"))  # macOS decomposes accents
        for written in dict.fromkeys((file, stripped, slashes, *forms)):
            if self._exists(name := Path(written).as_posix()):
                return name
        found = self.with_end(slashes)
        if len(found) > 1:
            raise ValueError(f"{redact(file)} may be {join_truncated(found, ' or ', shown=3)}; expected one file")
        if found:
            self.moved[file] = found[0]
        return found[0] if found else Path(file).as_posix()

    def with_end(self, path: str) -> list[str]:
        """The images that have the end of a path with slashes: of one from another machine, its name and a folder."""
        if uploaded := _UPLOADED.match(path):
            path = unquote(path[uploaded.end() :])
        *folders, last = [part for part in path.split("/") if part not in ("", ".")] or [path]
        is_absolute = path.startswith("/") or bool(re.match("[A-Za-z]:", path))
        names = [last, _UPLOAD_KEY.sub("", last, count=1)] if uploaded else [last]
        known = [self._by_name, self._by_uploaded_name] if uploaded else [self._by_name]
        candidates = next((files[name] for files in known for name in names if name in files), [])
        found = []
        for candidate in candidates:
            ours = candidate.split("/")[:-1]
            common = min(len(ours), len(folders))
            # Of a path from another machine only the end is here; of a relative one also a folder must be.
            if ours[len(ours) - common :] == folders[len(folders) - common :] and (
                common == len(folders) or common or is_absolute
            ):
                found.append(candidate)
        return found

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """Images by their names, and by their names without extension."""
        found = defaultdict[str, list[str]](list)
        for file in self._top.files_below:
            if is_image(file):
                name = file.rpartition("/")[2]
                found[name].append(file)
                found[name.rpartition(".")[0]].append(file)
        return dict(found)

    @cached_property
    def _by_uploaded_name(self) -> dict[str, list[str]]:
        """Images by the names that Label Studio gives them."""
        found = defaultdict[str, list[str]](list)
        for file in self._top.files_below:
            if is_image(file):
                found[_UPLOAD_REMOVED.sub("", file.rpartition("/")[2].strip().replace(" ", "_"))].append(file)
        return dict(found)
