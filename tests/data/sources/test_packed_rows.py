from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regraft.data.sources import packed_rows
from regraft.data.sources.packed_rows import PackedRows, RowBuilder


@given(rows=st.lists(st.just([]) | st.lists(st.sampled_from(["", "a", "ä\n"]), min_size=2, max_size=2), max_size=11))
def test_packed_rows_are_the_rows(rows: list[list[str]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_rows, "BLOCK", 3)
        builder = RowBuilder()
        for row in rows:
            builder.append(row)
        packed = builder.rows()
        assert isinstance(packed, PackedRows if len(rows) >= 3 else list)
        assert list(packed) == rows
        assert [packed[i] for i in range(len(packed))] == rows
        assert packed[1:4] == rows[1:4]
        assert len(packed) == len(rows)
