"""Columns of the tables that people have."""

from __future__ import annotations

import pytest

from regraft.data.sources.columns import ColumnFinder
from regraft.data.sources.manifest import PART_NAMES
from regraft.data.sources.table import read_cells
from regraft.errors import DataError


def find(text, exists=lambda _: False, **given):
    """Names of the columns of images and of labels, of the split, and the notes."""
    cells = read_cells("m.csv", text.encode())
    found = ColumnFinder("m.csv", cells, PART_NAMES, exists).find(**given)
    name = [column.strip() for column in cells.columns].__getitem__
    split = None if found.split is None else name(found.split)
    return name(found.image), [name(i) for i in found.labels], split, found.notes


@pytest.mark.parametrize(
    ("text", "image", "label"),
    [
        ("path,label,class\na.jpg,cat,7\n", "path", "label"),
        ("id,breed\n000be,boxer\n", "id", "breed"),
        ("file_name,category\na.jpg,cat\n", "file_name", "category"),
        ("Filename;Width;Roi.X1;ClassId\n0.ppm;29;5;0\n", "Filename", "ClassId"),
        ("Image Index,Finding Labels,Age\na.png,X,3\n", "Image Index", "Finding Labels"),
        (",image,target\n0,a.jpg,cat\n", "image", "target"),
        ("image_id,filename,species\n1,a.jpg,cat\n", "filename", "species"),
        ("class_id,files,class_name\n0,a.jpg,cat\n1,b.jpg,dog\n", "files", "class_name"),
        ("photo no,finding\na.jpg,cat\nb.jpg,dog\n", "photo no", "finding"),
        ("filename,width,height,finding,xmin\na.jpg,1,2,cat,3\nb.jpg,1,2,dog,3\n", "filename", "finding"),
    ],
)
def test_one_column_of_labels(text, image, label):
    assert find(text)[:2] == (image, [label])


def test_what_is_recognized_is_said():
    assert find("path,label\na.jpg,cat\n")[3] == []
    assert find("id,breed\n1,boxer\n")[3] == ["m.csv: images from the column 'id' and labels from the column 'breed'."]


def test_a_column_for_each_class():
    text = "filename, cat, dog, _unlabeled\na.jpg, 1, 0, 0\nb.jpg, 0, 1.0, 0\n"
    image, labels, _, notes = find(text)
    assert (image, labels) == ("filename", ["cat", "dog", "_unlabeled"])
    assert notes == [
        "m.csv: images from the column 'filename' and labels from the columns cat, dog, _unlabeled, which have 0 and 1."
    ]
    assert find("path,cat,dog\na.jpg,TRUE,FALSE\nb.jpg,false,true\n")[1] == ["cat", "dog"]
    assert find("path,age,cat,dog\na.jpg,30,1,0\n", label_column="cat, dog")[1] == ["cat", "dog"]


def test_parts_by_their_values():
    text = "filepaths,labels,data set\ntrain/1.jpg,cat,train\ntest/2.jpg,dog,test\n"
    assert find(text)[2:] == (
        "data set",
        [
            "m.csv: images from the column 'filepaths' and labels from the column 'labels'.",
            "m.csv: parts from the column 'data set'.",
        ],
    )
    assert find("path,label,part,split\na.jpg,cat,val,test\n")[2] == "split"
    assert find("path,label,is_train\na.jpg,cat,1\nb.jpg,cat,0\n")[2:] == (
        None, ["m.csv: the data has no parts; the values of is_train are not train, val and test."]
    )  # fmt: skip


def test_the_column_whose_files_exist_is_chosen():
    text = "image,img_path,label\na.jpg,x/a.jpg,cat\n"
    assert find(text, lambda name: name == "x/a.jpg")[0] == "img_path"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg,cat\nb.jpg,dog\n", r"begins with 'a\.jpg,cat', a row and not a header\. Add a first line"),
        ("x,label\n1,cat\n", r"has the columns x, label, and none that is known to be the paths of the images"),
        (
            "image,img,label\na.jpg,b.jpg,c\n",
            r"may be the paths of the images: image, img\. Name one by --image-column",
        ),
        ("path,class,breed\na.jpg,x,1\nb.jpg,y,1\n", r"may be the labels: class, breed\. Name one by --label-column"),
        ("path,age,dx\na.jpg,3,nv\n", r"may be the labels: age, dx\. Name one by --label-column \(label_column= in Py"),
        ("path,cat,dog\na.jpg,yes,no\n", r"cat, dog\. Name one(.|\n)*Columns that are labels together have 0 and 1"),
        ("path,cat,dog,cat\na.jpg,1,0,1\nb.jpg,0,1,0\n", r"several columns of one name: cat, dog, cat\. Keep one"),
        ("path,age\n" + "".join(f"{i}.jpg,{i}.5\n" for i in range(20)), r"each row(.|\n)*use --task regression"),
        ("path,split\na.jpg,train\n", r"none that is known to be the labels"),
        ("path,caption\n" + "".join(f"{i}.jpg,c{i}\n" for i in range(20)), r"has another value in each row"),
        ("path,label,path\na.jpg,cat,b.jpg\n", r"several columns named path"),
        ("path,label,a,b\na.jpg,x,train,test\nb.jpg,y,test,train\n", r"several columns with parts: a, b"),
    ],
)
def test_what_is_unclear_is_refused(text, message):
    with pytest.raises(DataError, match=message):
        find(text)


def test_columns_that_are_given():
    text = "image_id,Lesion,dx,age\na,l1,nv,3\nb,l2,mel,3\n"
    assert find(text, image_column="image_id", label_column="DX")[:2] == ("image_id", ["dx"])
    with pytest.raises(DataError, match=r"has no column 'kind'\. label_column is one of: image_id, Lesion, dx, age"):
        find(text, label_column="kind")
