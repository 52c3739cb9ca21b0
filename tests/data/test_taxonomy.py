import itertools
import pickle

import numpy as np
import pytest

from regraft.data.dataset import Dataset
from regraft.data.taxonomy import Taxonomy, check_parents
from regraft.errors import DataError

PARENTS = {"beagle": "dog", "pug": "dog", "dog": "animal", "cat": "animal", "oak": "plant"}


@pytest.fixture
def tree() -> Taxonomy:
    return Taxonomy.of(PARENTS)


def test_the_leaves_are_the_classes_and_the_other_nodes_are_above_them(tree):
    assert tree.classes == ("beagle", "cat", "oak", "pug")
    assert tree.inner == ("animal", "dog", "plant")
    assert tree.nodes == ("beagle", "cat", "oak", "pug", "dog", "animal", "plant")
    assert tree.depth == 3
    assert tree.lineage("beagle") == ("animal", "dog", "beagle")
    assert [*tree.walk()] == [
        ("animal", 0), ("cat", 1), ("dog", 1), ("beagle", 2), ("pug", 2), ("plant", 0), ("oak", 1),
    ]  # fmt: skip


def test_every_node_comes_before_its_parent_and_only_the_top_has_none(tree):
    for node, parent in enumerate(tree.parent_numbers.tolist()):
        assert parent > node or parent == -1
        assert (parent == -1) == (tree.parents[tree.nodes[node]] is None)


def test_ancestors_are_those_of_the_lineages(tree):
    for (i, one), (j, other) in itertools.product(enumerate(tree.nodes), repeat=2):
        assert tree.ancestors[i, j] == (other in tree.lineage(one))


def test_a_class_above_a_level_stands_for_itself_there(tree):
    assert tree.at_level(1)[0] == ("animal", "plant")
    names, of_class = tree.at_level(2)
    assert [names[i] for i in of_class] == ["dog", "cat", "oak", "dog"]
    names, of_class = tree.at_level(3)
    assert [names[i] for i in of_class] == list(tree.classes)


def test_nodes_above_every_class_or_above_none_are_left_out():
    tree = Taxonomy.of({**PARENTS, "animal": "thing", "plant": "thing", "thing": "all"})
    assert tree == Taxonomy.of(PARENTS)
    animals = tree.with_classes(("beagle", "cat", "pug"))
    assert animals.parents == {"beagle": "dog", "cat": None, "dog": None, "pug": "dog"}


def test_a_tree_travels_through_json_and_pickle(tree):
    assert Taxonomy.from_json(tree.to_json(), tree.classes) == tree
    assert Taxonomy.from_json(None, tree.classes) is None
    assert pickle.loads(pickle.dumps(tree)) == tree
    for damaged in ([], {}, {"beagle": 1}, "animal"):
        with pytest.raises(DataError, match="expected"):
            Taxonomy.from_json(damaged, tree.classes)


def test_all_that_does_not_fit_is_said_at_once():
    with pytest.raises(DataError) as error:
        Taxonomy.of(PARENTS, ("beagel", "dog", "oak", "yew"), name="tree.json")
    text = str(error.value)
    assert "tree.json does not fit the classes of the data" in text
    assert "beagel is not in it; did you mean beagle?" in text
    assert "yew is not in it" in text
    assert "dog is a class, and has beagle, pug below it" in text


def test_circles_are_refused():
    with pytest.raises(DataError, match="has a circle: a in b in c in a; d in d"):
        Taxonomy.of({"a": "b", "b": "c", "c": "a", "d": "d", "e": "a", "f": None})


def test_folders_of_a_node_are_those_of_its_names():
    parents = {"animal/bat": "animal", "sport/bat": "sport", "lion": "animal/wild", "animal/wild": "animal"}
    tree = Taxonomy.of({**parents, "rose": "sport/wild", "sport/wild": "sport"})
    assert tree.folder_of("animal/bat") == "animal/bat"
    assert tree.folder_of("lion") == "animal/wild/lion"
    assert tree.folder_of("rose") == "sport/wild/rose"


def test_a_node_has_the_sum_over_its_classes_whatever_the_other_images(tree):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), 50)
    sums = tree.probabilities(probabilities)
    for j, node in enumerate(tree.nodes):
        below = [node in tree.lineage(label) for label in tree.classes]
        assert np.allclose(sums[:, j], probabilities[:, below].sum(axis=1), atol=1e-12)
    assert sums.max() <= 1
    assert np.array_equal(sums[7:8], tree.probabilities(probabilities[7:8]))


def test_images_in_memory_can_have_a_tree():
    images = np.zeros((4, 8, 8, 3), np.uint8)
    dataset = Dataset.from_arrays(images, ["beagle", "pug", "cat", "oak"], taxonomy=PARENTS)
    assert dataset.taxonomy == Taxonomy.of(PARENTS)
    with pytest.raises(DataError, match="yew is not in it"):
        Dataset.from_arrays(images[:2], ["yew", "cat"], taxonomy=PARENTS)


def test_what_is_no_mapping_of_names_is_refused():
    assert check_parents({"a": None}, "x") == {"a": None}
    for wrong in ({}, {"a": ""}, {"": "a"}, {"a": ["b"]}, ["a"]):
        with pytest.raises(DataError, match="expected"):
            check_parents(wrong, "x")
