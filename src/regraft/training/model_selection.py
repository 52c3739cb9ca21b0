"""Keep the best weights of a training, decide whether fine-tuning is among them, and say why in a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch

from regraft.models.classifier import Classifier
from regraft.training.lora import merged
from regraft.training.losses import EpochMetrics
from regraft.training.options import TrainingOptions

_METRICS = ("metrics", "before", "phase_best")


class BestModel:
    """The best weights so far; `on_better` is called with the model whenever its weights are kept."""

    def __init__(
        self, model: Classifier, options: TrainingOptions, on_better: Callable[[Classifier], None] | None
    ) -> None:
        self.model, self.options, self.on_better = model, options, on_better
        self.weights: dict[str, torch.Tensor] | None = None
        self.row: int | None = None  # index of the epoch of the weights; None: a head not trained in epochs
        self.metrics: EpochMetrics | None = None  # of the weights; None without validation images
        self.before: EpochMetrics | None = None  # at the start of the phase
        self.phase_best: EpochMetrics | None = None  # of the best epoch of the phase, kept or not
        self.gain: tuple[float, float] | None = None  # decrease of the loss in the last epoch, and its error

    def begin_phase(self) -> None:
        """Start a phase: its epochs are compared with the best weights so far."""
        self.before, self.phase_best = self.metrics, None

    def update(self, phase: str, row: int, metrics: EpochMetrics | None) -> None:
        """Keep the current weights if they are the best so far, or if there are no metrics to compare."""
        if metrics is None:
            self.keep(row, None)
            return
        monitor, best = self.options.monitor, self.phase_best
        value = metrics.value(monitor)
        improves = best is None or (value, -metrics.loss) > (best.value(monitor), -best.loss)
        # With a cosine schedule a later epoch is preferred to one that is better only within the noise.
        within_noise = (
            self._prefers_later
            and best is not None
            and value >= best.value(monitor) - _standard_errors(phase, best) * best.noise(monitor)
        )
        if self.metrics and self.metrics != self.before and value == self.metrics.value(monitor):
            within_noise = metrics.loss < self.metrics.loss  # of equal epochs the one with the lower loss
        is_wanted = improves or within_noise or self.options.keep_epoch == "last"
        if is_wanted and (phase == "head" or self._beats_the_head(metrics)):
            self.keep(row, metrics)
        self.phase_best = metrics if improves else best

    @property
    def _prefers_later(self) -> bool:
        return self.options.keep_epoch == "auto" and self.options.schedule == "cosine"

    def _beats_the_head(self, metrics: EpochMetrics) -> bool:
        """Compare fine-tuning with the head alone by the losses of the same images.

        Paired losses detect far smaller differences than two accuracies. On 100 validation images, one standard error
        of the difference corresponds to about five points of accuracy, so the default does not require a clear gain,
        and on fewer images only a clear loss rejects fine-tuning (docs/decisions/keep-finetuned.md).
        """
        if self.before is None or self.options.keep_finetuned == "always":
            return True
        self.gain = gain, error = metrics.gain_over(self.before)
        if self.options.keep_finetuned == "if_clear":
            return gain > error
        if metrics.is_small:
            if math.isnan(metrics.accuracy):  # of numbers
                return gain > -2 * error
            by_luck = self.before.noise("val_accuracy")
            return gain > -2 * error and metrics.accuracy >= self.before.accuracy - by_luck
        return gain > 0

    def summary(self, finetuned: bool) -> str:
        """Say why fine-tuning is kept or not; "" where nothing was compared."""
        if finetuned and self.metrics and self.before:
            gain, error = self.metrics.gain_over(self.before)
            why = f" On only {self.metrics.count} images this is within the noise." if gain < 0 else ""
            why += self._why_not_the_best_epoch()
            return (
                f"Fine-tuning {'lowered' if gain >= 0 else 'raised'} the validation loss per image by {abs(gain):.3f} "
                f"(standard error {error:.3f}), each model at its best temperature.{why}"
            )
        if not finetuned and self.gain:
            gain, error = self.gain
            enough = "enough " if gain > 0 else ""
            return (
                f"Fine-tuning did not lower the validation loss {enough}(it {'fell' if gain > 0 else 'rose'} by "
                f"{abs(gain):.3f} per image, standard error {error:.3f}); the model with only its head trained is kept."
            )
        return ""

    def _why_not_the_best_epoch(self) -> str:
        monitor, best, kept = self.options.monitor, self.phase_best, self.metrics
        behind = best.value(monitor) - kept.value(monitor) if best and kept else 0.0
        if (
            not self._prefers_later
            or not best
            or not 0 < behind <= _standard_errors("finetune", best) * best.noise(monitor)
        ):
            return ""
        errors = "two standard errors" if best.is_small else "its standard error"
        return (
            f" An earlier epoch had a better {monitor}, by less than {errors}; the later epoch is kept, "
            "because its learning rate was lower."
        )

    def keep(self, row: int | None, metrics: EpochMetrics | None) -> None:
        """Keep the current weights of the model."""
        self.weights = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.row, self.metrics = row, metrics
        if self.on_better:
            with merged(self.model):
                self.on_better(self.model)

    def restore(self) -> None:
        """Load the best weights into the model."""
        if self.weights is not None:
            self.model.load_state_dict(self.weights)

    def state_dict(self, names: Iterable[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The best weights of these names, and the plain values."""
        values: dict[str, Any] = {"row": self.row, "gain": self.gain}
        for name in _METRICS:
            metrics: EpochMetrics | None = getattr(self, name)
            values[name] = None if metrics is None else asdict(metrics)
        return {} if self.weights is None else {name: self.weights[name] for name in names}, values

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; the model must still have its initial weights."""
        if tensors:
            weights = self.model.state_dict()
            self.weights = {name: tensors.get(name, value).clone().to(value.device) for name, value in weights.items()}
        self.row, self.gain = values["row"], None if values["gain"] is None else tuple(values["gain"])
        for name in _METRICS:
            value = values[name]
            losses = () if value is None else tuple(value["calibrated_losses"])
            setattr(self, name, None if value is None else EpochMetrics(**{**value, "calibrated_losses": losses}))


def _standard_errors(phase: str, best: EpochMetrics) -> int:
    """How much worse a later epoch may be: more on few images, where the best epoch is mostly luck."""
    return 2 if phase == "finetune" and best.is_small else 1
