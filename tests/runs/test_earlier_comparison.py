"""Two runs are compared on the held-out images of both, found by content, class by class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from regraft.atomic_io import write_csv
from regraft.data.dataset import Dataset, Sample, Split
from regraft.evaluation.comparison import difference_of
from regraft.evaluation.predictions import Predictions
from regraft.runs.earlier_comparison import _compare


def predictions(ids: list[str], labels: list[str], predicted: list[str], classes: tuple[str, ...]) -> Predictions:
    """Certain predictions of test images."""
    probabilities = np.eye(len(classes))[[classes.index(name) for name in predicted]]
    codes = np.array([classes.index(name) for name in labels])
    return Predictions(tuple(ids), codes, probabilities, classes, ("test",) * len(ids))


def test_images_are_matched_by_content_and_label(tmp_path: Path) -> None:
    rows = [("a", "cat", "test", "1" * 64), ("b", "dog", "test", "2" * 64), ("c", "dog", "test", "3" * 64),
            ("d", "dog", "train", "4" * 64), ("e", "cat", "test", "5" * 64)]  # fmt: skip
    write_csv(tmp_path / "split.csv", ("path", "label", "part", "sha256"), rows)
    before = predictions(
        ["a", "b", "c", "e"], ["cat", "dog", "dog", "cat"], ["cat", "cat", "dog", "cat"], ("cat", "dog")
    )
    samples = [Sample(f"new/{path}", label, sha256, "test") for path, label, _, sha256 in rows]
    samples[4] = Sample("new/e", "fox", "5" * 64, "test")  # has another label now
    samples.append(Sample("new/f", "fox", "6" * 64, "test"))
    split = Split(Dataset("new", tuple(samples), ("cat", "dog", "fox")))
    after = predictions(
        [sample.path for sample in samples], [sample.label for sample in samples],
        ["fox", "dog", "dog", "dog", "fox", "fox"], ("cat", "dog", "fox"),
    )  # fmt: skip
    found = _compare(tmp_path, before, split, after, "test")
    assert found is not None
    # "d" was a training image, "e" has another label, and "f" is new.
    assert (found["count"], found["relabeled"], found["as_new_class"]) == (3, 1, 1)
    assert (found["before"], found["after"]) == (2 / 3, 2 / 3)
    cat, dog = found["classes"]
    assert (cat["name"], cat["count"], cat["better"], cat["worse"]) == ("cat", 1, 0, 1)
    assert (dog["name"], dog["before"], dog["after"], dog["better"]) == ("dog", 0.5, 1.0, 1)
    assert found["p"] == difference_of(1, 1, 3).p
    assert _compare(tmp_path, before.part("val"), split, after.part("val"), "val") is None
