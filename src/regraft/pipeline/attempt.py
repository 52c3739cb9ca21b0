"""One configuration of a search, trained and judged on validation.

Enters: a `Config` and a split without its test part. Leaves: an `Outcome`, or an exception: out of time, pruned (by
whoever listens to the epochs), interrupted, or what made the training fail.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch

from regraft.config import Config
from regraft.data.dataset import Split
from regraft.errors import TrainingError
from regraft.models.classifier import Classifier
from regraft.pipeline.train import build_for
from regraft.store import Store
from regraft.training.engine import EngineName, choose_engine
from regraft.training.hardware import choose_device, choose_precision
from regraft.training.objective import Objective, Scores, score
from regraft.training.progress import Epoch, Listener
from regraft.training.train import train as train_classifier

Metric = Literal["loss", "accuracy", "macro_f1"]
METRICS: tuple[Metric, ...] = get_args(Metric)
#: What a smaller loss may weigh against macro-F1, so that it decides between equals alone.
_TIE = 1e-5


class OutOfTime(Exception):
    """The search's time is up."""


@dataclass(frozen=True)
class Outcome:
    """What training a configuration gave.

    Attributes:
        config: With the engine that was used, so that it gives the same numbers again.
        scores: On validation.
        steps: Seconds of decode, prefix, head, finetune.
        finetuned: Whether the fine-tuned model was kept.
        engine: What ran the frozen layers.
    """

    config: Config
    scores: Scores
    steps: dict[str, float]
    finetuned: bool
    engine: EngineName

    @property
    def loss(self) -> float:
        """Of a validation image at the temperature that suits them best, as a run's is, in nats."""
        return sum(self.scores.refined) / len(self.scores.refined)

    def value(self, metric: Metric) -> float:
        """To be minimised: the loss, or the share that is missing, where the loss decides between equals."""
        if metric == "loss":
            return self.loss
        tie = self.loss / (1 + self.loss)
        if metric == "accuracy":  # goes in steps of one image
            return 1 - self.scores.accuracy + tie / (self.scores.count + 1)
        return 1 - self.scores.macro_f1 + _TIE * tie


class Watch:
    """Listens to one training: passes on how far it is, ends it when the time is up.

    Args:
        listener: Told of the search.
        done: Trials before.
        total: Trials.
        name: Of this one.
        deadline: Moment of `time.monotonic`.
        on_epoch: Called with each epoch of fine-tuning; may raise.
    """

    def __init__(
        self,
        listener: Listener,
        done: int,
        total: int,
        name: str,
        *,
        work: str,
        deadline: float | None = None,
        on_epoch: Callable[[Epoch], None] | None = None,
    ) -> None:
        """Nothing is heard yet."""
        self.listener, self.done, self.total, self.name, self.title = listener, done, total, name, work
        self.deadline, self.on_epoch = deadline, on_epoch

    def work(self, name: str, done: int, total: int, detail: str = "") -> None:
        """Pass it on as the search's.

        Raises:
            OutOfTime: The time is up.
        """
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise OutOfTime
        percent = 100 * done // max(1, total)
        self.listener.work(self.title, self.done, self.total, f"{self.name}: {name} {percent} %")

    def epoch(self, row: Epoch) -> None:
        """Hand on an epoch of fine-tuning."""
        if self.on_epoch and row.phase == "finetune":
            self.on_epoch(row)

    def note(self, text: str) -> None:
        """Say only what concerns the whole search."""
        if text.startswith("The cache keeps"):
            self.listener.note(text)


def attempt(
    config: Config,
    split: Split,
    store: Store,
    scratch: Path,
    watch: Watch,
    standing: Path | None = None,
    views: int = 0,
) -> Outcome:
    """Train a configuration and judge it.

    Args:
        config: All settings.
        split: With train and val; a test part is not used, and better not there.
        store: Where pixels and activations are found and kept.
        scratch: For what is not kept.
        watch: Told how far it is.
        standing: File of the state after each epoch, from which another attempt goes on.
        views: By which the engine is chosen, if not by the configuration's: trials that a full training may follow
            fill the store with what it will look for.

    Raises:
        OutOfTime: As `watch` says.
        KeyboardInterrupt: It was interrupted.
        TrainingError: The loss is no number.
        RegraftError: Whatever else makes it fail.
    """
    model = build_for(config, split, config.model.image_size)
    config = _with_engine(config, model, split, store, views or config.training.views)
    training = train_classifier(
        model,
        split,
        augmentation=config.augmentation,
        store=store,
        scratch=scratch,
        standing=standing,
        listener=watch,
        **asdict(config.training),
    )
    if training.stopped == "interrupted":
        raise KeyboardInterrupt
    if training.stopped or training.val_logits is None:
        raise TrainingError(training.stopped or "There are no validation images.")
    objective = Objective(config.training.loss, 0.0, torch.ones(len(split.classes)))
    scores = score(objective, training.val_logits, torch.from_numpy(split.val.labels), refine=True)
    if not math.isfinite(scores.loss):
        raise TrainingError(f"The validation loss is {scores.loss}, which is no number to compare by.")
    steps = {name: seconds for name, seconds in training.seconds.items() if name != "total"}
    return Outcome(config, scores, steps, training.finetuned, training.engine)


def _with_engine(config: Config, model: Classifier, split: Split, store: Store, views: int) -> Config:
    """The engine named, as `regraft train` would choose it, so that the next training of this chooses the same."""
    options = config.training
    boundary, end = model.resolve(options.finetune_from), len(model.stages)
    cut = boundary if boundary and options.finetune_epochs else end
    device = choose_device(options.device)
    model.to(device)
    rows = len(split.train) * (views if boundary else 1)
    engine, _ = choose_engine(
        options.engine,
        model,
        cut,
        choose_precision(options.precision, device),
        rows=rows,
        store=store if options.cache_gb else None,
    )
    return config.model_copy(update={"training": replace(options, engine=engine)})
