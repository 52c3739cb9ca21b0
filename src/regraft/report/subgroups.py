"""The subgroups of a run as tables of its page.

Input: subgroups by one column or pattern. Output: texts, a value apart from its interval.
"""

from __future__ import annotations

from typing import Any

from regraft.evaluation.subgroups import Subgroups, bounds_text, score_text


def subgroup_table(subgroups: Subgroups) -> dict[str, Any]:
    """Names of the columns, and for each subgroup, the worst first, its cells as pairs of a text and an interval."""
    by, *names = subgroups.head()
    rows = []
    for group in subgroups.groups:
        scores = [
            (score_text(name, score[0]), bounds_text(name, score[1])) if (score := group.scores.get(name)) else ("", "")
            for name in names[1:-2]
        ]
        bounds = group.difference_interval
        difference = "" if group.difference is None else subgroups.difference_text(group.difference)
        between = "" if bounds is None else " to ".join(map(subgroups.difference_text, bounds)).replace(" points", "")
        p = "" if group.p_adjusted is None else f"{group.p_adjusted:.2g}"
        rows.append((group.value, [(f"{group.count:,}", ""), *scores, (difference, between), (p, "")]))
    return {
        "by": by,
        "sentence": subgroups.describe(),
        "head": [by, *(name[0].upper() + name[1:] for name in names[:-1]), names[-1]],
        "rows": rows,
    }
