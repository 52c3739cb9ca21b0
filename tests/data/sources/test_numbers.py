"""Labels that are numbers, and columns of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.data.dataset import Dataset
from regraft.data.labels import number_text, numbers, quantile_bins
from regraft.data.scan import scan
from regraft.data.strings import Names
from regraft.errors import DataError


def table(folder: Path, text: str, count: int = 4) -> Path:
    """A manifest with this text, and the images 0.png, 1.png, ..., all different."""
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    (folder / "table.csv").write_text(text)
    return folder / "table.csv"


def test_the_only_column_of_numbers_is_found(tmp_path: Path) -> None:
    dataset = scan(table(tmp_path, "path,who,age\n0.png,ann,3\n1.png,bob,4.50\n2.png,eve,1e1\n"), task="regression")
    assert dataset.classes == ("age",)
    assert dataset.numbers.tolist() == [3.0, 4.5, 10.0]
    assert [sample.label for sample in dataset.samples] == ["3", "4.5", "10"]


def test_several_columns_of_numbers_have_to_be_named(tmp_path: Path) -> None:
    path = table(tmp_path, "path,age,weight\n0.png,3,20\n1.png,4,22\n")
    with pytest.raises(DataError, match="--label-column"):
        scan(path, task="regression")
    assert scan(path, task="regression", label_column="weight").numbers.tolist() == [20.0, 22.0]


@pytest.mark.parametrize("cell", ["1,234", "12 kg"])
def test_cells_of_columns_without_numbers_are_shown(tmp_path: Path, cell: str) -> None:
    path = table(tmp_path, f'path,who,age\n0.png,ann,3\n1.png,bob,"{cell}"\n2.png,eve,"{cell}"\n')
    with pytest.raises(DataError) as refused:
        scan(path, task="regression")
    message = str(refused.value)
    assert f"known to be the numbers: who has 'ann', age has '{cell}'; expected cells such as 1234" in message
    assert "--label-column" in message
    assert "--set data.label_column=" in message


def test_a_column_that_is_named_like_what_describes_images_is_found_if_it_is_the_only_one(tmp_path: Path) -> None:
    path = table(tmp_path, "path,size,who\n0.png,3,ann\n1.png,4,bob\n")
    assert scan(path, task="regression").classes == ("size",)
    path = table(tmp_path, "path,index,size\n0.png,0,3\n1.png,1,4\n")
    assert scan(path, task="regression").classes == ("size",)
    path = table(tmp_path, "path,size,age\n0.png,3,30\n1.png,4,40\n")
    assert scan(path, task="regression").classes == ("age",)
    assert scan(path, task="regression", label_column="size").numbers.tolist() == [3.0, 4.0]


def test_several_columns_that_describe_images_are_listed(tmp_path: Path) -> None:
    path = table(tmp_path, "path,width,height\n0.png,3,30\n1.png,4,40\n")
    with pytest.raises(DataError, match="several columns that may be the numbers: width, height"):
        scan(path, task="regression")
    path = table(tmp_path, "path,index,who\n0.png,0,ann\n1.png,1,bob\n")
    with pytest.raises(DataError, match=r"path, index, who, and none .* --label-column"):
        scan(path, task="regression")


def test_cells_that_are_no_numbers_in_a_column_of_numbers_are_errors(tmp_path: Path) -> None:
    rows = "".join(f"{i}.png,{'old' if i == 3 else i}\n" for i in range(8))
    with pytest.raises(DataError, match=r"3\.png: 'old'; expected a finite number"):
        scan(table(tmp_path, f"path,age\n{rows}", count=8), task="regression")


def test_one_number_may_be_written_in_two_ways(tmp_path: Path) -> None:
    text = "path,label\n0.png,3\n1.png,3.0\n2.png, 4\n0.png,3\n"
    dataset = scan(table(tmp_path, text), task="regression")
    assert dataset.numbers.tolist() == [3.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("0.png,3\n1.png,old\n", "1.png: 'old'; expected a finite number"),
        ("0.png,3\n1.png,nan\n", "'nan'"),
        ("0.png,3\n1.png,1e200\n", "'1e200'; expected 0, or a size from 1e-100 to 1e[+]100"),
        ("0.png,3\n1.png,-1e-200\n", "'-1e-200'; expected 0, or a size"),
        ('0.png,3\n1.png,"4,5"\n', "decimal point"),
        ("0.png,3\n1.png,\n", "no label for 1.png"),
        ("0.png,3\n1.png,3\n", "the number of every image is 3"),
    ],
)
def test_what_is_no_number_is_refused(tmp_path: Path, rows: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        scan(table(tmp_path, f"path,label\n{rows}"), task="regression")


def test_measured_numbers_are_no_classes_unless_asked(tmp_path: Path) -> None:
    rows = "".join(f"{number}.png,{number / 7:.3f}\n" for number in range(24))
    path = table(tmp_path, f"path,label\n{rows}", 24)
    with pytest.raises(DataError, match="--task regression"):
        scan(path)
    assert len(scan(path, task="classification").classes) == 24
    with pytest.raises(DataError, match="--task regression"):
        scan(
            table(tmp_path, "path;label\n" + "".join(f"{number}.png;{number // 7},{number}\n" for number in range(24)))
        )
    grades = "".join(f"{number}.png,{number % 5 + 1}\n" for number in range(24))
    assert scan(table(tmp_path, f"path,label\n{grades}", 24)).classes == ("1", "2", "3", "4", "5")


def test_large_numbers_keep_their_differences(tmp_path: Path) -> None:
    rows = "".join(f"{i}.png,{1_700_000_000 + i}\n" for i in range(4))
    targets = scan(table(tmp_path, f"path,time\n{rows}"), task="regression").targets
    assert (targets - targets[0]).ravel().tolist() == [0, 1, 2, 3]


def test_equal_numbers_have_equal_texts() -> None:
    assert [number_text(text) for text in ("3", " 3.0 ", "+3", "3e0", "-0.5", "1e30")] == [
        "3", "3", "3", "3", "-0.5", "1e+30",
    ]  # fmt: skip
    for value in np.random.default_rng(0).normal(size=100).tolist():
        assert float(number_text(repr(value))) == value
    with pytest.raises(ValueError, match="12_5"):
        number_text("12_5")


def test_bins_are_about_equally_full_and_in_order() -> None:
    values = np.random.default_rng(0).exponential(size=203)
    labels = Names.of(number_text(repr(value)) for value in values.tolist())
    bins = quantile_bins(labels)
    counts = np.bincount(bins.codes)
    assert len(counts) == 10
    assert np.ptp(counts) <= 2
    order = np.argsort(numbers(labels))
    assert (np.diff(bins.codes[order]) >= 0).all()
    assert len(np.unique(quantile_bins(Names.of(["1"] * 50)).codes)) == 1


def test_arrays_have_numbers_if_asked() -> None:
    images = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), dtype=np.uint8)
    dataset = Dataset.from_arrays(images, [1, 2.5, 2, 1.0], task="regression", quantity="grade")
    assert dataset.classes == ("grade",)
    assert dataset.targets[:, 0].tolist() == [1.0, 2.5, 2.0, 1.0]
    assert Dataset.from_arrays(images, ["1", "2", "2", "1"]).task == "classification"
    with pytest.raises(DataError, match="finite"):
        Dataset.from_arrays(images, [1, 2, float("inf"), 3], task="regression")
