from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from regraft.errors import DataError, MissingExtraError
from regraft.evaluation import stored_predictions
from regraft.evaluation.predictions import Predictions
from regraft.evaluation.stored_predictions import find_predictions, read_predictions, write_predictions


def predictions(count: int = 6) -> Predictions:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), count)
    ids = tuple(f"ä/{i}.jpg" for i in range(count))
    parts = tuple(("val", "test", "")[i % 3] for i in range(count))
    return Predictions(ids, rng.integers(0, 2, count), probabilities, ("b", "a", "never, seen"), parts)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_predictions, "MANY_ROWS", 5)


def same(first: Predictions, second: Predictions) -> bool:
    return (
        (first.ids, first.classes, first.parts) == (second.ids, second.classes, second.parts)
        and np.array_equal(first.labels, second.labels)
        and np.array_equal(first.probabilities, second.probabilities)
    )


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("count", "name"), [(5, "predictions.csv"), (6, "predictions.parquet")])
def test_the_number_of_rows_decides_on_the_file_and_nothing_is_lost(tmp_path: Path, count: int, name: str) -> None:
    assert find_predictions(tmp_path) is None
    for size in (11 - count, count):  # the other file first, which must not stay beside the new one
        assert write_predictions(predictions(size), tmp_path) == ""
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert find_predictions(tmp_path) == tmp_path / name
    assert same(read_predictions(tmp_path / name), predictions(count))


@pytest.mark.usefixtures("few")
def test_the_table_has_the_columns_of_the_csv_file(tmp_path: Path) -> None:
    write_predictions(predictions(), tmp_path)
    table = pyarrow.parquet.read_table(tmp_path / "predictions.parquet")
    assert table.column_names == ["id", "label", "predicted", "part", "p(b)", "p(a)", "p(never, seen)"]
    expected = [predictions().classes[i] for i in predictions().predicted]
    assert table["predicted"].to_pylist() == expected


@pytest.mark.usefixtures("few")
def test_without_the_extra_they_are_a_csv_file_and_a_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_predictions(predictions(), tmp_path)
    kept = (tmp_path / "predictions.parquet").rename(tmp_path / "kept.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    note = write_predictions(predictions(), tmp_path)
    assert "pip install 'regraft[parquet]'" in note
    assert same(read_predictions(tmp_path / "predictions.csv"), predictions())
    with pytest.raises(MissingExtraError, match=r"regraft\[parquet\]"):
        read_predictions(kept)


@pytest.mark.usefixtures("few")
def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "predictions.parquet"
    file.write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="cannot be read as predictions"):
        read_predictions(file)
    write_predictions(predictions(), tmp_path)
    table = pyarrow.parquet.read_table(file)
    pyarrow.parquet.write_table(table.drop_columns(["label"]), file)
    with pytest.raises(DataError, match="has the columns id, predicted"):
        read_predictions(file)
    changed = table.set_column(1, "label", pyarrow.array(["other"] * 6))
    pyarrow.parquet.write_table(changed, file)
    with pytest.raises(DataError, match="label 'other'; expected one of b, a"):
        read_predictions(file)
    missing = table.set_column(1, "label", pyarrow.array([None] * 6, pyarrow.string()))
    pyarrow.parquet.write_table(missing, file)
    with pytest.raises(DataError, match="row without a label"):
        read_predictions(file)
