"""Trials of a search, kept by Optuna in one file of the search's folder.

Enters: a folder and a seed. Leaves: parameters to try, and the records of what was tried. A search that was killed goes
on with the parameters that it would have tried next: each draw is keyed by the seed and the number of trials before.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from regraft.data.augmentation import random_key
from regraft.pipeline.trials import ENOUGH, Record

#: Trials that are drawn at random before what is known leads.
_STARTUP = 6
_NAME, _RECORD = "search", "record"

Pruned = optuna.TrialPruned


@contextmanager
def quiet() -> Iterator[None]:
    """Within it Optuna says nothing."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


class Study:
    """The trials in a file; the folder must be held against other processes.

    Args:
        file: Optuna's journal, new or as it was left.
        seed: Of the draws.
        default: The parameters of the first trial.
    """

    def __init__(self, file: Path, seed: int, default: Mapping[str, Any]) -> None:
        """Open it; a trial that was under way when its process ended is forgotten."""
        self._seed, self._default = seed, dict(default)
        _cut_after_last_line(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        journal: BaseJournalBackend = JournalFileBackend(
            str(file),
            lock_obj=_Held(),  # type: ignore[arg-type]  # its base class is not public
        )
        self._study = optuna.create_study(
            storage=JournalStorage(journal),
            study_name=_NAME,
            direction="minimize",
            pruner=optuna.pruners.PercentilePruner(67, n_startup_trials=_STARTUP),
            load_if_exists=True,
        )
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._study.tell(trial.number, state=TrialState.FAIL)

    @property
    def records(self) -> list[Record]:
        """Of the trials that ended, in order."""
        return [Record(**trial.user_attrs[_RECORD]) for trial in self._ended()]

    def ask(self) -> Trial:
        """The next trial; the first is the default."""
        count = len(self._ended())
        self._study.sampler = optuna.samplers.TPESampler(
            seed=random_key(self._seed, count) % 2**32, n_startup_trials=_STARTUP
        )
        if not count and not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._study.enqueue_trial(self._default)
        return self._study.ask()

    def tell(self, trial: Trial, record: Record | None) -> None:
        """The trial ended with this record; without one it is forgotten, and asked again."""
        if record is None:
            self._study.tell(trial, state=TrialState.FAIL)
            return
        trial.set_user_attr(_RECORD, record.to_json())
        if record.state == "complete":
            self._study.tell(trial, record.value)
        else:
            self._study.tell(trial, state=TrialState.PRUNED if record.state == "pruned" else TrialState.FAIL)

    def importance(self) -> dict[str, float] | None:
        """Share of each parameter in what separates the best quarter of the trials from the rest, the largest first.

        PED-ANOVA (arXiv 2304.10255); None where too few trials are complete.
        """
        complete = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(complete) < ENOUGH or len({trial.value for trial in complete}) < 2:
            return None
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
        with warnings.catch_warnings():  # of parameters that few trials had
            warnings.simplefilter("ignore", UserWarning)
            found = optuna.importance.get_param_importances(self._study, evaluator=evaluator)
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def _ended(self) -> list[FrozenTrial]:
        # A kill between the record and the end of the trial leaves a record; the trial is asked again all the same.
        ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        trials = self._study.get_trials(deepcopy=False, states=ended)
        seen: dict[int, FrozenTrial] = {}
        for trial in trials:
            if (record := trial.user_attrs.get(_RECORD)) and _fits(trial, record):
                seen.setdefault(record["number"], trial)
        return [seen[number] for number in sorted(seen)]


def _fits(trial: FrozenTrial, record: Mapping[str, Any]) -> bool:
    state = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}[record["state"]]
    return trial.state == state


class _Held:
    """Optuna's lock, which the folder's own makes superfluous; a killed process would leave Optuna's behind."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _cut_after_last_line(file: Path) -> None:
    """Remove what a kill left of a line in the midst of being written."""
    if file.exists() and not (content := file.read_bytes()).endswith(b"\n"):
        with file.open("r+b") as stream:
            stream.truncate(content.rfind(b"\n") + 1)
