import builtins
import csv
import importlib
import random
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from regraft.data.sources.manifest import ImageEntry, parse_manifest, read_manifest
from regraft.data.storage import Folder
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
    return [(row.path, row.label, row.part, row.group) for row in read_manifest(path).rows]


def test_path_and_label_are_enough(manifest):
    assert read_manifest(manifest("path,label\na.jpg,cat\nb/c.jpg,dog\n")).rows == [
        ImageEntry("a.jpg", "cat", None, None),
        ImageEntry("b/c.jpg", "dog", None, None),
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
    with pytest.raises(DataError, match=r"line 4: no label for a\.jpg"):
        read_manifest(manifest("path,label\n\n\na.jpg,\n"))


def test_a_path_has_one_spelling(manifest):
    file = manifest("path,label\n./cats//a.jpg,cat\ncats\\b.jpg,cat\nmissing\\c.jpg,dog\n")
    folder = file.parent / "cats"
    folder.mkdir()
    (folder / "b.jpg").touch()
    assert [row.path for row in read_manifest(file).rows] == [
        "cats/a.jpg",
        "cats/b.jpg",
        Path("missing\\c.jpg").as_posix(),
    ]


def test_a_name_that_has_a_backslash_or_a_blank_is_left_alone(manifest):
    file = manifest("path,label\nodd\\name.jpg,cat\n a.jpg,cat\n")
    for name in ("odd\\name.jpg", " a.jpg"):
        file.with_name(name).touch()
    assert [row.path for row in read_manifest(file).rows] == [Path("odd\\name.jpg").as_posix(), " a.jpg"]


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
    )
    with pytest.raises(DataError) as error:
        read_manifest(file)
    assert str(error.value).splitlines() == [
        f"{file} has 5 errors:",
        "  line 3: no path",
        "  line 4: no label for b.jpg",
        "  line 5: split 'holdout'; expected train, val or test",
        "  line 6: a.jpg is 'dog', but 'cat' in line 2; expected one label",
        "  line 7: group 'g1' in test, before in train; expected one part",
        "If an image may have several labels, or none, use --task multilabel (task= in Python).",
    ]


def test_many_faults_are_counted_and_ten_are_shown(manifest):
    file = manifest("path,label\n" + "a.jpg,\n" * 13)
    with pytest.raises(DataError) as error:
        read_manifest(file)
    lines = str(error.value).splitlines()
    assert lines[0].endswith("has 13 errors:")
    assert lines[-2] == "  and 3 more"
    assert "or none, use --task multilabel" in lines[-1]
    assert len(lines) == 13
    with pytest.raises(DataError, match="has 1 error:"):
        read_manifest(manifest("path,label\na.jpg,\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"is empty\. Expected a first line with the names of the columns, such as path,label"),
        ("path,label\n", r"has no rows\. Expected one for each image"),
        ("path,label,Label\na.jpg,cat,dog\n", r"several columns named label\. Keep one"),
        ("path,label,path\na.jpg,cat,b.jpg\n", r"several columns named path\. Keep one"),
        (b"PK\x03\x04\x14\x00", r"is a workbook or a zip archive\. Save the table as CSV"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00", r"is not text in UTF-8, UTF-16 or Windows-1252"),
        (b"path,label\ncaf\x81.jpg,cat\n", r"is not text in UTF-8, UTF-16 or Windows-1252"),
    ],
)
def test_a_table_that_is_no_manifest(manifest, text, message):
    file = manifest(text)
    with pytest.raises(DataError, match=message) as error:
        read_manifest(file)
    assert str(file) in str(error.value)


def test_a_column_of_no_meaning_may_come_twice(manifest):
    assert rows(manifest("path,label,note,note\na.jpg,cat,1,2\n")) == [("a.jpg", "cat", None, None)]


def found(path: Path, *files: str, **columns: str) -> tuple[dict[str, str], list[str]]:
    """Labels by path, and notes, where these files are beside the manifest."""
    for file in files:
        (path.parent / file).parent.mkdir(parents=True, exist_ok=True)
        (path.parent / file).touch()
    read = read_manifest(path, **columns)
    return {row.path: row.label for row in read.rows}, [note.replace(f"{path}: ", "") for note in read.notes]


def test_names_without_folder_and_extension_are_found(manifest):
    file = manifest("id,breed\n000be,boxer\n007,pug\nc.png,pug\n")
    labels, notes = found(file, "train/000be.jpg", "train/007.JPG", "test/c.png", "train/c.txt")
    assert labels == {"train/000be.jpg": "boxer", "train/007.JPG": "pug", "test/c.png": "pug"}
    assert notes[1] == "3 images found by the ends of the paths, for example 000be as train/000be.jpg."


def test_a_name_that_two_files_have_is_refused(manifest):
    with pytest.raises(DataError, match=r"line 2: 0 may be test/0\.jpg or train/0\.jpg; expected one file"):
        found(manifest("id,label\n0,cat\n1,dog\n"), "train/0.jpg", "test/0.jpg", "train/1.jpg")


def test_paths_of_another_machine(manifest):
    text = "path,label\nC:\\data\\photos\\cat\\1.jpg,cat\n/home/me/photos/dog/1.jpg,dog\nphotos/pig/1.jpg,pig\n"
    labels, _ = found(manifest(text), "cat/1.jpg", "dog/1.jpg", "pig/1.jpg")
    assert labels == {"cat/1.jpg": "cat", "dog/1.jpg": "dog", "pig/1.jpg": "pig"}


def test_a_file_of_another_folder_is_not_taken(manifest):
    labels, notes = found(manifest("path,label\nC:\\cat\\1.jpg,cat\npig/1.jpg,pig\n"), "dog/1.jpg", "1.png")
    assert (list(labels), notes) == ([Path("C:\\cat\\1.jpg").as_posix(), "pig/1.jpg"], [])
    assert list(found(manifest("path,label\ntest/1.jpg,cat\n"), "1.jpg")[0]) == ["test/1.jpg"]


def test_a_folder_is_not_the_file_of_an_id(manifest):
    assert found(manifest("id,label\n001,cat\n"), "001/x.txt", "all/001.jpg")[0] == {"all/001.jpg": "cat"}


def test_words_for_nothing_and_zeros_are_labels(manifest):
    words = ["NA", "None", "nan", "null", "007", "7", "#N/A"]
    text = "path,label\n" + "".join(f"{i}.jpg,{word}\n" for i, word in enumerate(words))
    assert [row[1] for row in rows(manifest(text))] == words


def test_a_repeated_row_is_ignored_and_said(manifest):
    labels, notes = found(manifest("path,label\na.jpg,cat\n./a.jpg, cat\nb.jpg,dog\n"))
    assert (labels, notes) == ({"a.jpg": "cat", "b.jpg": "dog"}, ["1 row repeated and ignored."])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,label,split\na.jpg,cat,train\na.jpg,cat,test\n",
            r"line 3: a\.jpg again, with another split or group than",
        ),
        ("path,label\na.jpg,1\nb.jpg,1.0\n", r"line 3: label '1\.0', and '1' in line 2; expected one spelling"),
        ("path,label\na.jpg,cat\nb.jpg,\u201ccat\u201d\n", r"line 3: label '\u201ccat\u201d', and 'cat' in line 2"),
        ("path,label\na.jpg,x\nb.jpg,y\nc.jpg,x|y\n", r"line 4: several labels: x\|y; expected one class"),
        ("path,label\na.jpg,x y\nb.jpg,y\nc.jpg,x\n", r"line 2: several labels: x y; expected one class"),
        ("path,label\na.jpg,\"['x', 'y']\"\nb.jpg,y\n", r"line 2: several labels: \['x', 'y'\]; expected one class"),
        ("path,label\na.jpg,cat;\nb.jpg,cat\n", r"line 2: label 'cat;', and 'cat' in line 3; expected one spelling"),
        ("path,cat,dog\na.jpg,1,1\nb.jpg,0,1\n", r"line 2: 2 labels: cat, dog; expected one class for an image"),
        ("path,cat,dog\na.jpg,1,0\nb.jpg,0,0\n", r"line 3: no label: no class has a 1; expected one class"),
        ("path,cat,dog\na.jpg,1,0\nb.jpg,0,2\nc.jpg,0,1\n", r"line 3: '2' in the column dog; expected 0 or 1"),
        ('path,label\n"a.jpg","cat\nblack"\n', r"line 2: a line break in 'a\.jpg,cat\\nblack'; is a quote missing\?"),
    ],
)
def test_rows_with_two_meanings_are_refused(manifest, text, message):
    with pytest.raises(DataError, match=message):
        read_manifest(manifest(text))


@given(
    st.dictionaries(
        st.text(
            st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="/\\"),
            min_size=1,
        ),
        # Without what may divide several labels, and without digits, because 0 and 0.0 are two spellings of a number.
        st.text(
            st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Nd"], exclude_characters=",;|"), min_size=1
        ),
        min_size=1,
        max_size=6,
    )
)
@example({"1,2": 'a "grey", old cat', "a;b": "7 of 9"})
@settings(max_examples=60, deadline=None)
def test_any_text_comes_through_csv(tmp_path_factory, table):
    table = {path: label for path, label in table.items() if path.strip().strip(".") and label.strip()}
    if not table:
        table = {"a": "b"}
    file = tmp_path_factory.mktemp("any") / "manifest.csv"
    with file.open("w", newline="", encoding="utf-8") as text:
        csv.writer(text).writerows([("path", "label"), *table.items()])
    assert [(row.path, row.label) for row in read_manifest(file).rows] == [
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
    assert len(read_manifest(manifest("path,label\na.jpg,cat\n")).rows) == 1


def test_a_stray_character_never_changes_other_rows(tmp_path):
    rng = random.Random(0)
    table = {f"{label}/{i}.jpg": label for i in range(4) for label in ("cat", "dog", "pig")}
    text = "path,label,note\n" + "".join(f'{path},{label},"a, b"\n' for path, label in table.items())
    for _ in range(400):
        at = rng.randrange(text.index("\n") + 1, len(text))
        changed = text[:at] + rng.choice('",;\t\n') + text[at:]
        with suppress(DataError):
            read = {row.path: row.label for row in parse_manifest("m.csv", changed.encode(), Folder(tmp_path)).rows}
            assert sum(read.get(path) != label for path, label in table.items()) <= 1, changed


@pytest.mark.parametrize(("written", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_may_be_in_another_unicode_form(tmp_path, written, stored):
    names = {form: unicodedata.normalize(form, "caf\u00e9/\u00e9l\u00e8ve.jpg") for form in (written, stored)}
    (tmp_path / names[stored]).parent.mkdir()
    (tmp_path / names[stored]).touch()
    (tmp_path / "m.csv").write_text(f"path,label\n{names[written]},a\n", encoding="utf-8")
    assert [row.path for row in read_manifest(tmp_path / "m.csv").rows] == [names[stored]]
