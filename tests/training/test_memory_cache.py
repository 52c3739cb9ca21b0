from __future__ import annotations

import numpy as np
import pytest

from regraft.training import memory_cache
from regraft.training.memory_cache import MemoryCache


def test_rows_come_back_by_number_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_cache, "_BLOCK_ROWS", 4)
    rows = np.arange(22, dtype=np.float32).reshape(11, 2)
    table = MemoryCache().table("features", {"a": 1}, (2,), np.float32)
    keys = [bytes([i]) * 16 for i in range(11)]
    assert table.append(keys[:3], rows[:3]).tolist() == [0, 1, 2]
    assert table.append(keys[3:], rows[3:]).tolist() == list(range(3, 11))
    np.testing.assert_array_equal(table.read(np.array([10, 0, 3, 3])), rows[[10, 0, 3, 3]])
    assert table.find([keys[7], b"?" * 16]).tolist() == [7, -1]
    assert table.row_bytes == 8


def test_a_table_is_found_by_everything_it_depends_on() -> None:
    cache = MemoryCache()
    table = cache.table("features", {"a": 1, "b": 2}, (2,), np.float32)
    assert cache.table("features", {"b": 2, "a": 1}, (2,), np.float32) is table
    assert cache.table("features", {"a": 2, "b": 2}, (2,), np.float32) is not table
