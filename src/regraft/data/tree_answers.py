"""What probabilities of classes say about the nodes of a tree above them.

Nodes are numbered: the classes first, in their order, and every node before its parent. Only NumPy is needed, because
the script of an export contains this source.
"""

from __future__ import annotations

import numpy as np


def node_probabilities(probabilities: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """Probabilities of classes, float64 (N, classes), to those of all nodes, float64 (N, nodes), at most 1.

    That of a node is the sum over the classes below it, added up in the order of the nodes, so that an image's values
    do not depend on the others. `parents` has the number of each node's parent, int64 (nodes,), or -1 for none.
    """
    totals = np.zeros((len(parents), len(probabilities)))
    totals[: probabilities.shape[1]] = probabilities.T
    for node, parent in enumerate(parents.tolist()):
        if parent >= 0:
            totals[parent] += totals[node]
    return np.ascontiguousarray(np.minimum(totals, 1.0).T)


def most_probable_paths(nodes: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """The most probable child at each step from the top of the tree to a class, int64 (N, levels).

    `nodes` are probabilities as `node_probabilities` returns them. A path that ends early repeats its class; in a tie
    the first node counts.
    """
    rows, top = np.arange(len(nodes)), len(parents)
    best, chosen = np.full((top + 1, len(nodes)), -1.0), np.full((top + 1, len(nodes)), -1)
    for node, parent in enumerate(parents.tolist()):
        value, place = nodes[:, node], parent if parent >= 0 else top
        chosen[place] = np.where(value > best[place], node, chosen[place])
        best[place] = np.maximum(value, best[place])
    path = [chosen[top]]
    while (inner := chosen[path[-1], rows] >= 0).any():
        path.append(np.where(inner, chosen[path[-1], rows], path[-1]))
    return np.stack(path, axis=1)


def answers(nodes: np.ndarray, parents: np.ndarray, classes: int, min_confidence: float) -> np.ndarray:
    """The node that answers for each image, int64 (N,), or -1 where nothing is sure.

    It is the most probable class if its probability is at least `min_confidence`, else the deepest such node on the
    most probable path, which above one half is the deepest such node of all.
    """
    rows, found = np.arange(len(nodes)), np.full(len(nodes), -1)
    for step in most_probable_paths(nodes, parents).T:
        found = np.where(nodes[rows, step] >= min_confidence, step, found)
    best = nodes[:, :classes].argmax(axis=1)
    return np.where(nodes[rows, best] >= min_confidence, best, found)
