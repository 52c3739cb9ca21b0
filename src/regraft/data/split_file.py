"""A split as a CSV file: which part each image is in.

Input: a split, or a file of an earlier one. Output: the file, its hash, or the part that each sample had in it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from regraft.atomic_io import csv_sha256, write_csv
from regraft.data.dataset import Split
from regraft.data.samples import PARTS, Part, SampleTable
from regraft.data.sources.manifest import PART_NAMES
from regraft.data.strings import in_blocks
from regraft.errors import UsageError, cause_of
from regraft.spreadsheets import read_records

_COLUMNS = ("path", "label", "part", "sha256")


def write_split(path: Path, split: Split) -> None:
    """Write `path,label,part,sha256`; `scan(path, root=split.dataset.root)` reads the same split back."""
    write_csv(path, _COLUMNS, _rows(split))


def split_sha256(split: Split) -> str:
    """The SHA-256 of the file that `write_split` writes, in hexadecimal."""
    return csv_sha256(_COLUMNS, _rows(split))


def _rows(split: Split) -> Iterator[tuple[str, str | None, Part, str]]:
    table = split.dataset.table
    labels, names = table.labels, table.labels.names.tolist()
    columns = (in_blocks(table.paths), (names[code] for code in labels.codes), table.parts, table.sha256s())
    for name, label, part, sha256 in zip(*columns, strict=True):
        yield name, label, PARTS[part], sha256


def kept_parts(pool: SampleTable, keep: Split | Path | str) -> np.ndarray:
    """The part of each sample in an earlier split, an index in `PARTS` or -1, int64 (N,).

    Raises `UsageError` if the file is not a split.
    """
    rows: Iterable[tuple[str, str, str]]
    if isinstance(keep, Split):
        earlier = keep.dataset.table
        rows = zip(in_blocks(earlier.paths), earlier.sha256s(), (PARTS[part] for part in earlier.parts), strict=True)
    else:
        rows = _read(Path(keep))
    by_content, by_path = dict[bytes | str, int](), dict[str, int]()
    for path, sha256, part in rows:
        number = PARTS.index(PART_NAMES[part])
        by_path[path] = number
        if sha256:
            by_content[_short(sha256)] = number
    found = (
        by_content.get(_short(sha256), by_path.get(path, -1))
        for path, sha256 in zip(in_blocks(pool.paths), pool.sha256s(), strict=True)
    )
    return np.fromiter(found, np.int64, len(pool))


def _read(path: Path) -> Iterator[tuple[str, str, str]]:
    """Path, SHA-256 (or an empty string) and part of each row of a `split.csv`."""
    path, is_empty = path / "split.csv" if path.is_dir() else path, True
    wrong = UsageError(f"{path} is not a split: expected the columns path and part (train, val, test), and sha256.")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in read_records(file):
                is_empty, part = False, (row.get("part") or row.get("split") or "").lower()
                if not row.get("path") or part not in PART_NAMES:
                    raise wrong
                yield row["path"], row.get("sha256") or "", part
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{path} cannot be read: {cause_of(error)}. Expected a split.csv, or a folder with one."
        ) from error
    if is_empty:
        raise wrong


def _short(sha256: str) -> bytes | str:
    """The hash in half the memory."""
    try:
        return bytes.fromhex(sha256)
    except ValueError:  # a sample made by hand
        return sha256
