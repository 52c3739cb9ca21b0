from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from regraft.data import strings
from regraft.data.strings import Names, StringBuilder, concatenate, in_blocks, string_array

TEXTS = st.lists(st.text(max_size=30) | st.sampled_from(["", "\0", "a\0", "\ud800", "\udcff.jpg"]), max_size=20)


@given(first=TEXTS, second=TEXTS)
def test_strings_come_back_from_arrays(first: list[str], second: list[str]) -> None:
    assert string_array(first).tolist() == first
    both = concatenate([string_array(first), string_array(second)])
    assert list(in_blocks(both)) == [*first, *second]
    assert both[np.argsort(both, kind="stable")].tolist() == sorted([*first, *second])


def test_a_builder_makes_blocks(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(strings, "BLOCK", 3)
    texts = [str(i) for i in range(10)]
    builder = StringBuilder()
    for number, text in enumerate(texts, start=1):
        builder.append(text)
        assert builder.array().tolist() == texts[:number]


@given(st.lists(st.none() | st.sampled_from(["a", "b", "ä"]), max_size=12))
def test_names_are_numbered_as_they_occur(names: list[str | None]) -> None:
    coded = Names.of(names)
    assert coded.to_list() == names
    assert coded.names.tolist() == list(dict.fromkeys(name for name in names if name is not None))
    half = coded[np.arange(0, len(names), 2)]
    assert half.to_list() == names[::2]
    assert set(half.used()) == set(names[::2]) - {None}
    assert Names.none(3).to_list() == [None] * 3
