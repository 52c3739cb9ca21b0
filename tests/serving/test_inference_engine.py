"""The batch sizes that an engine uses, and predictors without heat maps."""

from __future__ import annotations

import numpy as np
import pytest
from predictors import MeanPredictor, pixels

from regraft.errors import UsageError
from regraft.serving.inference_engine import Engine


@pytest.mark.parametrize(("exact", "sizes"), [(64, (16, 8, 4, 2, 1)), (4, (4, 2, 1)), (3, (2, 1)), (1, (1,))])
def test_engine_uses_sizes_that_change_no_bit(exact: int, sizes: tuple[int, ...]) -> None:
    model = MeanPredictor(exact=exact)
    engine = Engine(model, "means")
    engine.warm_up(20)
    assert engine.sizes == sizes
    model.batches.clear()
    predictions = engine.predict(np.stack([pixels(value) for value in range(11)]))
    assert [answer.probabilities[1] for answer in predictions] == [value / 255 for value in range(11)]
    assert max(model.batches) <= exact
    assert sum(model.batches) == 11


def test_predictor_has_no_heat_maps() -> None:
    engine = Engine(MeanPredictor(), "means")
    assert not engine.explains
    assert not engine.has_ood
    with pytest.raises(UsageError, match="no heat maps"):
        engine.explain(pixels(1), [0])
