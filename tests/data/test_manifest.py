import builtins
import csv
import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.data.manifest import ManifestRow, read_manifest
from regraft.errors import DataError, MissingExtraError

Manifest = Callable[..., Path]


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    def write(text: str | bytes, name: str = "manifest.csv") -> Path:
        file = tmp_path / name
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    return write


def rows(path: Path) -> list[tuple[str, str, str | None, str | None]]:
    return [(row.path, row.label, row.part, row.group) for row in read_manifest(path)]


def test_path_and_label_are_enough(manifest):
    assert read_manifest(manifest("path,label\na.jpg,cat\nb/c.jpg,dog\n")) == [
        ManifestRow("a.jpg", "cat", None, None),
        ManifestRow("b/c.jpg", "dog", None, None),
    ]


def test_all_columns_in_any_order_and_case(manifest):
    file = manifest("Group,weight,SPLIT, Label ,path\ng1,7,train,cat,a.jpg\n,8,Validation,dog,b.jpg\n")
    assert rows(file) == [("a.jpg", "cat", "train", "g1"), ("b.jpg", "dog", "val", None)]


@pytest.mark.parametrize(
    ("written", "part"),
    [
        ("train", "train"),
        ("TRAINING", "train"),
        ("valid", "val"),
        ("dev", "val"),
        (" Test ", "test"),
        ("testing", "test"),
    ],
)
def test_parts_have_several_spellings(manifest, written, part):
    assert rows(manifest(f"path,label,split\na.jpg,cat,{written}\n")) == [("a.jpg", "cat", part, None)]


def test_part_is_accepted_for_split_and_split_is_preferred(manifest):
    assert rows(manifest("path,label,part\na.jpg,cat,val\n")) == [("a.jpg", "cat", "val", None)]
    assert rows(manifest("path,label,part,split\na.jpg,cat,val,test\n")) == [("a.jpg", "cat", "test", None)]


def test_a_byte_order_mark_and_windows_line_ends_are_read(manifest):
    assert rows(manifest(b"\xef\xbb\xbfpath,label\r\na.jpg,cat\r\n")) == [("a.jpg", "cat", None, None)]


def test_blanks_around_cells_are_not_part_of_a_class_name(manifest):
    file = manifest("path, label, split, group\na.jpg , cat , train , g\nb.jpg,cat,train, \n")
    (file.parent / "a.jpg").touch()
    assert rows(file) == [("a.jpg", "cat", "train", "g"), ("b.jpg", "cat", "train", None)]


def test_blank_lines_are_left_out_and_still_counted(manifest):
    assert rows(manifest("path,label\n\na.jpg,cat\n , \nb.jpg,dog\n\n")) == [
        ("a.jpg", "cat", None, None),
        ("b.jpg", "dog", None, None),
    ]
    with pytest.raises(DataError, match=r"row 4: no label for a\.jpg"):
        read_manifest(manifest("path,label\n\n\na.jpg,\n"))


def test_a_path_has_one_spelling(manifest):
    file = manifest("path,label\n./cats//a.jpg,cat\ncats\\b.jpg,cat\nmissing\\c.jpg,dog\n")
    folder = file.parent / "cats"
    folder.mkdir()
    (folder / "b.jpg").touch()
    assert [row.path for row in read_manifest(file)] == [
        "cats/a.jpg",
        "cats/b.jpg",
        Path("missing\\c.jpg").as_posix(),
    ]


def test_a_name_that_has_a_backslash_or_a_blank_is_left_alone(manifest):
    file = manifest("path,label\nodd\\name.jpg,cat\n a.jpg,cat\n")
    for name in ("odd\\name.jpg", " a.jpg"):
        file.with_name(name).touch()
    assert [row.path for row in read_manifest(file)] == [Path("odd\\name.jpg").as_posix(), " a.jpg"]


def test_absolute_paths_stay_absolute(manifest, tmp_path):
    path = (tmp_path / "a.jpg").as_posix()
    assert rows(manifest(f"path,label\n{path},cat\n")) == [(path, "cat", None, None)]


def test_all_faults_are_reported_at_once(manifest):
    file = manifest(
        "path,label,split,group\n"
        "a.jpg,cat,train,g1\n"
        ",cat,train,\n"
        "b.jpg,,train,\n"
        "c.jpg,cat,holdout,\n"
        "./a.jpg,dog,train,\n"
        "d.jpg,cat,test,g1\n"
        "e.jpg\n"
    )
    with pytest.raises(DataError) as error:
        read_manifest(file)
    assert str(error.value).splitlines() == [
        f"{file} has 6 faults:",
        "  row 3: no path",
        "  row 4: no label for b.jpg",
        "  row 5: split 'holdout'; expected train, val or test",
        "  row 6: a.jpg again, first in row 2",
        "  row 7: group 'g1' in test, before in train; expected one part",
        "  row 8: no label for e.jpg",
    ]


def test_many_faults_are_counted_and_ten_are_shown(manifest):
    file = manifest("path,label\n" + "a.jpg,\n" * 13)
    with pytest.raises(DataError) as error:
        read_manifest(file)
    lines = str(error.value).splitlines()
    assert lines[0].endswith("has 13 faults:")
    assert lines[-1] == "  and 3 more"
    assert len(lines) == 12
    with pytest.raises(DataError, match="has 1 fault:"):
        read_manifest(manifest("path,label\na.jpg,\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has the columns \(none\) but not path and label. Expected: path,label\[,split\]\[,group\]"),
        ("file,label\na.jpg,cat\n", r"has the columns file, label but not path\. Expected: path,label"),
        ("path;label\na.jpg;cat\n", r"has the columns path;label but not path and label"),
        ("path,label\n", r"has no rows\. Expected one for each image"),
        ("path,label,Label\na.jpg,cat,dog\n", r"several columns named label\. Keep one"),
        ("path,label,path\na.jpg,cat,b.jpg\n", r"several columns named path\. Keep one"),
        ("path,label\ncaf\xe9.jpg,cat\n".encode("latin-1"), r"cannot be read as CSV in UTF-8"),
        ("path,label\na.jpg,cat\n".encode("utf-16"), r"cannot be read as CSV in UTF-8"),
        ('path,label\n"' + "a" * 200_000 + '",cat\n', r"cannot be read as CSV in UTF-8: field larger"),
    ],
)
def test_a_table_that_is_no_manifest(manifest, text, message):
    file = manifest(text)
    with pytest.raises(DataError, match=message) as error:
        read_manifest(file)
    assert str(file) in str(error.value)


def test_a_column_of_no_meaning_may_come_twice(manifest):
    assert rows(manifest("path,label,note,note\na.jpg,cat,1,2\n")) == [("a.jpg", "cat", None, None)]


@given(
    st.dictionaries(
        st.text(
            st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="/\\"),
            min_size=1,
        ),
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_text_comes_through_csv(tmp_path_factory, table):
    table = {path: label for path, label in table.items() if path.strip().strip(".") and label.strip()}
    if not table:
        table = {"a": "b"}
    file = tmp_path_factory.mktemp("any") / "manifest.csv"
    with file.open("w", newline="", encoding="utf-8") as text:
        csv.writer(text).writerows([("path", "label"), *table.items()])
    assert [(row.path, row.label) for row in read_manifest(file)] == [
        (Path(path).as_posix(), label.strip()) for path, label in table.items()
    ]


def test_parquet_is_read_like_csv(tmp_path):
    pyarrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    table = {
        "path": ["a.jpg", "b.jpg", "c.jpg"],
        "label": [3, 1, 3],
        "split": ["train", "valid", None],
        "group": [None, "g", None],
    }
    file = tmp_path / "manifest.parquet"
    parquet.write_table(pyarrow.table(table), file)
    assert rows(file) == [
        ("a.jpg", "3", "train", None),
        ("b.jpg", "1", "val", "g"),
        ("c.jpg", "3", None, None),
    ]
    parquet.write_table(pyarrow.table({"path": ["a.jpg"], "label": pyarrow.array([None], pyarrow.string())}), file)
    with pytest.raises(DataError, match=r"no label for a\.jpg"):
        read_manifest(file)
    parquet.write_table(pyarrow.table({"path": pyarrow.array([], pyarrow.string()), "label": []}), file)
    with pytest.raises(DataError, match="has no rows"):
        read_manifest(file)


def test_a_file_that_is_no_parquet(manifest):
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_manifest(manifest("path,label\na.jpg,cat\n", "manifest.parquet"))


def test_without_pyarrow_the_error_says_how_to_install_it(manifest, monkeypatch):
    def refuse(name: str, package: str | None = None) -> object:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(MissingExtraError, match=r"needs the extra 'parquet'. Install it with: pip install"):
        read_manifest(manifest(b"PAR1", "manifest.parquet"))


def test_csv_needs_no_pyarrow(manifest, monkeypatch):
    real = builtins.__import__

    def refuse(name: str, *args: object, **options: object) -> object:
        assert not name.startswith("pyarrow")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert len(read_manifest(manifest("path,label\na.jpg,cat\n"))) == 1
