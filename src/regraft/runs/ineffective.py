"""Settings that differ from their defaults and have no effect, because of other settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from regraft import distributed
from regraft.config import Config
from regraft.data.augmentation_options import Augmentation
from regraft.data.dataset import Split
from regraft.models.classifier import Classifier
from regraft.models.options import ModelOptions
from regraft.training.distillation import DistillationOptions
from regraft.training.options import TrainingOptions
from regraft.training.phase_plan import finetunes_members, plan_phases

_OF_LORA = ("lora_rank", "lora_alpha")
_OF_FINETUNING = (
    "finetune_lr", "finetune_method", *_OF_LORA, "optimizer", "layer_decay", "ema_epochs", "keep_finetuned", "compile",
    "sharding",
)  # fmt: skip
_OF_HEAD = ("head_epochs", "head_lr", "head_optimizer")
_OF_EPOCHS = (
    "batch_size", "momentum", "weight_decay", "schedule", "warmup", "early_stopping", "reduce_on_plateau",
    "plateau_factor", "monitor", "keep_epoch",
)  # fmt: skip


def describe_ineffective(model: Classifier, split: Split, config: Config) -> Iterator[str]:
    """Yield a sentence for each group of settings without effect, with the reason."""
    options = config.training
    if finetunes_members(model, options):  # what holds for one holds for all
        model = model.member(0)
    phases = plan_phases(model, options)
    training = {k for k, v in asdict(options).items() if v != getattr(TrainingOptions(), k)}

    def without_effect(section: str, names: set[str], reason: str) -> Iterator[str]:
        if chosen := sorted(names):
            verb = "has" if len(chosen) == 1 else "have"
            yield f"{', '.join(f'{section}.{name}' for name in chosen)} {verb} no effect: {reason}."

    if config.model.head == "linear" and config.model.head_widths != ModelOptions().head_widths:
        yield from without_effect("model", {"head_widths"}, "the head is linear (model.head = mlp has widths)")
    if not config.distillation.teacher:
        changed = {k for k, v in asdict(config.distillation).items() if v != getattr(DistillationOptions(), k)}
        yield from without_effect("distillation", changed, "there is no teacher (distillation.teacher)")
    if not phases.finetunes:
        reason = "nothing is fine-tuned (training.finetune_epochs, training.finetune_from)"
        asked = {*_OF_FINETUNING, *(["finetune_min_steps"] if options.finetune_min_steps else [])}
        yield from without_effect("training", training & asked, reason)
    else:
        if options.finetune_method != "lora":
            yield from without_effect("training", training & set(_OF_LORA), "training.finetune_method is full")
        if not distributed.is_distributed():
            yield from without_effect("training", training & {"sharding"}, "one process trains")
    if phases.from_scratch:
        reason = "a network with random weights trains as a whole, without a phase of the head"
        yield from without_effect("training", training & {*_OF_HEAD, "keep_finetuned"}, reason)
    elif phases.head == "none":
        yield from without_effect("training", training & {"refit"}, "no head is fitted (training.head_epochs is 0)")
        yield from without_effect("training", training & {"head_lr", "head_optimizer"}, "training.head_epochs is 0")
    elif phases.head == "lbfgs":
        yield from without_effect("training", training & {"head_epochs", "head_lr"}, "the head is fitted by L-BFGS")
    if phases.head != "epochs" and not phases.finetunes:
        reason = "the head is fitted by L-BFGS, and nothing trains in epochs (training.head_optimizer)"
        yield from without_effect("training", training & set(_OF_EPOCHS), reason)
    if phases.finetunes or phases.head == "epochs":
        if not options.reduce_on_plateau:
            yield from without_effect("training", training & {"plateau_factor"}, "training.reduce_on_plateau is 0")
        if not len(split.val):
            reason = "there are no validation images"
            yield from without_effect("training", training & {"early_stopping", "monitor"}, reason)
    if options.refit and phases.head == "epochs":
        yield from without_effect("training", {"refit"}, "the head is trained in epochs, and not fitted")
    if options.refit and not len(split.val):
        yield from without_effect("training", {"refit"}, "there are no validation images")
    if not phases.boundary:
        reason = "nothing is frozen, and each epoch has new views (training.finetune_from)"
        yield from without_effect("training", training & {"views"}, reason)
    elif phases.finetunes and options.feature_cache == "none":
        reason = "each step has new views (training.feature_cache)"
        yield from without_effect("training", training & {"views"}, reason)
    elif not phases.finetunes and phases.views == 1:
        changed = {k for k, v in asdict(config.augmentation).items() if v != getattr(Augmentation(), k)}
        reason = "the head trains on the plain images (training.views adds others)"
        yield from without_effect("augmentation", changed, reason)
