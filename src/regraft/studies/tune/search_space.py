"""The parameters of a search, and the configuration, in full or shortened, that their values mean."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from regraft.config import Config
from regraft.data.augmentation_options import Augmentation
from regraft.errors import UsageError
from regraft.models.classifier import Classifier
from regraft.training.phase_plan import plan_phases

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Params = dict[str, Any]

#: Epochs of fine-tuning, and views of each training image, in a short trial.
SHORT_EPOCHS, SHORT_VIEWS = 3, 3

#: Strengths of flip, crop and color. Few, so that the views of each are computed once for all trials.
_LEVELS = {"none": (0.0, 0.0, 0.0), "flip": (0.5, 0.0, 0.0), "mild": (0.5, 0.35, 0.15), "strong": (0.5, 0.8, 0.5)}
_VIEW_SETTINGS = ("flip", "random_crop", "color_jitter")
_WIDTHS = ("128", "256", "512", "512 256")


class SearchSpace:
    """The parameters around a base, whose own values are the point `default`; settings in `fixed` are not searched."""

    def __init__(self, base: Config, fixed: Collection[str], model: Classifier) -> None:
        """Find the boundaries to choose from, and the default; raise `UsageError` if there is nothing to search."""
        self.base, self.fixed, self._model = base, frozenset(fixed), model
        if base.data.pool_by:  # the answer of a group is that of its mean features, which only a linear head gives
            self.fixed |= {"model.head"}
        self._boundaries = _boundaries(model, base.training.finetune_from)
        self.default = self.draw(None)
        if not self.default:
            raise UsageError(
                "There is no setting to search: every one is fixed (--set, an option, or data.pool_by, which needs a "
                "linear head), or has no effect without fine-tuning. Free some of them."
            )

    def draw(self, trial: BaseTrial | None) -> Params:
        """Draw the parameters that have an effect beside the earlier ones; without a trial, take the base's values."""
        base, params = self.base, Params()

        def among(name: str, choices: Sequence[Any], base_value: Any) -> Any:
            if name in self.fixed:
                return base_value
            choices = choices if base_value in choices else [base_value, *choices]
            params[name] = base_value if trial is None else trial.suggest_categorical(name, choices)
            return params[name]

        def between(name: str, low: float, high: float, base_value: float) -> None:
            if name not in self.fixed and base_value > 0:
                low, high = min(low, base_value), max(high, base_value)
                params[name] = base_value if trial is None else trial.suggest_float(name, low, high, log=True)

        head = among("model.head", ("linear", "mlp"), base.model.head)
        start = base.training.finetune_from
        if base.training.finetune_epochs:
            start = among("training.finetune_from", self._boundaries, start)
        phases = plan_phases(self._model, replace(base.training, finetune_from=start))
        if head == "mlp":
            among("model.head_widths", _WIDTHS, " ".join(map(str, base.model.head_widths)))
            among("model.dropout", (0.0, 0.2, 0.4), 0.2 if base.model.dropout == "auto" else base.model.dropout)
            between("training.head_lr", 1e-4, 1e-2, base.training.head_lr)
        if self._model.task == "classification":
            among("training.label_smoothing", (0.0, 0.05, 0.1, 0.2), base.training.label_smoothing)
        if phases.finetunes:
            between("training.finetune_lr", 5e-5, 3e-3, base.training.finetune_lr)
            among("training.layer_decay", (1.0, 0.85, 0.7), base.training.layer_decay)
            if any(f"augmentation.{name}" not in self.fixed for name in _VIEW_SETTINGS):
                among("augmentation", (*_LEVELS, "base"), "base")
            if phases.boundary:
                among("training.views", (1, 0), base.training.views)
        if phases.finetunes or head == "mlp":
            between("training.weight_decay", 1e-3, 0.3, base.training.weight_decay)
            among("augmentation.mixup", (0.0, 0.2), base.augmentation.mixup)
        return params

    def config(self, params: Mapping[str, Any], *, short: bool = False) -> Config:
        """The configuration that the parameters mean; `short` limits epochs and views to those of a short trial."""
        sections: dict[str, dict[str, Any]] = {"model": {}, "training": {}, "augmentation": {}}
        for name, value in params.items():
            section, dot, key = name.partition(".")
            if dot:
                sections[section][key] = tuple(map(int, value.split())) if key == "head_widths" else value
        augmentation = replace(self._augmentation(params.get("augmentation", "base")), **sections["augmentation"])
        training = replace(self.base.training, budget=0.0, **sections["training"])
        views = plan_phases(self._model, training, changes_views=augmentation.changes_views).views
        if short:
            views = min(views, SHORT_VIEWS)
            training = replace(training, finetune_epochs=min(training.finetune_epochs, SHORT_EPOCHS))
        model, training = replace(self.base.model, **sections["model"]), replace(training, views=views)
        return self.base.model_copy(update={"model": model, "training": training, "augmentation": augmentation})

    def _augmentation(self, level: str) -> Augmentation:
        if level == "base":
            return self.base.augmentation
        strengths: dict[str, Any] = dict(zip(_VIEW_SETTINGS, _LEVELS[level], strict=True))
        free = {name: value for name, value in strengths.items() if f"augmentation.{name}" not in self.fixed}
        return replace(self.base.augmentation, **free)


def changes(config: Config, base: Config) -> dict[str, tuple[Any, Any]]:
    """Setting -> (value in the base, value here) of the settings that differ; the prefix backend is not searched."""
    changed: dict[str, tuple[Any, Any]] = {}
    for section in Config.model_fields:
        before, after = asdict(getattr(base, section)), asdict(getattr(config, section))
        changed |= {f"{section}.{key}": (before[key], after[key]) for key in after if before[key] != after[key]}
    changed.pop("training.prefix_backend", None)
    return changed


def _boundaries(model: Classifier, base_value: str | int) -> list[str | int]:
    """Where fine-tuning may start: nowhere, the last resolution, halfway, the base's value, and where `auto` does."""
    end, last = len(model.stages), model.resolve("last")
    lowest = min(model.resolve("auto"), model.resolve(base_value))
    names: dict[int, str | int] = {model.resolve(base_value): base_value}
    for boundary in (end, last, (lowest + last) // 2, lowest):
        names.setdefault(boundary, "none" if boundary == end else model.stages[boundary].name)
    return [names[boundary] for boundary in sorted(names, reverse=True)]
