"""A tree above the classes: which node is the parent of which.

Input: parents by name, from nested folders, a file or a mapping. Output: a `Taxonomy` of the classes of the data, with
probabilities, levels and ancestors of its nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from regraft.data.tree_answers import node_probabilities
from regraft.errors import DataError
from regraft.text import join_truncated, nearest, pluralize

_LINE = "\n  "
#: Parents by the name of every node; None at the top.
Parents = Mapping[str, str | None]


@dataclass(frozen=True)
class Taxonomy:
    """A tree of nodes with names that all differ; its leaves are the classes.

    Attributes:
        classes: Class names in the order of the model's outputs, or of the data.
        parents: The parent of every node, None at the top. No node is above every class: it would say nothing.
        name: What it is called in messages.
    """

    classes: tuple[str, ...]
    parents: Parents
    name: str = field(default="The tree", compare=False, repr=False)

    @classmethod
    def of(cls, parents: Parents, classes: Sequence[str] | None = None, *, name: str = "The tree") -> Taxonomy:
        """The tree above these classes, by default all leaves, without nodes that are above none of them or above all.

        A parent that is no key of `parents` is at the top. Raises `DataError` that lists everything that is wrong:
        cycles, classes that are not in the tree, and classes with others below them.
        """
        parents = dict(parents)
        for parent in [parent for parent in parents.values() if parent is not None]:
            parents.setdefault(parent, None)
        if cycles := list(_cycles(parents)):
            raise DataError(f"{name} has a circle: {join_truncated(cycles, '; ')}. Expected one parent above each.")
        inner = {parent for parent in parents.values() if parent is not None}
        leaves = [node for node in parents if node not in inner]
        classes = tuple(sorted(leaves) if classes is None else classes)
        if errors := list(_misplaced(parents, inner, leaves, classes)):
            raise DataError(
                f"{name} does not fit the classes of the data:\n  {join_truncated(errors, _LINE)}\n"
                "Correct the labels, or give the whole tree: a file (--taxonomy), or nested folders (--layout tree)."
            )
        lineages = [_lineage(parents, label) for label in classes]
        above_all = 0
        while len(classes) > 1 and len({lineage[above_all] for lineage in lineages}) == 1:
            above_all += 1
        kept: dict[str, str | None] = {}
        for lineage in lineages:
            above: str | None = None
            for node in lineage[above_all:]:
                kept[node], above = above, node
        return cls(classes, dict(sorted(kept.items())), name)

    @property
    def inner(self) -> tuple[str, ...]:
        """Names of the nodes above the classes, in the order of the tree."""
        leaves = set(self.classes)
        return tuple(node for node, _ in self.walk() if node not in leaves)

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """Names of all nodes: the classes in their order, then the others, the deepest first."""
        inner = sorted(set(self.parents) - set(self.classes), key=lambda node: (-len(self.lineage(node)), node))
        return (*self.classes, *inner)

    @cached_property
    def parent_numbers(self) -> np.ndarray:
        """The parent of each node as a number in `nodes`, -1 at the top, int64 (nodes,)."""
        number = {node: i for i, node in enumerate(self.nodes)}
        return np.array([-1 if (p := self.parents[node]) is None else number[p] for node in self.nodes], np.int64)

    @cached_property
    def ancestors(self) -> np.ndarray:
        """Whether a node (column) is another one (row) or above it: bool (nodes, nodes)."""
        above = np.eye(len(self.nodes), dtype=bool)
        for node in range(len(self.nodes) - 1, -1, -1):
            if (parent := self.parent_numbers[node]) >= 0:
                above[node] |= above[parent]
        return above

    @cached_property
    def depth(self) -> int:
        """Number of levels: of nodes from the top to the deepest class."""
        return max(len(self.lineage(label)) for label in self.classes)

    def lineage(self, node: str) -> tuple[str, ...]:
        """The names from the top of the tree to a node."""
        return _lineage(self.parents, node)

    def folder_of(self, node: str) -> str:
        """The folders of a node in nested folders, such as `animal/dog`; a name has its folders where it needs them."""
        path = ""
        for name in self.lineage(node):
            above, _, last = name.rpartition("/")
            inside = last if f"/{above}".endswith(f"/{path}") else name
            path = f"{path}/{inside}" if path else name
        return path

    def walk(self) -> Iterator[tuple[str, int]]:
        """Names and depths of all nodes, 0 at the top, every node followed by those below it, by name."""
        below: dict[str | None, list[str]] = {}
        for node in sorted(self.parents, reverse=True):
            below.setdefault(self.parents[node], []).append(node)
        pending = [(node, 0) for node in below[None]]
        while pending:
            node, depth = pending.pop()
            yield node, depth
            pending += [(child, depth + 1) for child in below.get(node, ())]

    def totals(self, of_classes: Mapping[str, int]) -> list[tuple[str, int, int]]:
        """Name and depth of every node, as `walk` has them, and the sum of the numbers of the classes below it."""
        totals = dict.fromkeys(self.parents, 0)
        for label in self.classes:
            for node in self.lineage(label):
                totals[node] += of_classes.get(label, 0)
        return [(node, depth, totals[node]) for node, depth in self.walk()]

    def at_level(self, level: int) -> tuple[tuple[str, ...], np.ndarray]:
        """The nodes of a level, 1 at the top, in the order of the tree, and that of each class, int64 (classes,).

        A class that is above the level stands for itself.
        """
        of_class = [self.lineage(label)[:level][-1] for label in self.classes]
        wanted = set(of_class)
        names = tuple(node for node, _ in self.walk() if node in wanted)
        number = {node: i for i, node in enumerate(names)}
        return names, np.array([number[node] for node in of_class], np.int64)

    def probabilities(self, of_classes: np.ndarray) -> np.ndarray:
        """Probabilities of the classes, float64 (N, classes), to those of all `nodes`, float64 (N, nodes)."""
        return node_probabilities(of_classes, self.parent_numbers)

    def with_classes(self, classes: Sequence[str]) -> Taxonomy:
        """The same tree for other classes of it; raises as `of`."""
        return Taxonomy.of(self.parents, classes, name=self.name)

    def describe(self) -> str:
        """One sentence about the size of the tree."""
        if self.depth == 1:
            return "No node of the tree is above some classes and not above others, so it adds nothing."
        above = len(self.nodes) - len(self.classes)
        nodes = pluralize(above, "node")
        return f"A tree of {pluralize(self.depth, 'level')}: {len(self.classes):,} classes under {nodes}."

    def to_json(self) -> dict[str, str | None]:
        """Plain values: parents by the names of the nodes, None at the top."""
        return dict(self.parents)

    @classmethod
    def from_json(cls, value: object, classes: Sequence[str]) -> Taxonomy | None:
        """The tree of a description, None for None; raises `DataError` if it does not fit the classes."""
        return None if value is None else cls.of(check_parents(value, "The tree"), classes)


def check_parents(value: object, name: str) -> dict[str, str | None]:
    """Return a mapping of names to their parents' as it is; raises `DataError` for anything else."""
    if not isinstance(value, Mapping) or not value:
        raise DataError(f"{name} is {value!r:.200}; expected the parent of each class and node by its name.")
    for node, parent in value.items():
        if not (isinstance(node, str) and node and (parent is None or (isinstance(parent, str) and parent))):
            raise DataError(f"{name} has {parent!r} above {node!r}; expected names, or None at the top.")
    return dict(value)


def _lineage(parents: Parents, node: str) -> tuple[str, ...]:
    lineage, current = [node], parents[node]
    while current is not None:
        lineage.append(current)
        current = parents[current]
    return tuple(reversed(lineage))


def _cycles(parents: Parents) -> Iterator[str]:
    """Each circle of parents once, as a text."""
    done: set[str] = set()
    for start in parents:
        path: dict[str, None] = {}
        node: str | None = start
        while node is not None and node not in path and node not in done:
            path[node] = None
            node = parents[node]
        if node is not None and node in path:
            circle = [*path][[*path].index(node) :]
            yield " in ".join([*circle, node])
        done.update(path)


def _misplaced(parents: Parents, inner: set[str], leaves: Sequence[str], classes: Iterable[str]) -> Iterator[str]:
    """What is wrong with each class that is no leaf of the tree."""
    for label in classes:
        if label not in parents:
            near = nearest(label, leaves)
            yield f"{label} is not in it" + (f"; did you mean {' or '.join(near)}?" if near else "")
        elif label in inner:
            below = [node for node, parent in parents.items() if parent == label]
            yield f"{label} is a class, and has {join_truncated(below, shown=5)} below it; expected labels at the ends"
