"""Decide the phases of a training, and the freeze boundary, from a model and its options."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from regraft.training.options import TrainingOptions

if TYPE_CHECKING:
    from regraft.models.classifier import Classifier
    from regraft.models.head import Head

#: Views of each training image that are cached before fine-tuning, unless `views` says otherwise.
_VIEWS = 8
#: Most epochs to which few images get the fewest steps of fine-tuning, and the share of them over which the weights are
#: averaged (docs/decisions/ema-weights.md).
_MOST_EPOCHS, _AVERAGED = 100, 0.3


@dataclass(frozen=True)
class PhasePlan:
    """Which phases a training has, and where its frozen prefix ends.

    `boundary` is the index of the first stage that is fine-tuned, or the number of stages where only the head trains;
    its name is then `head`. Activations are cached at `cut`: the boundary, or the number of stages where nothing is
    frozen. Each training image has `views` cached views; 1 is the plain image. `from_scratch`: all of a network with
    random weights trains, without a head phase, because a head that fits random features is no model of its kind.
    """

    boundary: int
    boundary_name: str
    finetunes: bool
    head: Literal["lbfgs", "epochs", "none"]
    cut: int
    views: int
    from_scratch: bool = False


def plan_phases(model: Classifier, options: TrainingOptions, *, changes_views: bool = True) -> PhasePlan:
    """Decide the phases and the freeze boundary of a training; `auto` trains all of a network with random weights.

    For several backbones it plans the head only, because each backbone is fine-tuned separately before.

    Without an augmentation that `changes_views`, one view is enough. Raises `UsageError` if `finetune_from` names no
    stage or layer.
    """
    end = len(model.stages)
    is_random = model.weights.source == "none" and not model.members
    boundary = 0 if is_random and options.finetune_from == "auto" else model.resolve(options.finetune_from)
    finetunes = boundary < end and options.finetune_epochs > 0
    boundary = boundary if finetunes else end
    from_scratch = is_random and boundary == 0
    solvable = has_solver(options) and is_linear(model.head)
    return PhasePlan(
        boundary=boundary,
        boundary_name=model.stages[boundary].name if finetunes else "head",
        finetunes=finetunes,
        head="none" if not options.head_epochs or from_scratch else "lbfgs" if solvable else "epochs",
        # Where everything is fine-tuned there is no prefix, and the head trains on features of the plain images.
        cut=boundary or end,
        views=(options.views or (_VIEWS if finetunes else 1)) if boundary and changes_views else 1,
        from_scratch=from_scratch,
    )


def with_enough_steps(options: TrainingOptions, images: int) -> TrainingOptions:
    """The options with the epochs of fine-tuning that give so many training images `finetune_min_steps`.

    Of more epochs than the options ask for, the weights are averaged over more. None stays none.
    """
    if not options.finetune_epochs or not images:
        return options
    per_epoch = options.steps_per_epoch or math.ceil(images / options.batch_size)
    epochs = min(_MOST_EPOCHS, math.ceil(options.finetune_min_steps / per_epoch))
    if epochs <= options.finetune_epochs:
        return options
    ema_epochs = options.ema_epochs and max(options.ema_epochs, averaged_epochs(epochs))
    return replace(options, finetune_epochs=epochs, ema_epochs=ema_epochs)


def averaged_epochs(epochs: int) -> float:
    """The epochs over which weights are averaged where `finetune_min_steps` asks for so many epochs."""
    return round(_AVERAGED * epochs, 1)


def has_solver(options: TrainingOptions) -> bool:
    """Whether a linear head is fitted by L-BFGS, which needs a convex loss, rather than trained in epochs."""
    is_convex = not options.custom_loss and options.loss not in ("asymmetric", "absolute_error")
    return options.head_optimizer == "lbfgs" and is_convex


def is_linear(head: Head) -> bool:
    """Whether the logits are linear in the features, also while the head trains."""
    return not head.widths and not head.dropout and head.attention is None


def finetunes_members(model: Classifier, options: TrainingOptions) -> bool:
    """Whether the options ask to fine-tune the backbones of a model that has several."""
    return bool(model.members and options.finetune_epochs and options.finetune_from != "none")
