from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from regraft.training import feature_rows, linear_head, row_sums
from regraft.training.feature_rows import FeatureRows, StoredRows, TensorRows, as_rows
from regraft.training.linear_head import fit_head, fit_path, stratified_part
from regraft.training.losses import Objective
from regraft.training.row_sums import shard_bounds


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_sums, "IMAGES_PER_SHARD", 100)
    monkeypatch.setattr(feature_rows, "CHUNK_ROWS", 37)
    monkeypatch.setattr(feature_rows, "_READ_ROWS", 16)


def _data(count: int = 500, features: int = 12, views: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (count,), generator=generator)
    values = torch.randn(views, count, features, generator=generator) * torch.linspace(0.1, 4, features) + 2
    return values + torch.nn.functional.one_hot(labels, features), labels


def _stored(values: torch.Tensor) -> StoredRows:
    return StoredRows(
        lambda view, images: values[view, images], len(values), values.shape[2], shard_bounds(values.shape[1])
    )


def _all(rows: FeatureRows) -> list[tuple[list[int], torch.Tensor]]:
    return [(i.tolist(), v.clone()) for shard in range(len(rows.bounds) - 1) for i, v in rows.chunks(shard)]


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.usefixtures("small_chunks")
def test_stored_rows_are_those_of_the_tensor_in_the_same_chunks(views: int) -> None:
    values, _ = _data(views=views)
    mean, deviation = values.mean((0, 1)), values.std((0, 1))
    chosen = np.array([0, 3, 99, 100, 101, 350, 499])
    tensor: FeatureRows = TensorRows(values.clone())
    stored: FeatureRows = _stored(values)
    seen = sorted(i for images, _ in _all(stored) for i in images)
    assert seen == sorted(list(range(500)) * views)
    for ours, theirs in (
        (stored, tensor),
        (stored.plain(), tensor.plain()),
        (stored.subset(chosen), tensor.subset(chosen)),
        (stored.standardized(mean, deviation, consume=True), tensor.standardized(mean, deviation, consume=False)),
    ):
        for (images, rows), (expected_images, expected) in zip(_all(ours), _all(theirs), strict=True):
            assert images == expected_images
            assert torch.equal(rows, expected)


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.usefixtures("small_chunks")
def test_a_head_on_stored_rows_is_the_head_in_memory(views: int) -> None:
    values, labels = _data(views=views)
    objective, val = Objective("cross_entropy", 0.1, torch.ones(4)), _data(120)
    stored_val = (_stored(val[0].clone()), val[1])
    ours, _ = fit_head(_stored(values.clone()), labels, objective, val=stored_val)
    theirs, _ = fit_head(values.clone(), labels, objective, val=(val[0][0], val[1]))
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)
    assert ours.val == theirs.val


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_chunks_find_the_same_solution(monkeypatch: pytest.MonkeyPatch, precision: torch.dtype) -> None:
    values, labels = _data(3000, 40)
    objective = Objective("cross_entropy", 0.0, torch.ones(4))
    (whole,) = fit_path(values[0], labels, objective, l2_values=[1e-3])
    monkeypatch.setattr(row_sums, "IMAGES_PER_SHARD", 300)
    monkeypatch.setattr(feature_rows, "CHUNK_ROWS", 111)
    stored = values.to(precision)
    (chunked,) = fit_path(_stored(stored), labels, objective, l2_values=[1e-3])
    assert chunked.train_loss == pytest.approx(whole.train_loss, abs=1e-4)
    answers = [(values[0] @ head.weight.T + head.bias).argmax(1) for head in (whole, chunked)]
    assert float((answers[0] == answers[1]).double().mean()) >= 0.999


def test_the_strength_is_chosen_on_a_part_of_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    values, labels = _data(3000)
    objective, val = Objective("cross_entropy", 0.0, torch.ones(4)), _data(200)
    whole, _ = fit_head(values.clone(), labels, objective, val=(val[0][0], val[1]))
    sizes = []
    fit_path = linear_head.fit_path

    def counting(features: Any, *others: Any, **options: Any) -> Any:
        sizes.append(int(as_rows(features).bounds[-1]))
        return fit_path(features, *others, **options)

    monkeypatch.setattr(linear_head, "fit_path", counting)
    monkeypatch.setattr(linear_head, "MAX_SEARCH_IMAGES", 1000)
    part, fits = fit_head(values.clone(), labels, objective, val=(val[0][0], val[1]))
    assert sizes == [1000, 3000], "the path on the part, and its end on all"
    assert sum(fit.l2 == part.l2 for fit in fits) == 2
    assert abs(np.log10(part.l2) - np.log10(whole.l2)) <= 1
    assert part.train_loss == pytest.approx(whole.train_loss, abs=0.02)


def test_a_part_keeps_the_shares_of_the_classes() -> None:
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    chosen = stratified_part(labels, 100, seed=3)
    assert len(set(chosen.tolist())) == 100
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_allclose(np.bincount(labels[chosen]), [70, 20, 10], atol=1)
    assert not np.array_equal(chosen, stratified_part(labels, 100, seed=4))
