"""The trials of a search, stored by Optuna in a journal file.

A killed search continues with the parameters that it would have tried next, since each draw is seeded by the search's
seed and the number of trials before it.
"""

from __future__ import annotations

import tomllib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import Trial, TrialState

from regraft.config import Config
from regraft.data.augmentation import random_key
from regraft.errors import RunError, UsageError
from regraft.studies.tune.result import MIN_TRIALS_FOR_IMPORTANCE, TrialRecord, TrialResult

TRIALS = "trials.log"
#: Trials that are drawn at random before earlier results lead.
_STARTUP_TRIALS = 6
_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
# Keys of user attributes.
_SETTINGS, _FINALIST, _RECORD = "settings", "finalist ", "record"

Pruned = optuna.TrialPruned


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Turn Optuna's log messages off within the block."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


class Study:
    """The Optuna study of a search. The caller holds the folder's lock, so that no other process uses the study."""

    def __init__(self, folder: Path, seed: int, default: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Open the study, or create it; a trial that a kill interrupted counts as never started."""
        self._seed, self._default = seed, dict(default)
        file = folder / TRIALS
        _drop_partial_line(file)
        Path(f"{file}.lock").unlink(missing_ok=True)  # of a killed process
        self.optuna = optuna.create_study(
            storage=_storage(file),
            study_name=TRIALS,
            direction="minimize",
            pruner=optuna.pruners.PercentilePruner(67, n_startup_trials=_STARTUP_TRIALS),
            load_if_exists=True,
        )
        if _SETTINGS not in self.optuna.user_attrs:
            self.optuna.set_user_attr(_SETTINGS, dict(settings))
        for trial in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.optuna.tell(trial.number, state=TrialState.FAIL)
        self.evaluator = PedAnovaImportanceEvaluator(target_quantile=0.25)

    @property
    def records(self) -> list[TrialRecord]:
        """Records of the finished trials, in order."""
        trials = self.optuna.get_trials(deepcopy=False)
        records = [(trial.state, TrialRecord(**trial.user_attrs[_RECORD])) for trial in trials if trial.user_attrs]
        # A kill between writing the record and ending the trial leaves another state: that trial is asked for again.
        return [record for state, record in records if state == _STATES[record.state]]

    @property
    def finalists(self) -> list[TrialResult]:
        """Results of the trials that were trained in full, by number."""
        finalists = [
            TrialResult(
                TrialRecord(**value["record"]),
                Config.model_validate(tomllib.loads(value["config"])),
                tuple(value["calibrated_losses"]),
            )
            for key, value in self.optuna.user_attrs.items()
            if key.startswith(_FINALIST)
        ]
        return sorted(finalists, key=lambda finalist: finalist.record.number)

    def add_finalist(self, finalist: TrialResult) -> None:
        """Store the result of a full training."""
        value = asdict(finalist.record)
        value = {"record": value, "config": finalist.config.to_toml(), "calibrated_losses": finalist.calibrated_losses}
        self.optuna.set_user_attr(f"{_FINALIST}{finalist.record.number}", value)

    def ask(self, number: int | None = None) -> Trial:
        """Start the trial with this number, by default that of finished trials; number 0 has the default parameters."""
        number = len(self.records) if number is None else number
        self.optuna.sampler = optuna.samplers.TPESampler(
            seed=random_key(self._seed, number) % 2**32, n_startup_trials=_STARTUP_TRIALS
        )
        if not number and not self.optuna.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self.optuna.enqueue_trial(self._default)
        return self.optuna.ask()

    def tell(self, trial: Trial, record: TrialRecord | None) -> None:
        """End a trial with its record; without one it counts as never started."""
        if record is None:
            self.optuna.tell(trial, state=TrialState.FAIL)
            return
        trial.set_user_attr(_RECORD, asdict(record))
        if record.state == "complete":
            self.optuna.tell(trial, record.value)
        else:
            self.optuna.tell(trial, state=_STATES[record.state])

    def importance(self) -> dict[str, float] | None:
        """Share of each parameter by PED-ANOVA (arXiv 2304.10255); None where too few trials are complete."""
        values = [record.value for record in self.records if record.state == "complete"]
        if len(values) < MIN_TRIALS_FOR_IMPORTANCE or len(set(values)) < 2:
            return None
        with warnings.catch_warnings():  # about parameters that few trials have
            warnings.simplefilter("ignore", UserWarning)
            return get_param_importances(self.optuna, evaluator=self.evaluator)


def read_settings(folder: Path) -> dict[str, Any] | None:
    """Settings that the search in this folder was started with, or None; refuse folders with something else."""
    if (folder / "search.json").is_file():
        raise RunError(
            f"{folder} contains a search of an earlier version, which cannot be resumed. Choose another --out."
        )
    if (folder / TRIALS).is_file():
        with suppress(KeyError):  # killed before the study was created
            study = optuna.load_study(study_name=TRIALS, storage=_storage(folder / TRIALS))
            return dict(study.user_attrs[_SETTINGS])
    elif folder.is_file() or (folder.is_dir() and {file.name for file in folder.iterdir()} - {".lock"}):
        raise UsageError(f"{folder} exists and contains no search; nothing is overwritten. Choose another --out.")
    return None


def _storage(file: Path) -> JournalStorage:
    lock = JournalFileOpenLock(str(file))  # Optuna's default lock needs symbolic links
    return JournalStorage(JournalFileBackend(str(file), lock_obj=lock))


def _drop_partial_line(file: Path) -> None:
    """Remove the last line if a kill interrupted its writing."""
    if file.exists() and not (content := file.read_bytes()).endswith(b"\n"):
        with file.open("r+b") as stream:
            stream.truncate(content.rfind(b"\n") + 1)
