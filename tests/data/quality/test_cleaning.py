from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from regraft.data.dataset import BadFile
from regraft.data.quality.cleaning import clean, proposed
from regraft.data.quality.findings import audit
from regraft.errors import ImageErrorCode, UsageError

Make = Callable[..., Any]


def test_files_that_an_extra_reads_are_not_proposed_to_be_dropped(plain: Make, dataset: Make) -> None:
    bad = (BadFile("a.jxl", "an extra", ImageErrorCode.MISSING_EXTRA), BadFile("b.jpg", "text"))
    findings = audit(dataset(plain("cat", 20) + plain("dog", 20), bad=bad))
    assert proposed(findings) == ["unreadable"]


def test_cleaning_keeps_one_of_copies_and_the_test_side_of_a_leak(sample: Make, plain: Make, dataset: Make) -> None:
    samples = [
        *plain("cat", 10, part="train"), *plain("dog", 10, part="train"),
        sample("small.jpg", "cat", part="train", near_duplicates="n", width=50),
        sample("big.jpg", "cat", part="train", near_duplicates="n"),
        sample("copy.jpg", "cat", "cat/000.jpg", part="train"),
        sample("leak.jpg", "cat", "cat/001.jpg", part="test"),
        sample("a.jpg", "cat", part="test", near_duplicates="c"),
        sample("b.jpg", "dog", part="test", near_duplicates="c"),
    ]  # fmt: skip
    data = dataset(samples, bad=(BadFile("bad.jpg", "empty file", ImageErrorCode.EMPTY),))
    findings = audit(data)
    kept, dropped = clean(data, findings, ["near_duplicates", "duplicates", "leak", "empty"])
    gone = {d.path: (d.kind, d.reason) for d in dropped}
    # Of a and b the first stays; of the exact copies, which are all of one size, the first by name.
    assert set(gone) == {"small.jpg", "copy.jpg", "leak.jpg", "b.jpg", "bad.jpg"}
    assert gone["small.jpg"] == ("near_duplicates", "nearly the same picture; train; big.jpg kept")
    assert gone["bad.jpg"] == ("empty", "empty file")
    assert {s.path for s in kept.samples} == {s.path for s in samples} - set(gone)
    _, dropped = clean(data, findings, ["leak", "conflict"])
    assert {d.path: d.kind for d in dropped} == {"cat/001.jpg": "leak", "a.jpg": "conflict", "b.jpg": "conflict"}
    assert clean(data, findings, []) == (data, [])
    with pytest.raises(
        UsageError, match=r"--drop imbalance: no such finding names files here. Findings with files: conflict, "
    ):
        clean(data, findings, ["imbalance"])
