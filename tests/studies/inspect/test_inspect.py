from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import regraft
from regraft.cache import Cache
from regraft.data.dataset import Dataset
from regraft.studies.inspect.inspect import _correlations


def test_correlations_are_those_of_standardized_features() -> None:
    features = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32)
    features[:, 0] = 3  # a feature that does not vary
    features[1] = features[0]
    correlation = _correlations(features, np.array([(0, 1), (0, 2)]))
    assert correlation.shape == (2, 1)
    assert correlation[0, 0] == pytest.approx(1, abs=1e-5)
    assert abs(correlation[1, 0]) < 0.9


def test_labels_are_checked_only_where_they_can_be(squares: Dataset, tmp_path: Path) -> None:
    assert "Labels were not checked." in regraft.inspect(squares, labels=False).notes
    few = squares.with_samples([sample for i, sample in enumerate(squares.samples) if i % 16 < 3])
    notes = regraft.inspect(few, cache=Cache(tmp_path)).notes
    assert any("two classes with at least 5 images that can be divided" in note for note in notes)


def test_a_model_at_chance_accuses_no_label(squares: Dataset, tmp_path: Path) -> None:
    guessed = squares.with_samples([replace(s, label=squares.classes[i % 3]) for i, s in enumerate(squares.samples)])
    for _ in range(2):  # the second time from the cache
        inspection = regraft.inspect(guessed, cache=Cache(tmp_path))
        assert not any(finding.kind == "label_error" for finding in inspection.findings)
        assert any("is not clearly better than always predicting" in note for note in inspection.notes)


def test_wrong_answers_of_several_labels_are_named(several_labels: Path, tmp_path: Path) -> None:
    lines = several_labels.read_text().splitlines()
    wrong = {3: "blue", 40: "red"}  # images whose labels are exchanged for another one
    rows = [[str(several_labels.parent / line.split(",")[0]), line.split(",")[1]] for line in lines[1:]]
    for number, name in wrong.items():
        names = set(filter(None, rows[number][1].split("|"))) ^ {name}
        rows[number][1] = "|".join(sorted(names))
    (tmp_path / "wrong.csv").write_text("path,label\n" + "\n".join(map(",".join, rows)))
    for _ in range(2):  # the second time from the cache
        inspection = regraft.inspect(tmp_path / "wrong.csv", backbone="efficientnet_lite0", cache=Cache(tmp_path / "c"))
        (finding,) = (finding for finding in inspection.findings if finding.kind == "label_error")
        named = {int(Path(path).stem) for (path,) in finding.files}
        assert named & set(wrong)
        assert all("labeled" in detail for detail in finding.details)
    assert inspection.dataset.task == "multilabel"
