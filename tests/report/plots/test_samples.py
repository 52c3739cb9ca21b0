from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from regraft.errors import DataError
from regraft.evaluation.predictions import Predictions
from regraft.report.plots.samples import SampleTile, choose_samples, plot_samples


def random_predictions(seed: int, count: int, classes: int) -> Predictions:
    rng = np.random.default_rng(seed)
    return Predictions.from_arrays(
        rng.integers(0, classes, count), rng.dirichlet(np.full(classes, 0.5), count).reshape(count, classes)
    )


@given(st.integers(0, 1000), st.integers(0, 60), st.integers(1, 12), st.integers(0, 30))
def test_the_choice_mixes_correct_and_wrong_without_repeats(seed: int, count: int, classes: int, limit: int) -> None:
    predictions = random_predictions(seed, count, classes)
    chosen = choose_samples(predictions, limit)
    right = predictions.predicted == predictions.labels
    wrong = [i for i in chosen if not right[i]]
    assert chosen == choose_samples(predictions, limit)
    assert len(set(chosen)) == len(chosen) <= limit
    assert len(wrong) == min(limit // 2, int((~right).sum()))
    assert len(chosen) - len(wrong) == min(limit - len(wrong), int(right.sum()))
    others = set(np.flatnonzero(~right).tolist()) - set(wrong)
    assert all(predictions.confidence[i] >= predictions.confidence[j] for i in wrong for j in others)


def test_correct_predictions_are_spread_over_the_classes() -> None:
    labels = np.repeat(np.arange(20), 5)
    predictions = Predictions.from_arrays(labels, np.eye(20)[labels])
    few = predictions.labels[choose_samples(predictions, 4)]
    assert few.tolist() == [0, 5, 10, 15]
    many = predictions.labels[choose_samples(predictions, 50)]
    assert set(np.bincount(many).tolist()) == {2, 3}


def tile(height: int, width: int, label: str = "cat", predicted: str = "dog") -> SampleTile:
    return SampleTile(np.full((height, width, 3), 120, dtype=np.uint8), label, predicted, 0.97)


@pytest.mark.parametrize("count", [1, 5, 30])
def test_every_number_of_tiles_is_drawn(count: int, tmp_path: Path) -> None:
    path = tmp_path / "plots" / "sample_predictions.png"
    plot_samples([tile(20, 30)] * count, path, title="Samples")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert 400 < image.width < 3000
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("predicted", "color"), [("cat", (0x00, 0x9E, 0x73)), ("dog", (0xCC, 0x33, 0x11))])
def test_the_frame_shows_whether_the_prediction_is_correct(
    predicted: str, color: tuple[int, int, int], tmp_path: Path
) -> None:
    plot_samples([tile(32, 32, "cat", predicted)], tmp_path / "samples.png")
    with Image.open(tmp_path / "samples.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels == color).all(axis=2).sum() > 5000


def test_hostile_names_and_shapes_are_drawn(tmp_path: Path) -> None:
    tiles = [
        tile(1, 1, "$x$", "\ud800\n"),
        tile(300, 2, "n" * 300, "日本" * 50),
        tile(2, 300, "", "😀"),
        tile(5, 5, "a" * 99, "a" * 99),
    ]
    plot_samples(tiles, tmp_path / "samples.png", title="$" * 300)
    with Image.open(tmp_path / "samples.png") as image:
        assert image.width < 2600


def test_no_tiles_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 images"):
        plot_samples([], tmp_path / "samples.png")
