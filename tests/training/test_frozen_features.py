"""Features of a frozen backbone are the inputs of its head."""

from __future__ import annotations

import torch

from regraft.cache import Cache
from regraft.training.callbacks import NullReporter
from regraft.training.frozen_features import frozen_features


def test_frozen_features_are_the_inputs_of_the_head(make_model, squares, tmp_path) -> None:
    model = make_model(backbone="cnn", weights="none")
    features = frozen_features(model, squares, Cache(tmp_path), NullReporter())
    assert features.shape == (len(squares), model.head.classifier.in_features)
    assert torch.equal(features, frozen_features(model, squares, Cache(tmp_path), NullReporter()))
