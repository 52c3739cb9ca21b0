from __future__ import annotations

import hashlib
import pickle
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import regraft
from regraft.data import samples as samples_module
from regraft.data.dataset import Dataset
from regraft.data.image_stats import STATS_DTYPE, ImageStats
from regraft.data.samples import PARTS, Columns, Sample, SampleTable
from regraft.data.strings import Names, string_array

HASHES = [hashlib.sha256(bytes([i])).hexdigest() for i in range(6)]
STATS = ImageStats(10, 4, 3, "JPEG", "RGB", 1, 1, 0.0, 0.5, 0.25, 0.125)
SAMPLES = st.lists(
    st.builds(
        Sample,
        path=st.text(max_size=8),
        label=st.sampled_from(["a", "b", "c"]),
        sha256=st.sampled_from(HASHES),
        part=st.sampled_from([None, *PARTS]),
        group=st.sampled_from([None, "g", "h"]),
        size=st.just((4, 3)),
        image_stats=st.just(STATS),
        near_duplicate_group=st.sampled_from([None, *HASHES[:2]]),
    ),
    max_size=12,
)


def scanned(samples: list[Sample]) -> SampleTable:
    """The table that a scan makes of these samples: it has columns alone."""
    columns = Columns.of(samples)
    stats = np.empty(len(samples), STATS_DTYPE)
    for name in STATS_DTYPE.names or ():
        stats[name] = columns.stats[name]
    return SampleTable(replace(columns, stats=stats))


@pytest.mark.parametrize("block", [3, 4096])
@given(samples=SAMPLES, data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_table_is_the_sequence_of_its_samples(block: int, samples: list[Sample], data: st.DataObject) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, max(0, len(samples) - 1)), max_size=9 if samples else 0)), int)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples_module, "_BLOCK", block)
        for table in (scanned(samples), SampleTable.of(samples)):
            chosen, expected = table.take(rows), [samples[i] for i in rows]
            for one, objects in ((table, samples), (chosen, expected), (table[1:], samples[1:])):
                assert list(one) == objects
                assert [one[i] for i in range(-len(objects), len(objects))] == [*objects, *objects]
                assert one == tuple(objects)
                assert hash(one) == hash(tuple(objects))
                assert one.paths.tolist() == [s.path for s in objects]
                assert one.labels.to_list() == [s.label for s in objects]
                assert list(one.sha256s()) == [s.sha256 for s in objects]
                assert [(*PARTS, None)[part] for part in one.parts] == [s.part for s in objects]
                assert one.parts_present() == {s.part for s in objects} - {None}
                assert one.groups.to_list() == [s.group for s in objects]
                assert [tuple(size) for size in one.sizes.tolist()] == [s.size for s in objects]
                assert one.near_duplicates.to_list() == [s.near_duplicate_group for s in objects]
                order = np.argsort(one.contents, kind="stable")
                assert [objects[i].sha256 for i in order] == sorted(s.sha256 for s in objects)
                pictures = [s.near_duplicate_group or f"own {s.sha256}" for s in objects]
                assert len(set(zip(pictures, one.pictures.tolist(), strict=True))) == len(set(pictures))
                assert pickle.loads(pickle.dumps(one)) == one
            moved = chosen.with_parts(np.full(len(rows), 2))
            assert list(moved) == [replace(s, part="test") for s in expected]
            assert moved.take(np.zeros(len(rows), bool)) == ()
            assert list(table) == samples


def test_samples_made_by_hand_need_no_hash_and_keep_all_digits() -> None:
    stats = replace(STATS, brightness=0.1, format="a long name", mode="F", largest=0.3)
    samples = (Sample("b", "x", "second", image_stats=stats), Sample("a", "y", "first"), Sample("c", "x", "first"))
    table = SampleTable.of(samples)
    assert tuple(table) == samples
    assert table.contents.tolist() == [1, 0, 0]
    assert list(table.sha256s()) == ["second", "first", "first"]
    assert Dataset(Path(), samples, ("x", "y")).value_range == ((0, 0), (0, 1))
    assert table.sizes.tolist() == [[0, 0]] * 3


def test_a_label_that_is_no_class_is_an_error() -> None:
    samples = (Sample("a", "x", HASHES[0]), Sample("b", "z", HASHES[1]))
    with pytest.raises(KeyError, match="z"):
        _ = Dataset(Path(), samples, ("x", "y")).labels


def test_a_scan_returns_columns_that_a_split_shares(squares_folder: Path) -> None:
    dataset = regraft.scan(squares_folder)
    split = regraft.split(dataset)
    assert isinstance(dataset.samples, SampleTable)
    assert split.train is split["train"]
    assert split.train.table.paths.tolist() == [s.path for s in split.dataset.samples if s.part == "train"]
    assert split.dataset.table._all.paths is dataset.table._all.paths  # no second copy of the strings


def test_many_samples_take_less_than_half_of_what_objects_take() -> None:
    count = 20_000
    hashes = np.random.default_rng(0).integers(0, 256, (count, 32), dtype=np.uint8)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        table = _table(count, hashes)
        split = regraft.split(Dataset(Path(), table, ("0", "1")))
        parts = [split[part] for part in split]
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert sum(map(len, parts)) == count
    assert used / count < 400  # bytes; a `Sample` with its strings and its `ImageStats` takes about 1,000


def test_a_pickled_selection_has_its_rows_alone() -> None:
    table = _table(5000, np.random.default_rng(0).integers(0, 256, (5000, 32), dtype=np.uint8))
    few = pickle.loads(pickle.dumps(table.take(np.array([3, 4000]))))
    assert (few, len(few._all.paths)) == (table.take(np.array([3, 4000])), 2)
    split = regraft.split(Dataset(Path(), table, ("0", "1")))
    assert pickle.loads(pickle.dumps(split)) == split
    assert pickle.loads(pickle.dumps(split)).test == split.test


def _table(count: int, hashes: np.ndarray) -> SampleTable:
    codes: Any = np.arange(count, dtype=np.int32) % 2
    return SampleTable(
        Columns(
            string_array([f"folder/of/a/class/{i:07d}.jpg" for i in range(count)]),
            Names(codes, string_array(["0", "1"])),
            hashes,
            np.full(count, -1, np.int8),
            Names.none(count),
            np.full((count, 2), 64, np.int32),
            np.ones(count, STATS_DTYPE),
            Names.none(count),
            Names.none(count),
        )
    )
