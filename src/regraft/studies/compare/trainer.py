"""Train the models of a comparison in subprocesses, each alone or several at once, within a budget that they share.

Input: names of models, data and a configuration. Output: a run and what timing it gave, for each name.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from regraft.atomic_io import write_text
from regraft.cluster.executor import Executor, Task
from regraft.config import Config
from regraft.errors import BudgetError, WeightsError
from regraft.models.registry import BASELINES, find_backbone
from regraft.runs.run import Run
from regraft.runs.subprocess_train import Timing, train_in_subprocess
from regraft.studies.compare.result import ComparedModel
from regraft.text import pluralize
from regraft.training.callbacks import ProgressReporter

#: Learning rate and least epochs of a baseline network, which trains as a whole from random weights.
_BASELINE_LR, BASELINE_EPOCHS = 1e-3, 30
#: Seconds that a subprocess takes besides its training, to start and to time predictions, until it is measured.
_OVERHEAD = 10.0
#: Seconds to write the report of a model again, with the comparison in it.
REPORT_SECONDS = 1.5
#: How much longer than before a model must train in the time that is left, so that it trains again.
_WORTH_IT = 1.3
#: Folder of the comparison's own cache: each model computes its features, whatever was trained before.
CACHE = ".cache"


def check_budget(budget: float, models: int) -> None:
    """Refuse a budget that the processes of the trainings use up before any training."""
    if budget and budget < (least := models * (_OVERHEAD + REPORT_SECONDS)):
        raise BudgetError(
            f"A budget of {budget:g} s is too short for {pluralize(models, 'model')}: to start a process for each, to "
            f"time its predictions and to write its report takes about {least:.0f} s, without any training. Give at "
            f"least {3 * least:.0f} s, or compare fewer models."
        )


def promise_of(name: str) -> tuple[bool, float]:
    """Sort key: pretrained models before baselines, then those with less computation; unknown computation last."""
    return name in BASELINES, find_backbone(name).gmac or float("inf")


def _config_for(config: Config, name: str, budget: float) -> Config:
    training = replace(config.training, budget=budget)
    model = replace(config.model, backbone=name)
    if name in BASELINES:
        epochs = max(BASELINE_EPOCHS, training.finetune_epochs)
        training = replace(training, finetune_from="all", finetune_lr=_BASELINE_LR, finetune_epochs=epochs)
        model = replace(model, weights="auto", image_size=0)
    return config.model_copy(update={"model": model, "training": training})


def settings_not_for_baselines(config: Config) -> list[str]:
    """Settings other than the defaults that a baseline does not follow."""
    changed = _config_for(config, next(iter(BASELINES)), 0.0)
    return [
        f"{section}.{name}"
        for section in ("model", "training")
        for name, value in asdict(getattr(config, section)).items()
        if name not in ("backbone", "budget")
        and value not in (getattr(getattr(Config(), section), name), getattr(getattr(changed, section), name))
    ]


@dataclass
class _Attempt:
    """A training of a model by a configuration into a folder; `is_least` if it is the smallest that there is."""

    name: str
    out: Path
    config: Config
    is_least: bool = False
    started: float = 0.0


@dataclass
class ModelTrainer:
    """Trains models in the time until the deadline.

    `overheads` are the seconds that subprocesses took besides what was meant for their training, and `shares` the
    seconds that each model had.
    """

    data: str
    config: Config
    path: Path
    deadline: float | None
    random_if_missing: bool
    reporter: ProgressReporter
    executor: Executor
    overheads: list[float] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)

    def train(self, names: Sequence[str]) -> Iterator[tuple[str, Future[tuple[Run, Timing]]]]:
        """Train models, as many at once as the executor has slots; yield each when it has ended."""
        waiting = list(names)

        def next_attempt() -> _Attempt | None:
            if not waiting:
                return None
            name, number = waiting.pop(0), len(names) - len(waiting)
            self.reporter.on_progress("models", number - 1, len(names), name)
            self.reporter.on_message(f"{name} ({number} of {len(names)})")
            share = 0.0
            if self.deadline is not None:
                rounds = math.ceil((len(waiting) + 1) / self.executor.slots)
                left = max(0.0, self._left())  # without any, the training says so
                share = self.shares[name] = max(1.0, (left + self.overhead) / rounds - self.overhead)
            return _Attempt(name, self.path / name, _config_for(self.config, name, share))

        yield from self._run(next_attempt)

    def _run(self, next_attempt: Callable[[], _Attempt | None]) -> Iterator[tuple[str, Future[tuple[Run, Timing]]]]:
        """Run attempts; one without weights or time is followed by one that needs none, or less."""
        running: dict[Task, _Attempt] = {}
        following: list[_Attempt] = []
        out_of_time: list[_Attempt] = []

        def next_task() -> Task | None:
            while (attempt := following.pop() if following else next_attempt()) is not None:
                if self.deadline is not None and self._left() <= 0:
                    out_of_time.append(attempt)
                    continue
                attempt.started = time.monotonic()
                settings = self.path / f"{attempt.name}.toml"
                write_text(settings, attempt.config.with_absolute_weights().to_toml())
                places = (path.resolve() for path in (settings, attempt.out, self.path / CACHE))
                task = Task(attempt.name, train_in_subprocess, (self.data, *places), self.reporter)
                running[task] = attempt
                return task
            return None

        for task, future in self.executor.run(next_task):
            attempt = running.pop(task)
            if (smaller := self._attempt_after(attempt, future.exception())) is not None:
                following.append(smaller)
                continue
            ended: Future[tuple[Run, Timing]] = Future()
            try:
                timing = future.result()
                self._measure_overhead(attempt, timing)
                ended.set_result((Run(attempt.out), timing))
            except Exception as error:
                ended.set_exception(error)
            yield attempt.name, ended
        for attempt in out_of_time:
            ended = Future()
            ended.set_exception(BudgetError("no time was left in the budget, which all models share"))
            yield attempt.name, ended

    def _attempt_after(self, attempt: _Attempt, error: BaseException | None) -> _Attempt | None:
        """What to train instead after an error, or None."""
        name, config = attempt.name, attempt.config
        if isinstance(error, WeightsError) and self.random_if_missing and config.model.weights != "none":
            self.reporter.on_message(f"{name}: its weights are not available, so it starts from random ones.")
            config = config.model_copy(update={"model": replace(config.model, weights="none")})
            return replace(attempt, config=config)
        if isinstance(error, BudgetError) and self.deadline is not None and not attempt.is_least:
            if (left := self._left()) <= 0:
                return None
            least = "one epoch" if name in BASELINES else "its head alone"
            self.reporter.on_message(
                f"{name} does not fit into its share, {self.shares[name]:.0f} s, and trains {least}."
            )
            training = replace(config.training, budget=left, finetune_epochs=int(name in BASELINES))
            return replace(attempt, config=config.model_copy(update={"training": training}), is_least=True)
        return None

    def choose_again(self, models: Mapping[str, ComparedModel]) -> str | None:
        """The best on validation of the models for whose wanted epochs there was no time, but is now."""
        left = 0.0 if self.deadline is None else self._left()
        names = [
            name
            for name, share in self.shares.items()
            if name in models and share * _WORTH_IT < left
            and models[name].finetune_epochs < self._wanted_epochs(name)
        ]  # fmt: skip
        return max(names, key=lambda n: (n not in BASELINES, models[n].val_merit), default=None)

    def train_again(self, name: str) -> tuple[Run, Timing]:
        """Train a model anew in all the time that is left, and replace its run."""
        share = self.shares[name] = self._left()
        new = self.path / f"{name}-again"
        attempts = iter([_Attempt(name, new, _config_for(self.config, name, share), is_least=True)])
        ((_, future),) = self._run(lambda: next(attempts, None))
        _, timing = future.result()
        shutil.rmtree(self.path / name)
        new.rename(self.path / name)
        return Run(self.path / name), timing

    @property
    def overhead(self) -> float:
        """Seconds that the next subprocess may take besides its training."""
        return max(self.overheads, default=_OVERHEAD)

    def _measure_overhead(self, attempt: _Attempt, timing: Timing) -> None:
        # What a training takes beyond its budget counts as well, so that the next ones get less.
        if (budget := attempt.config.training.budget) and timing.training:
            self.overheads.append(time.monotonic() - attempt.started - min(timing.training, budget))

    def _left(self) -> float:
        assert self.deadline is not None
        return self.deadline - time.monotonic() - self.overhead

    def _wanted_epochs(self, name: str) -> int:
        training = _config_for(self.config, name, 0.0).training
        return 0 if training.early_stopping or training.finetune_from == "none" else training.finetune_epochs
