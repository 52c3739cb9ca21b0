import json

import pytest

from regraft.data.scan import scan
from regraft.data.sources.taxonomy_file import read_taxonomy
from regraft.data.taxonomy import Taxonomy
from regraft.errors import DataError, UsageError

TREE = Taxonomy.of({"beagle": "dog", "pug": "dog", "dog": "animal", "cat": "animal", "oak": "plant"})


@pytest.mark.parametrize(
    "value",
    [
        {"animal": {"dog": ["beagle", "pug"], "cat": []}, "plant": ["oak"]},
        {"animal": {"dog": {"beagle": {}, "pug": None}, "cat": {}}, "plant": {"oak": {}}},
        [{"animal": [{"dog": ["beagle", "pug"]}, "cat"]}, {"plant": "oak"}],
        {"beagle": "dog", "pug": "dog", "dog": "animal", "cat": "animal", "oak": "plant", "plant": None},
        {"name": "all", "children": [
            {"name": "animal", "children": [
                {"name": "dog", "children": [{"name": "beagle"}, {"name": "pug"}]}, {"name": "cat", "children": []},
            ]},
            {"name": "plant", "children": [{"name": "oak"}]},
        ]},
    ],
)  # fmt: skip
def test_json_in_every_form(tmp_path, value):
    (tmp_path / "tree.json").write_text(json.dumps(value))
    assert read_taxonomy(tmp_path / "tree.json") == TREE


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "child,parent\nbeagle,dog\npug,dog\ndog,animal\ncat,animal\noak,plant\nplant,\n"),
        ("t.tsv", "parent\tname\ndog\tbeagle\ndog\tpug\nanimal\tdog\nanimal\tcat\nplant\toak\n"),
        ("t.csv", "species,genus,family\nbeagle,dog,animal\npug,dog,animal\ncat,,animal\noak,,plant\n"),
        ("t.csv", "family;genus;species\nanimal;dog;beagle\nanimal;dog;pug\nanimal;;cat\nplant;;oak\n"),
    ],
)
def test_tables_in_every_form(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_taxonomy(str(tmp_path / name)) == TREE


def test_a_mapping_and_a_tree():
    assert read_taxonomy(TREE.parents) == TREE
    assert read_taxonomy(TREE) is TREE


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.json", "{", "is no JSON"),
        ("t.json", "[" * 200_000, "is no JSON"),
        ("t.json", "[]", "has no names"),
        ("t.json", '{"animal": [1]}', "has 1 in animal"),
        ("t.json", '{"animal": ["dog"], "plant": ["dog", "animal"]}',
         "animal is in the top level and in plant; dog is in animal and in plant"),
        ("t.json", '{"a": ["b"], "b": ["a"]}', "names in two places"),
        ("t.json", '{"a": "b", "a": "c", "d": "c"}', "has names twice in one object: a. "),
        ("t.csv", "child,parent\na,b\na,c\nb,\n", "a is in b and in c"),
        ("t.csv", "child,parent\na,b\nb,a\n", "has a circle: a in b in a"),
        ("t.csv", "child,parent\n,b\n", "line 2: no name"),
        ("t.csv", "child,parent,count\na,b,1\n", "expected a column of names and parent"),
        ("t.csv", "child\na\n", "has the column child"),
        ("t.csv", "genus,species\nA,a\nB,b\n", "genus and species have 2 names each"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_taxonomy(tmp_path / name)


def test_files_that_are_none(tmp_path):
    (tmp_path / "tree.yaml").write_text("a: b")
    for path, message in (
        (tmp_path / "none.json", "does not exist"), (tmp_path, "is a folder"), (tmp_path / "tree.yaml", "'.yaml'; exp"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            read_taxonomy(path)


def test_a_file_gives_flat_folders_and_manifests_a_tree(images, tmp_path):
    (tmp_path / "tree.json").write_text(json.dumps({"animal": {"dog": ["beagle", "pug"]}, "plant": ["oak", "elm"]}))
    root = images("beagle/1.png", "pug/1.png", "oak/1.png")
    dataset = scan(root, taxonomy=tmp_path / "tree.json")
    assert dataset.taxonomy is not None
    assert dataset.taxonomy.lineage("pug") == ("animal", "dog", "pug")
    assert "elm" not in dataset.taxonomy.parents
    (root / "m.csv").write_text("path,label\nbeagle/1.png,beagle\noak/1.png,oak\npug/1.png,pug\n")
    assert scan(root / "m.csv", taxonomy=tmp_path / "tree.json").taxonomy == dataset.taxonomy
    images("yew/1.png")
    with pytest.raises(DataError, match=r"tree.json does not fit the classes of the data:\n  yew is not in it"):
        scan(root, taxonomy=tmp_path / "tree.json")
