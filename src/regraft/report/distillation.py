"""What a model learned from its teacher, and how much of the teacher's gain it keeps, in sentences.

Input: `distillation` in a run's `metrics.json`. Output: sentences without the folder of any run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from regraft.evaluation.comparison import SIGNIFICANT
from regraft.text import pluralize

#: Scores in `result`.
_MODELS = ("plain", "student", "teacher")


def describe_lesson(distillation: Mapping[str, Any]) -> str:
    """What the model learned from: the teacher, its share of the targets, and the unlabeled images."""
    teacher, share = distillation["teacher"], 100 * distillation["soft_share"]
    name = PurePath(teacher["run"]).name
    text = (
        f"The model learned from the probabilities of a teacher, {name} ({teacher['backbone']}): they are "
        f"{share:.0f} % of the target of a training image, and its label is the rest"
    )
    if unlabeled := distillation["unlabelled"]:
        text += f"; of {pluralize(unlabeled['usable'], 'unlabeled image')} they are all"
    return text + "."


def describe_result(distillation: Mapping[str, Any]) -> Iterator[str]:
    """How teacher, student and the same model without a teacher compare; nothing where this was not measured."""
    if not (result := distillation.get("result")):
        return
    part = {"val": "validation", "test": "test"}[result["part"]]
    if result.get("metric", "accuracy") == "accuracy":
        name, plain, student, teacher = ("Accuracy", *(f"{100 * result[model]:.1f} %" for model in _MODELS))
    else:
        name, plain, student, teacher = ("Mean average precision", *(f"{result[model]:.3f}" for model in _MODELS))
    text = (
        f"{name} on {pluralize(result['count'], f'{part} image')}: {plain} of the same model trained on the labels "
        f"alone, {student} with the teacher, and {teacher} of the teacher"
    )
    kept = result["kept"]
    yield (
        f"{text}: the model keeps {100 * kept:.0f} % of the teacher's gain."
        if kept is not None
        else (f"{text}, which has no gain to keep.")
    )
    gain = result["gain"]
    low, high = gain["interval"]
    doubt = "" if gain["p"] < SIGNIFICANT else "; the difference is not significant"
    if "accuracy" not in gain:
        yield (
            f"The teacher changed the mean average precision by {gain['mean_average_precision']:+.3f} (95 % interval "
            f"{low:+.3f} to {high:+.3f}; p = {gain['p']:.2g}{doubt})."
        )
        return
    yield (
        f"The teacher changed the accuracy by {100 * gain['accuracy']:+.1f} points (95 % interval {100 * low:+.1f} to "
        f"{100 * high:+.1f}; {gain['only_first']} images better, {gain['only_second']} worse, p = {gain['p']:.2g}"
        f"{doubt})."
    )
