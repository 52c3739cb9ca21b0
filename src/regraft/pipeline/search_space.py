"""What a search may change, and how a point of it becomes a configuration.

Enters: the base configuration, the settings that are fixed, and the model's stages. Leaves: parameters, drawn one after
the other because some exist only beside others, and the `Config` that they mean: complete, or shortened to a few
epochs and views. Each parameter has the name of its setting, except `augmentation`, which sets three.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol

from regraft.config import Config
from regraft.data.augmentation import Augmentation
from regraft.errors import UsageError
from regraft.models.classifier import Classifier
from regraft.training.train import views_of

Params = dict[str, Any]

#: Epochs of fine-tuning, and views of each training image, in a trial of the search.
SHORT_EPOCHS, SHORT_VIEWS = 3, 3

#: Strengths of flip, crop and colour. Few, so that the views of each are computed once for all trials.
_LEVELS = {
    "none": (0.0, 0.0, 0.0),
    "flip": (0.5, 0.0, 0.0),
    "mild": (0.5, 0.35, 0.15),
    "strong": (0.5, 0.8, 0.5),
}
_VIEW_SETTINGS = ("flip", "crop", "colour")
_WIDTHS = ("128", "256", "512", "512 256")


class Trial(Protocol):
    """What draws a value: a trial of Optuna."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of these."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number between these."""


class SearchSpace:
    """The parameters around a base configuration.

    Args:
        base: What is not searched; its own values are part of the space, so that it is a point of it.
        fixed: Names of settings (`training.finetune_lr`) that are not searched.
        model: Of the base, for its stages.

    Raises:
        UsageError: Nothing is left to search.
    """

    def __init__(self, base: Config, fixed: Collection[str], model: Classifier) -> None:
        """Nothing is drawn yet."""
        self.base, self.fixed, self._model = base, frozenset(fixed), model
        self._end = len(model.stages)
        self.boundaries = _boundaries(model, base.training.finetune_from)
        #: The base configuration as a point of the space.
        self.default = self.draw(_Default(self))
        if not self.default:
            raise UsageError("Every setting that could be searched is fixed; free some of them (--set).")

    def draw(self, trial: Trial) -> Params:
        """Ask for one parameter after the other, as far as they mean something beside those before."""
        base, params = self.base, Params()

        def among(name: str, choices: Sequence[Any], given: Any) -> Any:
            if name in self.fixed:
                return given
            known = [*choices] if given in choices else [given, *choices]
            params[name] = trial.suggest_categorical(name, known)
            return params[name]

        def between(name: str, low: float, high: float, given: float) -> None:
            if name not in self.fixed and given > 0:
                params[name] = trial.suggest_float(name, min(low, given), max(high, given), log=True)

        head = among("model.head", ("linear", "mlp"), base.model.head)
        start = base.training.finetune_from
        if base.training.finetune_epochs:
            start = among("training.finetune_from", self.boundaries, start)
        boundary = self._model.resolve(start)
        finetunes = base.training.finetune_epochs > 0 and boundary < self._end
        if head == "mlp":
            among("model.head_widths", _WIDTHS, _joined(base.model.head_widths))
            among("model.dropout", (0.0, 0.2, 0.4), base.model.dropout)
            between("training.head_lr", 1e-4, 1e-2, base.training.head_lr)
        among("training.label_smoothing", (0.0, 0.05, 0.1, 0.2), base.training.label_smoothing)
        if finetunes:
            between("training.finetune_lr", 5e-5, 3e-3, base.training.finetune_lr)
            among("training.layer_decay", (1.0, 0.85, 0.7), base.training.layer_decay)
            if self._searches_views:
                among("augmentation", (*_LEVELS, "base"), "base")
            if boundary:
                among("training.views", (1, 0), base.training.views)
        if finetunes or head == "mlp":
            between("training.weight_decay", 1e-3, 0.3, base.training.weight_decay)
            among("augmentation.mixup", (0.0, 0.2), base.augmentation.mixup)
        return params

    def config(self, params: Mapping[str, Any], *, short: bool = False) -> Config:
        """The configuration that the parameters mean; `short` with few epochs and views, for the search."""
        sections: dict[str, dict[str, Any]] = {"model": {}, "training": {}, "augmentation": {}}
        augmentation = self._augmented(params.get("augmentation", "base"))
        for name, value in params.items():
            section, dot, key = name.partition(".")
            if dot:
                sections[section][key] = _widths(value) if key == "head_widths" else value
        augmentation = replace(augmentation, **sections["augmentation"])
        training = replace(self.base.training, budget=0.0, **sections["training"])
        finetunes = training.finetune_epochs > 0 and self._model.resolve(training.finetune_from) < self._end
        views = views_of(training, finetunes=finetunes) if augmentation.changes_views else 1
        if short:
            views = min(views, SHORT_VIEWS)
            training = replace(training, finetune_epochs=min(training.finetune_epochs, SHORT_EPOCHS))
        return self.base.model_copy(
            update={
                "model": replace(self.base.model, **sections["model"]),
                "training": replace(training, views=views),
                "augmentation": augmentation,
            }
        )

    @property
    def _searches_views(self) -> bool:
        return any(f"augmentation.{name}" not in self.fixed for name in _VIEW_SETTINGS)

    def _augmented(self, level: str) -> Augmentation:
        if level == "base":
            return self.base.augmentation
        strengths = dict(zip(_VIEW_SETTINGS, _LEVELS[level], strict=True))
        free: dict[str, Any] = {
            name: value for name, value in strengths.items() if f"augmentation.{name}" not in self.fixed
        }
        return replace(self.base.augmentation, **free)


def changes(config: Config, base: Config) -> dict[str, tuple[Any, Any]]:
    """Setting -> (value in the base, value here), of those that differ."""
    found: dict[str, tuple[Any, Any]] = {}
    for section in Config.model_fields:
        before, after = asdict(getattr(base, section)), asdict(getattr(config, section))
        found |= {f"{section}.{key}": (before[key], after[key]) for key in after if before[key] != after[key]}
    return found


class _Default:
    """Draws what the base has."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        if name == "augmentation":
            return "base"
        value = self._value(name)
        return _joined(value) if name == "model.head_widths" else value

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self._value(name))

    def _value(self, name: str) -> Any:
        section, _, key = name.partition(".")
        return getattr(getattr(self._space.base, section), key)


def _boundaries(model: Classifier, given: str | int) -> list[str | int]:
    """Where fine-tuning may begin: nowhere, the last resolution, halfway, and what the base has or `auto` means."""
    end, last, lowest = len(model.stages), model.resolve("last"), min(model.resolve("auto"), model.resolve(given))
    starts: dict[int, str | int] = {model.resolve(given): given}
    for boundary in (end, last, (lowest + last) // 2, lowest):
        starts.setdefault(boundary, "none" if boundary == end else model.stages[boundary].name)
    return [starts[boundary] for boundary in sorted(starts, reverse=True)]


def _joined(widths: Sequence[int]) -> str:
    return " ".join(map(str, widths))


def _widths(text: str) -> tuple[int, ...]:
    return tuple(int(width) for width in text.split())
