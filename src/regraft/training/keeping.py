"""The best weights so far, and the judgement of what is better.

Enters: the model after an epoch, and its scores. Leaves: the weights to end with, and why fine-tuning is among them
or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch

from regraft.models.classifier import Classifier
from regraft.training.objective import Scores
from regraft.training.options import TrainingOptions
from regraft.training.standing import under


class Keeper:
    """The best weights so far.

    Args:
        model: Whose weights they are.
        options: For monitor, schedule and `keep_finetuned`.
        on_better: Called with the model whenever it is better than before.

    Attributes:
        weights: A copy of the model's state; None before there is any to keep.
        row: The epoch's index in the history; -1 before.
        scores: On validation; None without.
        before: The scores that fine-tuning began with.
        gain: By how much fine-tuning lowered the loss of a validation image, and the standard error of that; of the
            last epoch that was judged.
    """

    def __init__(
        self, model: Classifier, options: TrainingOptions, on_better: Callable[[Classifier], None] | None
    ) -> None:
        """Nothing is kept yet."""
        self.model, self.options, self.on_better = model, options, on_better
        self.weights: dict[str, torch.Tensor] | None = None
        self.row = -1
        self.scores: Scores | None = None
        self.before: Scores | None = None
        self.phase_best: Scores | None = None
        self.gain: tuple[float, float] | None = None

    def begin_phase(self) -> None:
        """What was best until now is what the phase must beat."""
        self.before, self.phase_best = self.scores, None

    def judge(self, phase: str, row: int, scores: Scores | None) -> None:
        """Keep the weights that the model has now if they are the best so far; without scores the last are."""
        if scores is None:
            self.keep(row, None)
            return
        monitor, best = self.options.monitor, self.phase_best
        improves = best is None or scores.value(monitor) > best.value(monitor)
        # An annealed later epoch is preferred to an earlier one that is better only within the noise.
        settles = (
            self.options.schedule == "cosine"
            and best is not None
            and scores.value(monitor) >= best.value(monitor) - best.noise(monitor)
        )
        if (improves or settles) and (phase == "head" or self._pays(scores)):
            self.keep(row, scores)
        self.phase_best = scores if improves else best

    def _pays(self, scores: Scores) -> bool:
        """Whether fine-tuning improves on the head alone, by the losses image by image.

        They tell far smaller differences than two accuracies do. Still, on 100 validation images one standard error is
        about as large as what five points of accuracy bring, so to ask for more than that is no good default.
        """
        if self.before is None or self.options.keep_finetuned == "always":
            return True
        self.gain = gain, error = scores.gain_over(self.before)
        return gain > (error if self.options.keep_finetuned == "if_clear" else 0)

    def verdict(self, finetuned: bool) -> str:
        """Why fine-tuning is kept or not, in a sentence; "" where nothing was compared."""
        if finetuned and self.scores and self.before:
            gain, error = self.scores.gain_over(self.before)
            way = "lowered" if gain >= 0 else "raised"
            return (
                f"Fine-tuning {way} the loss of a validation image by {abs(gain):.3f} (standard error {error:.3f}), "
                f"each model at its best temperature.{self._settled(self.scores)}"
            )
        if not finetuned and self.gain:
            gain, error = self.gain
            what, way = ("by more than its noise ", "down") if gain > 0 else ("", "up")
            return (
                f"Fine-tuning did not improve validation {what}(the loss of an image went {way} by {abs(gain):.3f}, "
                f"standard error {error:.3f}); the model with only its head trained is kept."
            )
        return ""

    def _settled(self, kept: Scores) -> str:
        """Why it is not the best epoch that is kept, where it is not."""
        monitor, best = self.options.monitor, self.phase_best
        behind = best.value(monitor) - kept.value(monitor) if best else 0.0
        if not best or not 0 < behind <= best.noise(monitor):
            return ""
        return (
            f" An earlier epoch had a better {monitor}, by less than its standard error; the later one is kept, which "
            "was trained at a lower rate."
        )

    def keep(self, row: int, scores: Scores | None) -> None:
        """Keep the weights that the model has now."""
        self.weights = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.row, self.scores = row, scores
        if self.on_better:
            self.on_better(self.model)

    def restore(self) -> None:
        """Give the model the best weights."""
        if self.weights is not None:
            self.model.load_state_dict(self.weights)

    def state(self, names: Iterable[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The best of the weights that change, by these names, and the plain values."""
        values: dict[str, Any] = {"row": self.row, "gain": self.gain}
        values |= {
            name: None if scores is None else asdict(scores)
            for name, scores in (("scores", self.scores), ("before", self.before), ("phase_best", self.phase_best))
        }
        return {} if self.weights is None else {f"best.{name}": self.weights[name] for name in names}, values

    def take_up(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Set all as `state` had it; the model must still have the weights that it was built with."""
        if best := under("best.", tensors):
            weights = self.model.state_dict()
            self.weights = {name: best.get(name, tensor).clone().to(tensor.device) for name, tensor in weights.items()}
        self.row, self.gain = values["row"], None if values["gain"] is None else tuple(values["gain"])
        scores = {
            name: None
            if values[name] is None
            else Scores(**{**values[name], "refined": tuple(values[name]["refined"])})
            for name in ("scores", "before", "phase_best")
        }
        self.scores, self.before, self.phase_best = scores["scores"], scores["before"], scores["phase_best"]
