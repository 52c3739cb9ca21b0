from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from regraft.training import row_sums
from regraft.training.feature_rows import TensorRows
from regraft.training.linear_head import LinearHead, fit_head
from regraft.training.losses import Objective
from regraft.training.row_sums import MAX_SHARDS, gather_rows, own_rows, shard_bounds, sum_over_shards


@pytest.mark.parametrize("count", [0, 1, 4096, 4097, 70_000, 1_300_000])
def test_shards_divide_the_images(count: int) -> None:
    bounds = shard_bounds(count)
    assert bounds[0] == 0
    assert bounds[-1] == count
    assert len(bounds) - 1 == min(MAX_SHARDS, max(1, -(-count // 4096)))
    assert np.ptp(np.diff(bounds)) <= 1
    np.testing.assert_array_equal(own_rows(count), np.arange(count))


@pytest.mark.parametrize("buffer", [1, 4_000_000])
@pytest.mark.parametrize("processes", [2, 3, 5])
def test_a_sum_has_the_same_bits_with_any_number_of_processes(
    monkeypatch: pytest.MonkeyPatch,
    run_ranks: Callable[[int, Callable[[], Any]], list[Any]],
    processes: int,
    buffer: int,
) -> None:
    values = torch.randn(9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e3
    one = sum_over_shards(lambda shard: values[shard], 9, 7)
    torch.testing.assert_close(one, values.sum(0))
    monkeypatch.setattr(row_sums, "_BUFFER_VALUES", buffer)
    called: list[int] = []

    def partial(shard: int) -> torch.Tensor:
        called.append(shard)
        return values[shard]

    for total in run_ranks(processes, lambda: sum_over_shards(partial, 9, 7)):
        assert torch.equal(total, one)
    assert sorted(called) == list(range(9)), "every shard is computed once"


def test_rows_are_gathered(run_ranks: Callable[[int, Callable[[], Any]], list[Any]]) -> None:
    rows = torch.arange(30.0).view(10, 3)
    bounds = np.array([0, 4, 4, 9, 10])
    for gathered in run_ranks(2, lambda: gather_rows(lambda v: rows[bounds[v] : bounds[v + 1]], bounds, 3)):
        assert torch.equal(gathered, rows)


@pytest.mark.parametrize(("count", "with_val"), [(90, True), (40, False), (400, True)])
def test_processes_that_hold_their_own_rows_fit_the_same_head(
    monkeypatch: pytest.MonkeyPatch,
    run_ranks: Callable[[int, Callable[[], Any]], list[Any]],
    count: int,
    with_val: bool,
) -> None:
    monkeypatch.setattr(row_sums, "IMAGES_PER_SHARD", 64)  # 90 and 400 images are 2 and 7 shards, 40 images are one
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (count,), generator=generator)
    features = torch.randn(2, count, 60, generator=generator) + torch.nn.functional.one_hot(labels, 60)
    objective = Objective("cross_entropy", 0.1, torch.tensor([1.0, 2.0, 1.0]))

    def fit() -> LinearHead:
        own = own_rows(count)
        rows = TensorRows(features[:, own].clone(), shard_bounds(count))
        val = (TensorRows(features[:1, own].clone(), rows.bounds), labels)
        best, _ = fit_head(rows, labels, objective, val=val if with_val else None)
        return best

    one = fit()
    for head in run_ranks(3, fit):
        assert torch.equal(head.weight, one.weight)
        assert torch.equal(head.bias, one.bias)
        assert (head.l2, head.train_loss, head.train_accuracy, head.val) == (
            one.l2, one.train_loss, one.train_accuracy, one.val,
        )  # fmt: skip
