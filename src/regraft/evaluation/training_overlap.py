"""How many images of an evaluation the model knows from its training, and its accuracy without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from regraft.text import pluralize


@dataclass(frozen=True)
class TrainingOverlap:
    """Images of an evaluation that are training or validation images of the run, and the accuracy on the others."""

    identical: int  # images with the same bytes as a training or validation image
    near_duplicates: int  # other images of nearly the same picture
    count: int  # images that are neither
    accuracy: float | None  # on these, 0..1; None without such an image, of numbers, and if it was not measured
    accuracy_interval: tuple[float, float] | None  # 95 %, Wilson
    unchecked: str = ""  # what could not be checked, and why; "" if all was

    @property
    def known(self) -> int:
        """Number of images that the model knows."""
        return self.identical + self.near_duplicates

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        interval = self.accuracy_interval
        return asdict(self) | {"accuracy_interval": None if interval is None else list(interval)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainingOverlap:
        """The inverse of `to_json`."""
        interval = value["accuracy_interval"]
        return cls(**{**value, "accuracy_interval": None if interval is None else tuple(interval)})

    def cautions(self, accuracy: float | None, *, name: str = "accuracy") -> list[str]:
        """Sentences for an evaluation of all images with this accuracy; empty if the model knows none of them.

        `name` is what the task calls its share of right images; of numbers there is none.
        """
        sentences = []
        if self.known:
            what = pluralize(self.known, "of these images was", "of these images were")
            same, near = pluralize(self.identical, "identical file"), pluralize(self.near_duplicates, "near duplicate")
            text = (
                f"{what} used to train the model or to choose its settings ({same}, {near}), so "
                + ("errors" if accuracy is None else f"{100 * accuracy:.1f} % {name}")
                + f" may be too {'small' if accuracy is None else 'high'}. "
            )
            if self.count and (accuracy is None or self.accuracy is None):
                text += f"Evaluate the other {pluralize(self.count, 'image')} alone."
            elif self.accuracy is None or self.accuracy_interval is None:
                text += "There is no other image to evaluate."
            else:
                low, high = self.accuracy_interval
                text += (
                    f"Without them it is {100 * self.accuracy:.1f} % (95 % interval {100 * low:.1f} to "
                    f"{100 * high:.1f}) on {pluralize(self.count, 'image')}."
                )
            sentences.append(text)
        return [*sentences, self.unchecked] if self.unchecked else sentences
