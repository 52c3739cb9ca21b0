"""Scores of a model on the images of each camera, site or other value, and whether the worst is worse beyond chance.

A frozen value with its sentences; `compare_subgroups` computes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regraft.data.pooling import Counted
from regraft.errors import DataError
from regraft.evaluation.comparison import SIGNIFICANT
from regraft.evaluation.training_overlap import Scores
from regraft.text import display_width, join_truncated, one_line, pluralize

#: Images below which a subgroup is too small to say how good the model is on it.
FEW_IMAGES = 20
#: Scores that are shares, which people read in percent.
_SHARES = ("accuracy", "macro F1", "all answers right")


def score_text(name: str, value: float) -> str:
    """A score as people read it: a share in percent, others with four digits."""
    return f"{100 * value:.1f} %" if name in _SHARES else f"{value:.4g}"


def bounds_text(name: str, bounds: tuple[float, float]) -> str:
    """The interval of a score in the same unit, such as `87.0 to 92.6`."""
    return " to ".join(score_text(name, bound).removesuffix(" %") for bound in bounds)


@dataclass(frozen=True)
class Subgroup:
    """The images with one value.

    Attributes:
        value: The value, such as the name of a camera.
        count: Number of images, or of groups that get one answer each.
        scores: Metrics with 95 % intervals; the first is compared. Empty where these images cannot say anything.
        difference: The compared score minus that of all other images with a value; None where it was not compared.
        difference_interval: 95 % interval of the difference.
        p: Two-sided p-value of the difference.
        p_adjusted: The same, corrected for the number of subgroups that were compared (Holm).
    """

    value: str
    count: int
    scores: Scores
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None
    p: float | None = None
    p_adjusted: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        scores = {name: {"value": value, "interval": list(bounds)} for name, (value, bounds) in self.scores.items()}
        bounds = self.difference_interval
        return {
            "value": self.value, "count": self.count, "scores": scores, "difference": self.difference,
            "difference_interval": None if bounds is None else list(bounds), "p": self.p, "p_adjusted": self.p_adjusted,
        }  # fmt: skip


@dataclass(frozen=True)
class Subgroups:
    """The subgroups by one column or pattern.

    Attributes:
        by: The column or pattern, such as "camera".
        metric: The compared score, by its name in `Subgroup.scores`.
        test: The test of the differences.
        groups: The subgroups, the worst first.
        lower_is_better: Whether the compared score is an error.
        without_value: Number of images without a value, which are in no subgroup.
        counted: What was predicted: an `image`, or a `group` of images.
    """

    by: str
    metric: str
    test: str
    groups: tuple[Subgroup, ...]
    lower_is_better: bool = False
    without_value: int = 0
    counted: Counted = "image"

    def is_worse(self, group: Subgroup) -> bool:
        """Whether a subgroup is worse than the others beyond chance."""
        if group.difference is None or group.p_adjusted is None:
            return False
        return group.p_adjusted < SIGNIFICANT and (group.difference > 0) == self.lower_is_better

    @property
    def small(self) -> list[Subgroup]:
        """Subgroups that are too small to say how good the model is on them."""
        return [group for group in self.groups if group.count < FEW_IMAGES]

    @property
    def worst(self) -> Subgroup | None:
        """The subgroup with the worst score, of those that are not too small unless worse beyond chance; None: none."""
        if len(self.groups) < 2:
            return None
        named = (group for group in self.groups if (group.scores and group.count >= FEW_IMAGES) or self.is_worse(group))
        return next(named, None)

    def describe(self) -> str:
        """A sentence about the worst subgroup, and whether its difference from the others is beyond chance."""
        by, total = one_line(self.by), sum(group.count for group in self.groups)
        if len(self.groups) < 2:
            value = one_line(self.groups[0].value) if self.groups else "none"
            return f"By {by} there is nothing to compare: all {total:,} {self.counted}s have the value “{value}”."
        if (worst := self.worst) is None:
            return (
                f"By {by}, no worst of {len(self.groups)} subgroups is named: none has {FEW_IMAGES} {self.counted}s, "
                "and none is worse than the others beyond chance."
            )
        score, bounds = worst.scores[self.metric]
        text = (
            f"By {by}, the worst of {len(self.groups)} subgroups is “{one_line(worst.value)}”: {self.metric} "
            f"{score_text(self.metric, score)} (95 % interval {bounds_text(self.metric, bounds)}) on "
            f"{pluralize(worst.count, self.counted)}"
        )
        if worst.difference is None or worst.difference_interval is None or worst.p_adjusted is None:
            return f"{text}; it was not compared with the others, which have too few {self.counted}s."
        what = "is worse than that of the others beyond chance" if self.is_worse(worst) else "may differ by chance"
        return (
            f"{text}. It {what}: difference {self.difference_text(worst.difference)} ("
            f"{' to '.join(map(self.difference_text, worst.difference_interval))}), p = {worst.p_adjusted:.2g} "
            f"({self.test}{self._correction})."
        )

    def difference_text(self, difference: float) -> str:
        """A difference of the compared score, in points where that is a share."""
        return f"{100 * difference:+.1f} points" if self.metric in _SHARES else f"{difference:+.4g}"

    @property
    def _correction(self) -> str:
        compared = sum(group.p is not None for group in self.groups)
        return f", corrected for {compared} subgroups by Holm" if len(self.groups) > 2 and compared > 1 else ""

    def cautions(self) -> list[str]:
        """Sentences about subgroups that are too small, and images that are in none; empty if there are none."""
        cautions = []
        if small := self.small:
            names = join_truncated(f"{one_line(group.value)} ({group.count})" for group in small)
            what = pluralize(len(small), "subgroup has", "subgroups have")
            cautions.append(
                f"By {one_line(self.by)}, {what} fewer than {FEW_IMAGES} {self.counted}s, too few to say how good the "
                f"model is there: {names}."
            )
        if self.without_value:
            what = pluralize(self.without_value, f"{self.counted} has", f"{self.counted}s have")
            cautions.append(f"By {one_line(self.by)}, {what} no value and no subgroup.")
        return cautions

    def head(self) -> list[str]:
        """The columns of `rows`."""
        names = list(dict.fromkeys(name for group in self.groups for name in group.scores))
        return [self.by, f"{self.counted}s", *names, "difference from the others", "p"]

    def rows(self) -> list[list[str]]:
        """A row of texts for each subgroup: value, images, each score with its interval, difference, adjusted p."""
        names, rows = self.head()[2:-2], []
        for group in self.groups:
            cells = []
            for name in names:
                score = group.scores.get(name)
                cells.append("" if score is None else f"{score_text(name, score[0])} ({bounds_text(name, score[1])})")
            cells.append("" if group.difference is None else self.difference_text(group.difference))
            cells.append("" if group.p_adjusted is None else f"{group.p_adjusted:.2g}")
            rows.append([group.value, f"{group.count:,}", *cells])
        return rows

    def __str__(self) -> str:
        table = [[one_line(cell) for cell in row] for row in (self.head(), *self.rows())]
        widths = [max(display_width(row[i]) for row in table) for i in range(len(table[0]))]
        lines = (
            "  ".join(cell + " " * (width - display_width(cell)) for cell, width in zip(row, widths, strict=True))
            for row in table
        )
        return "\n".join([*(line.rstrip() for line in lines), self.describe()]) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        worst = self.worst
        return {
            "by": self.by, "metric": self.metric, "test": self.test, "lower_is_better": self.lower_is_better,
            "without_value": self.without_value, "counted": self.counted,
            "groups": [group.to_json() for group in self.groups],
            "worst": None if worst is None else worst.value,
            "worst_is_beyond_chance": worst is not None and self.is_worse(worst),
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Subgroups:
        """The inverse of `to_json`; DataError for any other value."""
        try:
            groups = []
            for one in value["groups"]:
                scores = {name: (score["value"], tuple(score["interval"])) for name, score in one["scores"].items()}
                bounds = one["difference_interval"]
                known = {"scores": scores, "difference_interval": None if bounds is None else tuple(bounds)}
                groups.append(Subgroup(**{**one, **known}))
            left = ("worst", "worst_is_beyond_chance")
            fields = {name: item for name, item in value.items() if name not in left}
            return cls(**{**fields, "groups": tuple(groups)})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not subgroups: {error!r}; expected the output of `Subgroups.to_json`") from error


def json_of_subgroups(subgroups: Sequence[Subgroups]) -> dict[str, list[dict[str, Any]]]:
    """What `to_json` of an evaluation says of subgroups: nothing where none were asked for."""
    return {"subgroups": [one.to_json() for one in subgroups]} if subgroups else {}


def subgroups_from_json(evaluation: Mapping[str, Any]) -> tuple[Subgroups, ...]:
    """The subgroups in the JSON of an evaluation; () where it has none."""
    return tuple(map(Subgroups.from_json, evaluation.get("subgroups") or ()))
