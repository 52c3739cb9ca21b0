from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from regraft.training.activations import Activations, CachedTensor
from regraft.training.feature_rows import TensorRows
from regraft.training.losses import Objective
from regraft.training.refit import HeadPart, refit, stacked_rows
from regraft.training.several_heads import fit_combined_head

OBJECTIVE = Objective("cross_entropy", 0.0, torch.ones(3))


def _data(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    centers, rng = np.random.default_rng(9).normal(size=(3, 8)), np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    values = centers[labels] + rng.normal(scale=1.5, size=(count, 8))
    return torch.from_numpy(values).float(), torch.from_numpy(labels)


def test_the_head_is_that_of_scikit_learn_on_all_images() -> None:
    (train, labels), (val, val_labels) = _data(40, 0), _data(20, 1)
    given = (Activations(1, CachedTensor(values[None])) for values in (train, val))
    stacked = stacked_rows(*given, labels, val_labels, None)
    assert stacked is not None
    rows, targets, weights = stacked
    assert weights is None
    head = refit(rows, targets, OBJECTIVE, [HeadPart(slice(0, 8), 0.1)])
    both = torch.cat([train, val])
    scale = both.std(dim=0, correction=0)
    theirs = LogisticRegression(C=1 / (0.1 * 60), tol=1e-8, max_iter=1000)
    theirs.fit(((both - both.mean(dim=0)) / scale).numpy(), torch.cat([labels, val_labels]).numpy())
    ours = head.weight * scale
    np.testing.assert_allclose((ours - ours.mean(0)).numpy(), theirs.coef_ - theirs.coef_.mean(0), atol=2e-3)


def test_each_view_of_a_training_image_has_the_validation_images_beside_it() -> None:
    views, (val, val_labels) = torch.stack([_data(5, seed)[0] for seed in range(3)]), _data(2, 9)
    soft = torch.full((5, 3), 1 / 3)
    stacked = stacked_rows(
        Activations(1, CachedTensor(views)), Activations(1, CachedTensor(val[None])), soft, val_labels, torch.ones(5)
    )
    assert stacked is not None
    rows, targets, weights = stacked
    assert torch.equal(rows.values, torch.stack([torch.cat([view, val]) for view in views]))
    assert torch.equal(targets[5:].argmax(1), val_labels)
    assert targets[5:].sum() == 2
    assert weights is not None
    assert weights.tolist() == [1.0] * 7


# Noise in one of the backbones, which averaged heads weigh less; and noise that both share, which one head takes off.
@pytest.mark.parametrize(("count", "noise", "chosen"), [(60, 300, "averaged"), (300, 0, "joint")])
def test_several_backbones_keep_their_form(count: int, noise: int, chosen: str) -> None:
    (train, labels), generator = _data(count, 0), torch.Generator().manual_seed(0)
    shared = torch.randn(count, 4, generator=generator).repeat(1, 2)
    features = torch.cat(
        [train if noise else train + 5 * shared, torch.randn(count, noise, generator=generator)], dim=1
    )
    border = 8 if noise else 4
    blocks = {"one": slice(0, border), "two": slice(border, 8 + noise)}
    fitted = fit_combined_head(TensorRows(features[None].clone()), labels, OBJECTIVE, blocks)
    assert fitted.choice.chosen == chosen
    again = refit(TensorRows(features[None].clone()), labels, OBJECTIVE, fitted.parts)
    torch.testing.assert_close(again.weight, fitted.weight, atol=5e-3, rtol=0.05)
    torch.testing.assert_close(again.bias, fitted.bias, atol=5e-3, rtol=0.05)
