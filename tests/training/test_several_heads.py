from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch

from regraft.training.callbacks import HeadChoice
from regraft.training.feature_rows import StoredRows, TensorRows
from regraft.training.linear_head import fit_head
from regraft.training.losses import Objective, best_temperature
from regraft.training.refit import LinearWeights
from regraft.training.row_sums import shard_bounds
from regraft.training.several_heads import CombinedHead, fit_combined_head

BLOCKS = {"one": slice(0, 6), "two": slice(6, 16)}
OBJECTIVE = Objective("cross_entropy", 0.1, torch.ones(3))


def _data(count: int, seed: int = 0, noise: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of two backbones that see the classes with noise of their own."""
    centers = np.random.default_rng(9).normal(size=(3, 16))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    values = centers[labels] + rng.normal(scale=noise, size=(count, 16))
    return torch.from_numpy(values).float(), torch.from_numpy(labels)


def _rows(features: torch.Tensor) -> TensorRows:
    return TensorRows(features[None].clone())


def _fit(count: int, of_val: int, **options: object) -> CombinedHead:
    train, labels = _data(count)
    val = _data(of_val, seed=1)
    given = (_rows(val[0]), val[1]) if of_val else None
    return fit_combined_head(_rows(train), labels, OBJECTIVE, BLOCKS, val=given, **options)


@pytest.mark.parametrize("of_val", [200, 0])
def test_the_head_with_the_lower_loss_is_taken(of_val: int) -> None:
    fitted = _fit(150, of_val)
    choice = fitted.choice
    assert choice.by == ("validation" if of_val else "cross-validation")
    assert choice.images == (of_val or 150)
    assert set(choice.scores) == {"joint", "averaged", "one", "two"}
    assert choice.scores[choice.chosen].loss == min(choice.scores[name].loss for name in ("joint", "averaged"))
    assert (fitted.best is None) == (choice.chosen == "averaged")
    test, labels = _data(2000, seed=2)
    accuracy = ((test @ fitted.weight.T + fitted.bias).argmax(1) == labels).double().mean()
    assert accuracy > max(choice.scores["one"].accuracy, choice.scores["two"].accuracy)


def test_the_averaged_head_is_the_mean_of_calibrated_logits() -> None:
    many, many_labels = _data(3000, seed=3)
    val, val_labels = _data(200, seed=1)
    heads = [
        fit_head(many[:, block].clone(), many_labels, OBJECTIVE, val=(val[:, block].clone(), val_labels))[0]
        for block in BLOCKS.values()
    ]
    logits = [val[:, b] @ head.weight.T + head.bias for b, head in zip(BLOCKS.values(), heads, strict=True)]
    temperatures = [best_temperature(OBJECTIVE, values, val_labels) for values in logits]
    mean = sum(values / t for values, t in zip(logits, temperatures, strict=True)) / 2
    # Nine images are too few for a new head on all features.
    fitted = _fit(9, 200, trained=[LinearWeights(head.weight, head.bias) for head in heads])
    assert (fitted.choice.chosen, fitted.choice.by, fitted.best) == ("averaged", "validation", None)
    loss = torch.nn.functional.cross_entropy(mean / best_temperature(OBJECTIVE, mean, val_labels), val_labels)
    assert fitted.choice.scores["averaged"].loss == pytest.approx(float(loss), abs=1e-4)
    # A temperature is found to about 1e-4 of its value.
    torch.testing.assert_close(val @ fitted.weight.T + fitted.bias, mean, rtol=1e-3, atol=1e-3)
    assert fitted.val is not None
    assert fitted.val.accuracy == pytest.approx(float((mean.argmax(1) == val_labels).double().mean()))


def test_fitted_heads_are_averaged_where_a_backbone_only_adds_noise() -> None:
    features, labels = _data(60)
    noise = torch.randn(60, 300, generator=torch.Generator().manual_seed(0))
    rows = TensorRows(torch.cat([features[:, :6], noise], dim=1)[None])
    blocks = {"one": slice(0, 6), "noise": slice(6, 306)}
    fitted = fit_combined_head(rows, labels, OBJECTIVE, blocks)
    assert (fitted.choice.chosen, fitted.choice.by, fitted.best) == ("averaged", "cross-validation", None)
    assert fitted.choice.scores["averaged"].loss < fitted.choice.scores["joint"].loss
    test, test_labels = _data(2000, seed=2)
    inputs = torch.cat([test[:, :6], torch.randn(2000, 300, generator=torch.Generator().manual_seed(1))], dim=1)
    accuracy = ((inputs @ fitted.weight.T + fitted.bias).argmax(1) == test_labels).double().mean()
    assert accuracy > 0.9 * fitted.choice.scores["one"].accuracy


def test_trained_heads_are_averaged_where_nothing_can_judge_another() -> None:
    heads = [LinearWeights(torch.full((3, b.stop - b.start), 2.0), torch.ones(3)) for b in BLOCKS.values()]
    fitted = _fit(60, 20, trained=heads)
    assert (fitted.choice.chosen, fitted.choice.by, fitted.best) == ("averaged", "none", None)
    torch.testing.assert_close(fitted.weight, torch.ones(3, 16))
    torch.testing.assert_close(fitted.bias, torch.ones(3))
    assert fitted.val is not None
    assert fitted.val.count == 20


@pytest.mark.parametrize("of_val", [200, 0])
def test_rows_that_are_read_give_the_same_head(of_val: int) -> None:
    train, labels = _data(150)
    val = _data(of_val, seed=1)

    def stored(features: torch.Tensor) -> StoredRows:
        return StoredRows(lambda view, images: features[images], 1, 16, shard_bounds(len(features)))

    read = fit_combined_head(stored(train), labels, OBJECTIVE, BLOCKS, val=(stored(val[0]), val[1]) if of_val else None)
    kept = _fit(150, of_val)
    torch.testing.assert_close(read.weight, kept.weight, rtol=1e-4, atol=1e-5)
    assert read.choice.chosen == kept.choice.chosen


def test_images_of_one_group_cannot_be_compared() -> None:
    fitted = _fit(40, 0, groups=np.zeros(40, dtype=np.int64))
    assert (fitted.choice.chosen, fitted.choice.by) == ("joint", "none")
    assert "nothing could be compared" in str(fitted.choice)


@pytest.mark.parametrize("of_val", [200, 0])
def test_soft_labels_are_compared_on_validation_images_only(of_val: int) -> None:
    train, labels = _data(150)
    val, val_labels = _data(of_val, seed=1)
    soft = torch.nn.functional.one_hot(labels, 3) * 0.8 + 0.2 / 3
    fitted = fit_combined_head(
        _rows(train), soft, OBJECTIVE, BLOCKS, weights=torch.ones(150), l2=0.1,
        val=(_rows(val), val_labels) if of_val else None,
    )  # fmt: skip
    assert fitted.choice.by == ("validation" if of_val else "none")
    if not of_val:
        assert fitted.choice.chosen == "joint"
        assert [head.l2 for head in fitted.path][-1] == 0.1


def test_a_choice_is_written_and_read() -> None:
    choice = _fit(100, 60).choice
    assert HeadChoice.from_json(asdict(choice)) == choice
    text = str(choice)
    assert f"by validation on {choice.images} images" in text
    assert "Alone: one " in text
