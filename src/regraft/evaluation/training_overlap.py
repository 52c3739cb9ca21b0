"""How many images of an evaluation the model knows from its training, and its scores without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from regraft.data.pooling import Counted
from regraft.text import pluralize

#: Values of metrics with their 95 % intervals (low, high), by the names that people read.
Scores = Mapping[str, tuple[float, tuple[float, float]]]


@dataclass(frozen=True)
class TrainingOverlap:
    """Images of an evaluation that are training or validation images of the run, and the scores on the others."""

    identical: int  # images with the same bytes as a training or validation image
    near_duplicates: int  # other images of nearly the same picture
    count: int  # images that are neither
    accuracy: float | None  # on these, 0..1; None without such an image, of numbers, and if it was not measured
    accuracy_interval: tuple[float, float] | None  # 95 %, Wilson
    unchecked: str = ""  # what could not be checked, and why; "" if all was
    #: What the task is judged by beside accuracy (`headline` of its evaluation), on the `count` images.
    scores: Scores = field(default_factory=dict)

    @property
    def known(self) -> int:
        """Number of images that the model knows."""
        return self.identical + self.near_duplicates

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        interval = self.accuracy_interval
        scores = {name: {"value": value, "interval": list(bounds)} for name, (value, bounds) in self.scores.items()}
        return asdict(self) | {"accuracy_interval": None if interval is None else list(interval), "scores": scores}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainingOverlap:
        """The inverse of `to_json`; runs of before have no `scores`."""
        interval = value["accuracy_interval"]
        scores = {name: (one["value"], tuple(one["interval"])) for name, one in value.get("scores", {}).items()}
        known = {"accuracy_interval": None if interval is None else tuple(interval), "scores": scores}
        return cls(**{**value, **known})

    def cautions(
        self, accuracy: float | None, headline: Scores, counted: Counted = "image", *, name: str = "accuracy"
    ) -> list[str]:
        """Sentences for an evaluation of all images with this accuracy; empty if the model knows none of them.

        `headline` are the other scores of this evaluation, which without an accuracy are errors. `name` is what the
        task calls its share of right images; of numbers there is none. Of groups, those are known of which an image is.
        """
        sentences = []
        if self.known:
            what = pluralize(self.known, "of these images was", "of these images were")
            if counted == "group":
                what = pluralize(self.known, "of these groups has images", "of these groups have images") + " that were"
            same, near = pluralize(self.identical, "identical file"), pluralize(self.near_duplicates, "near duplicate")
            measured = [] if accuracy is None else [f"{100 * accuracy:.1f} % {name}"]
            measured += [f"the {metric} of {value:.4g}" for metric, (value, _) in headline.items()]
            text = (
                f"{what} used to train the model or to choose its settings ({same}, {near}), so "
                f"{' and '.join(measured)} may be too {'small' if accuracy is None else 'high'}. "
            )
            others = self._describe_others()
            if not self.count:
                text += f"There is no other {counted} to evaluate."
            elif not others:
                text += f"Evaluate the other {pluralize(self.count, counted)} alone."
            else:
                text += f"Without them {' and '.join(others)} on {pluralize(self.count, counted)}."
            sentences.append(text)
        return [*sentences, self.unchecked] if self.unchecked else sentences

    def _describe_others(self) -> list[str]:
        """What the scores on the images are that the model does not know, as far as they were measured."""
        others = []
        if self.accuracy is not None and self.accuracy_interval is not None:
            low, high = self.accuracy_interval
            others.append(f"it is {100 * self.accuracy:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f})")
        for metric, (value, (low, high)) in self.scores.items():
            others.append(f"the {metric} is {value:.4g} (95 % interval {low:.4g} to {high:.4g})")
        return others
