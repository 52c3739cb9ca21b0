import pytest

from regraft.data.labels import LabelOptions
from regraft.data.sources.label_cells import form_of_tables
from regraft.data.sources.label_tables import find_label_table, is_table
from regraft.data.storage import Folder
from regraft.errors import DataError


def read(root, table, images=("train/a1.png", "train/b.2.png")):
    found = find_label_table(Folder(root), "data", images, [table], "train")
    if found is None:
        return None
    return found.entries(form_of_tables([(found.cells, found.columns)], "data", LabelOptions())), found.note


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "id,breed\na1,cat\nb.2,dog\n"),
        ("labels.csv", "breed, id\ncat, train/a1.png\ndog, train\\b.2.png\n"),
        ("labels.csv", "\ufefffilename,width,class\na1.png,9,cat\nb.2.png,9,dog\n"),
        ("_classes.csv", "filename, cat, dog\na1.png, 1, 0\nb.2.png, 0, 1\n"),
        ("val_annotations.txt", "a1.png\tcat\t0\t1\nb.2.png\tdog\t0\t1\n"),
    ],
)
def test_forms_of_tables(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    entries, note = read(tmp_path, name)
    assert [(e.path, e.label, e.part) for e in entries] == [
        ("train/a1.png", "cat", "train"),
        ("train/b.2.png", "dog", "train"),
    ]
    assert note == (
        "Roboflow export: labels from _classes.csv." if name == "_classes.csv" else f"Labels of train from {name}."
    )


def test_tables_without_these_images_or_without_labels_are_left_alone(tmp_path):
    (tmp_path / "labels.csv").write_text("id,breed\nother,cat\n")
    (tmp_path / "train.csv").write_text("id\na1\n")
    assert read(tmp_path, "labels.csv") is None
    assert read(tmp_path, "train.csv") is None


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("id,color,shape\na1,red,round\n", "several columns that may be the labels: color, shape"),
        ("id,cat,dog\na1,1,1\nb.2,0,0\n", "line 2: 2 labels: cat, dog; expected one class"),
        ("id,label\na1,cat\na1,dog\n", "line 3: train/a1.png is 'dog', but 'cat' in line 2"),
        ("id,label\na1,cat\nb.2,\n", "line 3: no label for train/b.2.png"),
    ],
)
def test_ambiguous_labels_are_refused(tmp_path, text, error):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=error):
        read(tmp_path, "labels.csv")


def test_images_without_a_row_and_rows_without_an_image_are_said(tmp_path):
    (tmp_path / "labels.csv").write_text("id,label\na1,cat\nunknown,dog\n")
    expected = "Labels of train from labels.csv. It does not name 1 image. 1 of its rows names no image there."
    assert read(tmp_path, "labels.csv")[1] == expected


def test_names_of_tables():
    assert all(is_table(name, ["val"]) for name in ("labels.csv", "a/val.csv", "LOC_val_solution.csv", "_classes.csv"))
    assert not any(is_table(name, ["val"]) for name in ("train.csv", "sample_submission.csv", "val.json", "valid.csv"))
