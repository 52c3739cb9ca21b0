"""Read a tree above the classes from a file: JSON, or a table.

JSON has nested objects and lists (`{"animal": {"dog": ["beagle", "pug"]}}`), objects with `name` and `children`, or the
parent of each name (`{"beagle": "dog", "dog": "animal"}`). A table has a column `parent` beside one of names, or a
column for each level (`species,genus,family`, in either direction).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from regraft.data.sources.table import SUFFIXES, Cells, read_cells
from regraft.data.taxonomy import Taxonomy, check_parents
from regraft.errors import DataError, UsageError, as_path, cause_of
from regraft.text import join_truncated

#: A name and what is above it, None at the top.
_Edge = tuple[str, str | None]
_PARENT = "parent"
_EXPECTED = (
    'Expected JSON, such as {"animal": {"dog": ["beagle", "pug"]}}, or a table with the columns child,parent or with '
    "one column for each level."
)


def read_taxonomy(source: Path | str | Mapping[str, str | None] | Taxonomy) -> Taxonomy:
    """The whole tree in a file, or of a mapping of names to their parents; a tree stays as it is.

    Raises `UsageError` if there is no such file, and `DataError` if it cannot be read, a name has two parents, or the
    parents are a circle.
    """
    if isinstance(source, Taxonomy):
        return source
    if isinstance(source, Mapping):
        return Taxonomy.of(check_parents(source, "The taxonomy"), name="The taxonomy")
    path = as_path(source, "A taxonomy")
    if not path.is_file():
        raise UsageError(f"The taxonomy {path} {'is a folder' if path.exists() else 'does not exist'}. {_EXPECTED}")
    name = str(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{name} cannot be read: {cause_of(error)}. Expected a readable file.") from error
    if path.suffix.lower() == ".json":
        edges = list(_edges_of_json(_json(name, data), name))
    elif path.suffix.lower() in SUFFIXES:
        edges = list(_edges_of_table(read_cells(name, data), name))
    else:
        raise UsageError(f"The taxonomy {name} ends in {path.suffix!r}; expected .json, {', '.join(SUFFIXES)}.")
    return Taxonomy.of(_parents(edges, name), name=name)


def _parents(edges: Iterable[_Edge], name: str) -> dict[str, str | None]:
    """One parent for each name; raises `DataError` with every name that has two."""
    found: dict[str, dict[str | None, None]] = {}
    for node, parent in edges:
        found.setdefault(node, {})[parent] = None
        if parent is not None:
            found.setdefault(parent, {})
    several = [
        f"{node} is in {' and in '.join(parent or 'the top level' for parent in parents)}"
        for node, parents in found.items()
        if len(parents) > 1
    ]
    if several:
        raise DataError(
            f"{name} has names in two places: {join_truncated(several, '; ')}. Expected one parent of each; where two "
            "classes have the same name, give them different ones."
        )
    if not found:
        raise DataError(f"{name} has no names. {_EXPECTED}")
    return {node: next(iter(parents), None) for node, parents in found.items()}


def _json(name: str, data: bytes) -> Any:
    twice = Counter[str]()

    def note_repeated(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(key for key, _ in pairs)
        twice.update({key: count for key, count in counts.items() if count > 1})
        return dict(pairs)

    try:
        value = json.loads(data, object_pairs_hook=note_repeated)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is no JSON: {error}. {_EXPECTED}") from error
    if twice:
        raise DataError(f"{name} has names twice in one object: {join_truncated(twice)}. Expected each once.")
    return value


def _edges_of_json(value: Any, name: str) -> Iterator[_Edge]:
    if (
        isinstance(value, dict)
        and value
        and all(parent is None or isinstance(parent, str) for parent in value.values())
    ):
        yield from check_parents(value, name).items()
        return
    pending: list[tuple[Any, str | None]] = [(value, None)]
    while pending:
        inside, parent = pending.pop()
        if isinstance(inside, list):
            pending += [(item, parent) for item in reversed(inside)]
        elif isinstance(inside, str) and inside.strip():
            yield inside.strip(), parent
        elif isinstance(inside, dict) and isinstance(node := inside.get("name"), str) and node.strip():
            yield node.strip(), parent
            pending.append((inside.get("children") or [], node.strip()))
        elif isinstance(inside, dict) and all(node.strip() for node in inside):
            yield from ((node.strip(), parent) for node in inside)
            pending += [(below or [], node.strip()) for node, below in reversed(inside.items())]
        else:
            raise DataError(f"{name} has {inside!r:.100} {f'in {parent}' if parent else 'at the top'}. {_EXPECTED}")


def _edges_of_table(cells: Cells, name: str) -> Iterator[_Edge]:
    columns = [column.strip() for column in cells.columns]
    lower = [column.lower() for column in columns]
    if len(columns) < 2:
        raise DataError(f"{name} has the column {', '.join(columns)}. {_EXPECTED}")
    if _PARENT in lower:
        if len(columns) > 2:
            raise DataError(f"{name} has the columns {', '.join(columns)}; expected a column of names and {_PARENT}.")
        above = lower.index(_PARENT)
        for number, row in enumerate(cells.rows):
            if row and not row[1 - above].strip():
                raise DataError(f"{name}, {cells.place(number)}: no name. Expected a name and its parent.")
            if row:
                yield row[1 - above].strip(), row[above].strip() or None
        return
    rows = [[cell.strip() for cell in row] for row in cells.rows if any(cell.strip() for cell in row)]
    if not _ends_in_classes(rows, name, columns):
        rows = [row[::-1] for row in rows]
    for row in rows:
        lineage = [None, *filter(None, row)]
        yield from zip(lineage[1:], lineage, strict=False)


def _ends_in_classes(rows: Sequence[Sequence[str]], name: str, columns: Sequence[str]) -> bool:
    """Whether the last column has the classes: the one that has more different names than the first."""
    first, last = (len(Counter(row[end] for row in rows)) for end in (0, -1))
    if first == last:
        raise DataError(
            f"{name}: {columns[0]} and {columns[-1]} have {first:,} names each: either may be the classes. "
            "Expected a table with the columns child,parent."
        )
    return last > first
