"""Changes of the classes of a run: renamed, merged or dropped.

Input: texts such as `old=new`, and the classes of the run. Output: the new classes, and what labels and predictions of
the run become.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from regraft.data.labels import Task, join_labels, split_labels
from regraft.data.taxonomy import Taxonomy
from regraft.errors import UsageError
from regraft.evaluation.multilabel.predictions import MultilabelPredictions
from regraft.evaluation.predictions import Predictions
from regraft.text import join_truncated, nearest


@dataclass(frozen=True)
class ClassChanges:
    """What becomes of the classes of a run.

    `before` are its classes in output order, and `new_names` has the new name of each that changes; "" drops it. `task`
    is that of the run.
    """

    before: tuple[str, ...]
    new_names: Mapping[str, str]
    task: Task = "classification"

    @classmethod
    def parse(cls, texts: Iterable[str], classes: Sequence[str], task: Task = "classification") -> ClassChanges:
        """Read `old=new` texts; a name may have equals signs. Raises as `check`."""
        changes: dict[str, str] = {}
        for text in texts:
            ends = [i for i, letter in enumerate(text) if letter == "=" and text[:i] in classes]
            if not ends:
                raise UsageError(f"{text}: expected old=new, {_one_of(text.partition('=')[0], classes)}")
            changes[text[: ends[-1]]] = text[ends[-1] + 1 :]
        return cls(tuple(classes), changes, task).check()

    @classmethod
    def of(
        cls,
        classes: Sequence[str],
        rename: Mapping[str, str],
        merge: Mapping[str, Sequence[str]],
        drop: Sequence[str],
        task: Task = "classification",
    ) -> ClassChanges:
        """Collect changes of each kind; `merge` has the old names by the new one. Raises as `check`."""
        pairs = [*rename.items(), *((old, new) for new, names in merge.items() for old in names)]
        pairs += [(name, "") for name in drop]
        changes = dict(pairs)
        if twice := sorted({old for old, _ in pairs if sum(old == other for other, _ in pairs) > 1}):
            raise UsageError(f"{join_truncated(twice)}: expected one change of a class.")
        for old, new in pairs:
            if old not in classes:
                raise UsageError(f"The run has no class {old!r}: {_one_of(old, classes)}")
            if not new and old not in drop:
                raise UsageError(f"The new name of {old} is empty. Expected a name, or drop the class.")
        for new, names in merge.items():
            if len(names) < 2:
                raise UsageError(f"{join_truncated(names)}={new}: expected two classes or more to merge.")
        made = cls(tuple(classes), changes, task)
        joined = [new for new, names in made.sources().items() if len(names) > 1 and new not in merge]
        if joined:
            names = made.sources()[joined[0]]
            raise UsageError(
                f"{' and '.join(names)} would both be {joined[0]}. To make one class of them, merge them: "
                f"{','.join(names)}={joined[0]}."
            )
        return made.check()

    def check(self) -> ClassChanges:
        """These changes; raises `UsageError` if nothing changes, or fewer than two classes or no label are left."""
        if all(old == new for old, new in self.new_names.items()):
            raise UsageError("Nothing changes. Expected classes to rename, merge or drop.")
        if self.task == "multilabel" and not self.after:
            raise UsageError("All labels would be dropped; a model needs at least one.")
        if self.task != "multilabel" and len(self.after) < 2:
            left = join_truncated(self.after) or "none"
            raise UsageError(f"A classifier needs at least two classes; left would be {left}.")
        return self

    @property
    def after(self) -> tuple[str, ...]:
        """The new classes in output order."""
        return tuple(sorted(self.sources()))

    def sources(self) -> dict[str, list[str]]:
        """The classes of the run that each new class consists of."""
        sources: dict[str, list[str]] = {}
        for name in self.before:
            if new := self.new_name(name):
                sources.setdefault(new, []).append(name)
        return sources

    @property
    def needs_images(self) -> bool:
        """Whether the head must be fitted anew: some classes are merged, or dropped from those that exclude each other.

        Each of several labels is answered by itself, so one less changes nothing of the others.
        """
        stays = [name for name in self.before if self.task != "multilabel" or self.new_name(name)]
        return len(self.after) < len(stays)

    def of_class_weights(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Weights by the names of the run's classes as those of the new ones; merged classes have the largest."""
        changed: dict[str, float] = {}
        for name, weight in weights.items():
            if new := self.new_name(name):
                changed[new] = max(weight, changed.get(new, weight))
        return changed

    def new_name(self, label: str) -> str:
        """The new name of a class of the run; "" if it is dropped."""
        return self.new_names.get(label, label)

    def of_label(self, label: str) -> str | None:
        """What the label of an image becomes: its class, or None if that is dropped, and the image with it.

        Of several labels those that are left, which may be none.
        """
        if self.task == "multilabel":
            return join_labels(new for name in split_labels(label) if (new := self.new_name(name)))
        return self.new_name(label) or None

    def texts(self) -> tuple[str, ...]:
        """The changes as texts that `parse` reads."""
        return tuple(f"{old}={new}" for old, new in self.new_names.items())

    def describe(self) -> str:
        """What changes, such as `red is now rouge; cat and dog are one class, pet; fox is dropped.` in one sentence."""
        sources = self.sources()
        parts = [f"{old} is now {new}" for old, new in self.new_names.items() if new and sources[new] == [old]]
        parts += [f"{' and '.join(names)} are one class, {new}" for new, names in sources.items() if len(names) > 1]
        parts += [f"{old} is dropped" for old, new in self.new_names.items() if not new]
        return "; ".join(parts) + "."

    def of_taxonomy(self, tree: Taxonomy) -> Taxonomy:
        """What the tree of the run becomes: a new name takes the place of the old one.

        Merged classes have one parent, or are all classes below the node whose name they take. Raises `UsageError` for
        other ones, which have no place.
        """
        parents = dict(tree.parents)
        for new, olds in self.sources().items():
            if olds == [new]:
                continue
            for old in olds:
                parents.pop(old, None)
            above = {tree.parents[old] for old in olds}
            if new in tree.inner:
                below = [name for name in tree.classes if new in tree.lineage(name)]
                if rest := [name for name in below if name not in olds]:
                    raise UsageError(
                        f"{new} is above {join_truncated(rest)} in the tree. Expected another name, or all below it."
                    )
                above = {tree.parents[new]}
                gone = {node for node in tree.parents if new in tree.lineage(node)}
                parents = {node: up for node, up in parents.items() if node not in gone}
            if len(above) > 1:
                places = [f"{old} in {tree.parents[old] or 'the top level'}" for old in olds]
                raise UsageError(
                    f"{new} has no place in the tree: {join_truncated(places)}. Expected classes with one parent, or "
                    "all classes below a node, with its name."
                )
            parents[new] = above.pop()
        return Taxonomy.of(parents, self.after)

    def of_predictions(self, predictions: Predictions) -> Predictions:
        """What predictions of the run become: probabilities of merged classes are added.

        Images of dropped classes are left out, and the probabilities of the others add up to 1 again.
        """
        after = self.after
        column = {name: after.index(new) if (new := self.new_name(name)) else -1 for name in self.before}
        columns = np.array([column.get(name, -1) for name in predictions.classes])
        probabilities = np.zeros((len(predictions), len(after)))
        for old, new in enumerate(columns.tolist()):
            if new >= 0:
                probabilities[:, new] += predictions.probabilities[:, old]
        labels = columns[predictions.labels]
        if (columns < 0).any():
            # An image whose whole probability was that of dropped classes says nothing of the others.
            probabilities[probabilities.sum(axis=1) == 0] = 1 / len(after)
            probabilities /= probabilities.sum(axis=1, keepdims=True)
        kept = np.flatnonzero(labels >= 0)
        chosen, rows = probabilities[kept], kept.tolist()
        return Predictions(
            tuple(predictions.ids[i] for i in rows), labels[kept], chosen, after,
            tuple(predictions.parts[i] for i in rows),
        )  # fmt: skip

    def of_label_predictions(self, predictions: MultilabelPredictions) -> MultilabelPredictions:
        """What predictions of several labels become: those of each label that stays, with its new name.

        Merged labels are left out: what was said of each does not tell how probable it is that an image has any.
        """
        kept = {new: olds[0] for new, olds in sorted(self.sources().items()) if len(olds) == 1}
        return replace(predictions.only_classes(list(kept.values())), classes=tuple(kept))


def _one_of(name: str, classes: Sequence[str]) -> str:
    near = nearest(name, classes)
    return f"did you mean {' or '.join(near)}?" if near else f"its classes are {join_truncated(classes)}."
