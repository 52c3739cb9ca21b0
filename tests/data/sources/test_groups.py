from __future__ import annotations

from pathlib import Path

import pytest

from regraft.config import load_config
from regraft.data.pooling import groups_of
from regraft.data.scan import scan
from regraft.data.split import split
from regraft.errors import DataError, UsageError


def groups(path: Path, pattern: str) -> dict[str, str | None]:
    return {s.path: s.group for s in scan(path, group_by=pattern).samples}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"patient(\d+)", ["1", "2", "2"]),
        (r"(?P<group>patient\d+)_(\d+)", ["patient1", "patient2", "patient2"]),
        (r"(patient)(\d+)(x)?", ["patient-1", "patient-2", "patient-2"]),
        (r"patient\d+", ["patient1", "patient2", "patient2"]),
        (r"^[a-z]+", ["cat", "cat", "dog"]),
    ],
)
def test_the_group_is_what_the_pattern_finds_in_the_path(images, pattern, expected):
    root = images("cat/patient1_1.png", "cat/patient2_1.png", "dog/patient2_2.png")
    assert list(groups(root, pattern).values()) == expected


def test_images_without_a_match_are_alone_and_counted(images):
    root = images("cat/p1_1.png", "cat/x.png", "dog/p2_1.png", "dog/y.png", "dog/p.png")
    assert groups(root, r"p(\d*)") == {
        "cat/p1_1.png": "1",
        "cat/x.png": None,
        "dog/p.png": None,
        "dog/p2_1.png": "2",
        "dog/y.png": None,
    }
    assert scan(root, group_by=r"p(\d*)").notes == (
        "group_by does not match 3 images, which have no group, such as cat/x.png.",
    )


def test_groups_are_never_divided(images):
    root = images(*(f"{label}/p{i // 4}_{i}.png" for label in ("cat", "dog") for i in range(40)))
    parts = split(scan(root, group_by=r"p\d+"))
    part_of: dict[str | None, set[str | None]] = {}
    for sample in parts.dataset.samples:
        part_of.setdefault(sample.group, set()).add(sample.part)
    assert len(part_of) == 10
    assert all(len(found) == 1 for found in part_of.values())


def test_a_group_in_several_parts_is_noted(images):
    root = images("train/cat/p1_1.png", "train/dog/p2_1.png", "test/cat/p1_2.png", "test/dog/p3.png")
    assert "1 group is in more than one part (a leak), for example p1." in scan(root, group_by=r"p\d").notes


def test_a_pattern_that_is_none_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UsageError, match=r"group_by='\(' is not a regular expression: .*unterminated"):
        scan(tmp_path / "nowhere", group_by="(")


def test_a_pattern_that_nothing_matches(images):
    with pytest.raises(
        DataError, match=r"group_by='patient' does not match the path of any image, such as cat/1\.png\. Expected a"
    ):
        scan(images("cat/1.png", "dog/1.png"), group_by="patient")


def test_groups_of_a_manifest_and_a_pattern_are_too_many(images):
    root = images("cat/1.png", "dog/1.png")
    (root / "m.csv").write_text("path,label,group\ncat/1.png,cat,\ndog/1.png,dog,g\n")
    with pytest.raises(UsageError, match=r"The data has groups of its own\. Remove group_by"):
        scan(root / "m.csv", group_by=r"\d")
    (root / "m.csv").write_text("path,label,group\ncat/1.png,cat,\ndog/1.png,dog,\n")
    assert set(groups(root / "m.csv", r"\d").values()) == {"1"}


def test_a_column_that_divides_the_groups_of_the_data_is_refused(images):
    root = images("1.png", "2.png", "3.png", "4.png")
    rows = ["1.png,cat,a,p", "2.png,cat,b,p", "3.png,dog,c,q", "4.png,dog,c,q"]
    (root / "m.csv").write_text("\n".join(["path,label,lesion,group", *rows]))
    with pytest.raises(UsageError, match=r"column `group`, and group_by='lesion' divides its group 'p'"):
        scan(root / "m.csv", group_by="lesion")
    found = scan(root / "m.csv", pool_by="lesion")  # whose groups stay whole beside
    assert [(s.group, s.pooled_group) for s in found.samples] == [("p", "a"), ("p", "b"), ("q", "c"), ("q", "c")]
    assert any("leaves the data's own groups whole, too, which pool_by='lesion' divides" in n for n in found.notes)
    assert scan(root / "m.csv", pool_by="lesion", classes=["cat", "dog"]).pool_by == "lesion"  # to evaluate
    assert list(groups(root / "m.csv", "group").values()) == ["p", "p", "q", "q"]
    (root / "m.csv").write_text("\n".join(["path,label,lesion,group", *(row.replace(",b", ",a") for row in rows)]))
    assert list(groups(root / "m.csv", "lesion").values()) == ["a", "a", "c", "c"]


def lesions_of(dataset) -> dict[str, tuple[str | None, str | None]]:
    return {sample.path: (sample.group, sample.pooled_group) for sample in dataset.samples}


def test_patients_and_their_lesions_are_two_columns_or_two_patterns(images):
    root = images("cat/p1_a1.png", "cat/p1_a2.png", "dog/p1_b1.png", "dog/p2_c1.png", "cat/p2_x.png")
    rows = ["cat/p1_a1.png,cat,1,a", "cat/p1_a2.png,cat,1,a", "dog/p1_b1.png,dog,1,b", "dog/p2_c1.png,dog,2,c"]
    (root / "m.csv").write_text("\n".join(["path,label,patient,lesion", *rows, "cat/p2_x.png,cat,2,"]))
    of_table = scan(root / "m.csv", group_by="patient", pool_by="lesion")
    assert lesions_of(of_table) == {
        "cat/p1_a1.png": ("1", "a"), "cat/p1_a2.png": ("1", "a"), "cat/p2_x.png": ("2", "cat/p2_x.png"),
        "dog/p1_b1.png": ("1", "b"), "dog/p2_c1.png": ("2", "c"),
    }  # fmt: skip
    assert groups_of(of_table).describe() == "4 groups of 1 to 2 pictures"
    for group_by, pool_by in ((r"p(\d)", r"_([abc])\d"), ("patient", r"_([abc])\d"), (r"p(\d)", "lesion")):
        assert lesions_of(scan(root / "m.csv", group_by=group_by, pool_by=pool_by)) == lesions_of(of_table)
    assert lesions_of(scan(root, layout="classes", group_by=r"p(\d)", pool_by=r"_([abc])\d"))["dog/p2_c1.png"] == (
        "2",
        "c",
    )
    one = scan(root / "m.csv", group_by="lesion", pool_by="lesion")
    assert lesions_of(one) == lesions_of(scan(root / "m.csv", pool_by="lesion"))
    assert lesions_of(one)["cat/p1_a1.png"] == ("a", None)
    evaluated = scan(root / "m.csv", group_by="patient", pool_by="lesion", classes=["cat", "dog"])
    assert groups_of(evaluated).names == groups_of(of_table).names


def test_a_lesion_of_two_patients_is_refused_before_an_image_is_read(images):
    root = images("1.png", "2.png", "3.png")
    (root / "m.csv").write_text("path,label,patient,lesion\n1.png,cat,p,a\n2.png,cat,q,a\n3.png,dog,q,b\n")
    read: list[int] = []
    with pytest.raises(
        DataError, match=r"'a' \(lesion\) is in several groups that .*: 1\.png has 'p' and 2\.png has 'q'"
    ):
        scan(root / "m.csv", group_by="patient", pool_by="lesion", progress=lambda done, _: read.append(done))
    assert not read
    (root / "m.csv").write_text("path,label,patient,lesion\n1.png,cat,,a\n2.png,cat,q,a\n3.png,dog,q,b\n")
    with pytest.raises(DataError, match=r"1\.png has 'none' and 2\.png has 'q'"):
        scan(root / "m.csv", group_by="patient", pool_by="lesion")
    assert scan(root / "m.csv", pool_by="lesion", classes=["cat", "dog"]).pool_by == "lesion"


def test_a_word_is_a_column_of_a_table_and_no_pattern(images):
    root = images("p1/cat.png", "p2/cat.png", "p1/dog.png", "p2/dog.png")
    rows = ["p1/cat.png,cat,1", "p2/cat.png,cat,2", "p1/dog.png,dog,3", "p2/dog.png,dog,4"]
    (root / "m.csv").write_text("\n".join(["path,label,patient id", *rows]))
    assert set(groups(root / "m.csv", "patient id").values()) == {"1", "2", "3", "4"}
    for option in ("group_by", "pool_by"):
        with pytest.raises(DataError, match=rf"no column 'png'\. {option} is one of: path, label, patient id; or"):
            scan(root / "m.csv", **{option: "png"})
        with pytest.raises(DataError, match=rf"{option}='p1' is in the paths of 2 images, which would be one group"):
            scan(root, layout="classes", **{option: "p1"})
    assert set(groups(root / "m.csv", r"p\d").values()) == {"p1", "p2"}


def test_a_pattern_that_finds_one_group_for_all_images_is_noted(images):
    root = images("cat/p1_1.png", "dog/p1_2.png")
    assert scan(root, group_by=r"p\d").notes == ("group_by finds one group, p1, which all 2 images are of.",)
    assert "one group" not in " ".join(scan(root, group_by=r"_\d").notes)


def test_the_setting_takes_a_pattern_as_it_is_written():
    assert load_config(None, [r"data.group_by=patient(\d+)"]).data.group_by == r"patient(\d+)"
    assert load_config().data.group_by == ""
