from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft import key_index
from regraft.key_index import KeyIndex, collect_keys, keys_array

#: Few keys, some of which have the same first half.
KEYS = [bytes([i % 3] * 8 + [i] * 8) for i in range(9)]
STEPS = st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from(KEYS), min_size=1, max_size=6)), max_size=12)


@given(steps=STEPS, few=st.sampled_from([0, 2, 8192]))
@settings(max_examples=150, deadline=None)
def test_it_finds_what_a_dictionary_finds(steps: list[tuple[bool, list[bytes]]], few: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_index, "_FEW", few)
        index, expected, row = KeyIndex(), dict[bytes, int](), 0
        for removes, keys in steps:
            if removes:
                index.remove(keys_array(keys))
                for key in keys:
                    expected.pop(key, None)
            else:
                index.add(keys_array(keys), row)
                expected.update(zip(keys, range(row, row + len(keys)), strict=True))
                row += len(keys)
            assert index.find(keys_array(KEYS)).tolist() == [expected.get(key, -1) for key in KEYS]
            assert [key in index for key in KEYS] == [key in expected for key in KEYS]


def test_many_random_keys() -> None:
    keys = np.random.default_rng(0).integers(0, 256, (30_000, 16), dtype=np.uint8)
    index = KeyIndex()
    for start in range(0, len(keys), 1000):
        index.add(keys[start : start + 1000], start)
    order = np.random.default_rng(1).permutation(len(keys))
    assert (index.find(keys[order]) == order).all()
    assert (index.find(keys[:5] ^ 1) == -1).all()


def test_a_key_of_another_length_is_refused() -> None:
    assert (collect_keys(iter(KEYS), len(KEYS)) == keys_array(KEYS)).all()
    assert keys_array([]).shape == (0, 16)
    with pytest.raises(ValueError, match="a key of 3 bytes; expected 16"):
        keys_array([bytes(16), b"abc"])
    with pytest.raises(ValueError, match="a key of 0 bytes; expected 16"):
        keys_array([bytes(16), b""])


def test_keys_are_found_while_another_thread_adds_some() -> None:
    keys = np.random.default_rng(0).integers(0, 256, (60_000, 16), dtype=np.uint8)
    index = KeyIndex()
    index.add(keys[:1000], 0)
    adding = threading.Thread(
        target=lambda: [index.add(keys[start : start + 100], start) for start in range(1000, len(keys), 100)]
    )
    adding.start()
    while adding.is_alive():
        assert (index.find(keys[:1000]) == np.arange(1000)).all()
    adding.join()
    assert (index.find(keys) == np.arange(len(keys))).all()
