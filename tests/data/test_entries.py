from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from regraft.data.entries import EntryTable, ImageEntry
from regraft.data.samples import PARTS
from regraft.data.strings import Names

ENTRIES = st.lists(
    st.builds(
        ImageEntry,
        path=st.sampled_from(["a", "b", "c/d", "ä", "\0"]),
        label=st.sampled_from(["x", "y"]),
        part=st.sampled_from([None, *PARTS]),
        group=st.sampled_from([None, "g", "h"]),
    ),
    max_size=12,
)


@given(entries=ENTRIES, more=ENTRIES)
def test_a_table_is_the_sequence_of_its_entries(entries: list[ImageEntry], more: list[ImageEntry]) -> None:
    table = EntryTable(entries)
    assert table == entries
    assert [table[i] for i in range(len(entries))] == entries
    assert table[1:] == entries[1:]
    table.extend(more)
    assert list(table) == [*entries, *more]
    assert list(table.sorted_by_path()) == sorted([*entries, *more], key=lambda e: e.path)
    odd = table.take(np.arange(1, len(table), 2))
    odd.extend(entries)
    assert odd == [*[*entries, *more][1::2], *entries]
    assert table.with_groups(Names.of([None] * len(table))).groups.to_list() == [None] * len(table)


@given(ENTRIES)
def test_the_first_row_of_each_path(entries: list[ImageEntry]) -> None:
    paths = [entry.path for entry in entries]
    assert EntryTable(entries).first_rows().tolist() == [paths.index(path) for path in paths]
