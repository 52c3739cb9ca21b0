import numpy as np
import pytest

from regraft.data.taxonomy import Taxonomy
from regraft.data.tree_answers import answers, most_probable_paths


def random_tree(rng: np.random.Generator) -> Taxonomy:
    """A tree of 2 to 12 classes at random depths."""
    parents: dict[str, str | None] = {}
    tops = [f"top{i}" for i in range(rng.integers(2, 4))]
    nodes = list(tops)
    for i in range(rng.integers(0, 6)):
        parents[f"node{i}"] = str(rng.choice(nodes))
        nodes.append(f"node{i}")
    classes = [f"class{i}" for i in range(rng.integers(2, 12))]
    parents |= {label: [None, *nodes][rng.integers(len(nodes) + 1)] for label in classes}
    return Taxonomy.of(parents, classes)


def answer_of(tree: Taxonomy, row: np.ndarray, least: float) -> str | None:
    """The rule in plain Python: the best class if it is sure, else the last sure node from the top."""
    of = {n: sum(p for c, p in zip(tree.classes, row, strict=True) if n in tree.lineage(c)) for n in tree.nodes}
    best = max(tree.classes, key=lambda c: of[c])
    if of[best] >= least:
        return best
    found, above = None, None
    while children := [n for n in tree.nodes if tree.parents[n] == above]:
        above = max(children, key=lambda n: of[n])
        if of[above] < least:
            break
        found = above
    return found


def test_answers_follow_the_rule_in_random_trees():
    rng = np.random.default_rng(1)
    for _ in range(300):
        tree = random_tree(rng)
        row, least = rng.dirichlet(np.full(len(tree.classes), 0.7)), rng.uniform()
        nodes = tree.probabilities(row[None])
        (found,) = answers(nodes, tree.parent_numbers, len(tree.classes), least)
        assert (tree.nodes[found] if found >= 0 else None) == answer_of(tree, row, least)
        if least > 0.5:  # the deepest of all nodes that are sure
            sure = [n for n, p in zip(tree.nodes, nodes[0], strict=True) if p >= least]
            deepest = max(sure, key=lambda n: len(tree.lineage(n)), default=None)
            assert (tree.nodes[found] if found >= 0 else None) == deepest


def test_the_class_answers_where_it_is_sure_even_beside_a_larger_family():
    tree = Taxonomy.of({"a1": "a", "a2": "a", "a3": "a", "b": None})
    nodes = tree.probabilities(np.array([[0.25, 0.2, 0.15, 0.4]]))
    assert [tree.nodes[i] for i in most_probable_paths(nodes, tree.parent_numbers)[0]] == ["a", "a1"]

    def answer(least: float) -> str | None:
        (found,) = answers(nodes, tree.parent_numbers, 4, least)
        return tree.nodes[found] if found >= 0 else None

    assert [answer(least) for least in (0.3, 0.4, 0.5, 0.6, 0.61)] == ["b", "b", "a", "a", None]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_any_number_of_images(count):
    tree = Taxonomy.of({"a1": "a", "a2": "a", "b": None})
    nodes = tree.probabilities(np.full((count, 3), 1 / 3))
    assert answers(nodes, tree.parent_numbers, 3, 0.5).tolist() == [tree.nodes.index("a")] * count
