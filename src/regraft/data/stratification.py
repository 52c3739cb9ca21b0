"""Divide images with several labels so that each part gets its share of every label: iterative stratification.

Sechidis, Tsoumakas and Vlahavas 2011 (On the stratification of multi-label data, ECML PKDD): the rarest label comes
first, because the images of frequent ones can make up for what it takes. Here the unit is a set of images that stay
together, and the sets of a label are dealt out in one drawn order, so that an added image moves few others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def stratify(
    counts: np.ndarray,
    sizes: np.ndarray,
    shares: Sequence[float],
    *,
    given: np.ndarray | None = None,
    required: bool = False,
) -> np.ndarray:
    """The part of each set, int64 (S,), of parts with these shares, which add up to 1.

    Args:
        counts: How many images of each of S sets have each of C labels, int (S, C). The order of the sets, which is to
            be random, decides which of them go where.
        sizes: Number of images of each set, int (S,).
        shares: Share of each part.
        given: Parts that sets have already, or -1, (S,).
        required: Whether each label is in the first part, and from three sets on in every part with a share, as far as
            sets that have several labels allow it.
    """
    dealer = _Dealer(np.asarray(counts), np.asarray(sizes), np.asarray(shares, float), required)
    parts = np.full(len(sizes), -1) if given is None else np.array(given)
    dealer.take(parts)
    free = parts < 0
    for label in _rarest_first(dealer.counts):
        dealer.deal(np.flatnonzero((parts < 0) & (dealer.counts[:, label] > 0)), label, parts)
    dealer.deal(np.flatnonzero(parts < 0), None, parts)
    if required:
        dealer.require(parts, free)
    return parts


def _rarest_first(counts: np.ndarray) -> list[int]:
    """Labels by the number of their sets, in steps of a fifth, so that an added image hardly ever changes the order."""
    steps = np.floor(np.log(np.maximum((counts > 0).sum(axis=0), 1)) / np.log(1.2))
    return list(np.lexsort((np.arange(len(steps)), steps)).tolist())


class _Dealer:
    """What each of P parts still wants of each label (P, C), and of images (P,), while sets are given to them."""

    def __init__(self, counts: np.ndarray, sizes: np.ndarray, shares: np.ndarray, required: bool) -> None:
        self.counts, self.sizes, self.shares = counts, sizes, shares
        self.total = np.maximum(counts.sum(axis=0), 1)
        self.wanted = shares[:, None] * counts.sum(axis=0)
        self.room = shares * sizes.sum()
        self.sets = np.zeros(self.wanted.shape, np.int64)  # sets of each label in each part
        in_all = (counts > 0).sum(axis=0)
        self.needed = (shares[:, None] > 0) & (in_all >= 3) & required  # whether a part needs a set of a label
        self.needed[0] = (in_all >= 1) & required

    def take(self, parts: np.ndarray) -> None:
        """Count the sets that have a part already."""
        for part in range(len(self.shares)):
            self._give(np.flatnonzero(parts == part), part, parts)

    def deal(self, chosen: np.ndarray, label: int | None, parts: np.ndarray) -> None:
        """Give the chosen sets, with this label or none, to the parts: the large ones first, one by one."""
        is_single = self.sizes[chosen] == 1
        large = chosen[~is_single]
        large = large[np.argsort(-self.sizes[large], kind="stable")]
        for done, number in enumerate(large.tolist()):
            lacking, left = self._lacking(label), len(chosen) - done
            part = lacking[0] if 0 < left <= len(lacking) else self._most_wanting(number)
            self._give(np.array([number]), part, parts)
        rest, start = chosen[is_single], 0
        quotas = self._quotas(len(rest), label)
        for part in reversed(range(len(quotas))):
            self._give(rest[start : start + quotas[part]], part, parts)
            start += quotas[part]

    def require(self, parts: np.ndarray, free: np.ndarray) -> None:
        """Move sets so that each label is where it is needed, from parts that keep one of all their labels."""
        has = self.counts > 0
        for label in _rarest_first(self.counts):
            for part in self._lacking(label):
                others = np.flatnonzero(has[:, label] & free & (parts != part))
                last = (self.sets <= 1) & self.needed
                kept = [number for number in others.tolist() if not (has[number] & last[parts[number]]).any()]
                if not kept and part == 0:  # what no image of train shows cannot be learned
                    kept = others.tolist()
                if kept:
                    moved = max(kept, key=lambda number: self.sets[parts[number], label])
                    self.sets[parts[moved]] -= has[moved]
                    self.sets[part] += has[moved]
                    parts[moved] = part

    def _give(self, numbers: np.ndarray, part: int, parts: np.ndarray) -> None:
        parts[numbers] = part
        self.wanted[part] -= self.counts[numbers].sum(axis=0)
        self.room[part] -= self.sizes[numbers].sum()
        self.sets[part] += (self.counts[numbers] > 0).sum(axis=0)

    def _most_wanting(self, number: int) -> int:
        """The part that wants the labels of a set most, as shares of all their images; without labels, the images."""
        gains = (self.wanted / self.total) @ self.counts[number] if self.counts[number].any() else self.room
        return int(np.lexsort((-self.room, -np.where(self.shares > 0, gains, -np.inf).round(9)))[0])

    def _wants(self, label: int | None) -> np.ndarray:
        """How many images of a label, or of any, each part wants; -inf for a part without a share."""
        return np.where(self.shares > 0, self.room if label is None else self.wanted[:, label], -np.inf)

    def _lacking(self, label: int | None) -> list[int]:
        """The parts that need a set of a label and have none."""
        return [] if label is None else np.flatnonzero(self.needed[:, label] & (self.sets[:, label] == 0)).tolist()

    def _quotas(self, count: int, label: int | None) -> list[int]:
        """How many of single images each part gets, by what it wants; a part that needs the label gets one first."""
        wants = np.maximum(self._wants(label), 0)
        wants = wants if wants.sum() > 0 else self.shares
        exact = wants * count / wants.sum()
        quotas = np.floor(exact + 1e-9).astype(np.int64)
        order = np.lexsort((-self.room, -(exact - quotas).round(9)))
        quotas[order[: count - quotas.sum()]] += 1
        lacking = self._lacking(label)
        for part in lacking[:count]:
            if quotas[part] == 0:
                spare = np.where(np.isin(np.arange(len(quotas)), lacking), quotas - 1, quotas)
                quotas[int(spare.argmax())] -= 1
                quotas[part] = 1
        return list(quotas.tolist())
