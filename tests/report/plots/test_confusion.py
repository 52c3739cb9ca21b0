from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.errors import DataError
from regraft.report.plots.confusion import plot_confusion

HOSTILE = [
    "$x^2$ and $y",
    "日本の猫",
    "a\nb\tc\x00",
    "n" * 300,
    "кошка",
    "قط",
    "😀",
    r"$\frac{1}{2$",
    "",
    "\u202eabc\ud800",
]


def random_confusion(classes: int) -> np.ndarray:
    rng = np.random.default_rng(classes)
    return rng.poisson(0.3, (classes, classes)) + np.diag(rng.integers(0, 50, classes))


@pytest.mark.parametrize(
    ("classes", "least", "most"),
    [(1, 300, 900), (10, 1400, 2200), (100, 2500, 3600)],
)
def test_the_size_fits_the_number_of_classes(classes: int, least: int, most: int, tmp_path: Path) -> None:
    path = tmp_path / "plots" / "confusion_matrix.png"
    plot_confusion(random_confusion(classes), [f"class {i}" for i in range(classes)], path, title="Test part")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert all(least <= side <= most for side in image.size), image.size
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_hostile_names_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "confusion.png"
    plot_confusion(random_confusion(len(HOSTILE)), HOSTILE, path, title="$" + "long " * 100)
    with Image.open(path) as image:
        assert max(image.size) < 2600


def test_a_matrix_without_images_is_drawn(tmp_path: Path) -> None:
    plot_confusion(np.zeros((3, 3), dtype=np.int64), ["a", "b", "c"], tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").exists()


@pytest.mark.parametrize(("shape", "names"), [((2, 2), ["a"]), ((2, 3), ["a", "b"]), ((0, 0), [])])
def test_a_matrix_that_does_not_fit_the_names_is_refused(
    shape: tuple[int, int], names: list[str], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="confusion matrix of shape"):
        plot_confusion(np.zeros(shape, dtype=np.int64), names, tmp_path / "confusion.png")
