"""Search for better settings: many short trainings that share the cache, then the best few in full."""

from __future__ import annotations

import shlex
import time
import tomllib
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from regraft.cluster.executor import Cluster, open_executor
from regraft.config import Config
from regraft.config.presets import for_task
from regraft.data.sources.urls import absolute
from regraft.data.split_file import split_sha256
from regraft.errors import DataError, MissingExtraError, RunError, UsageError, continued_in
from regraft.models.serialization import versions
from regraft.runs.prepare import prepare
from regraft.runs.progress import with_progress
from regraft.runs.run_folder import lock_run, new_folder
from regraft.runs.teacher import refuse_teacher
from regraft.runs.unlabelled import refuse_unlabeled
from regraft.studies.tune.result import METRICS, METRICS_OF, Metric, TuneResult
from regraft.studies.tune.search_space import SearchSpace
from regraft.training.callbacks import NullReporter, ProgressReporter
from regraft.training.phase_plan import finetunes_members, with_enough_steps


@with_progress
def tune(
    data: Path | str | None = None,
    *,
    trials: int = 20,
    finalists: int = 2,
    budget: float | None = None,
    metric: Metric = "loss",
    config: Config | None = None,
    fixed: Collection[str] = (),
    out: Path | str | None = None,
    train: bool = True,
    cluster: Cluster | str | None = None,
    reporter: ProgressReporter | None = None,
    started: float | None = None,
) -> TuneResult:
    """Search for settings by validation, and train by the best of them.

    Args:
        data: Data as `scan` takes it. None: the data and the settings of the search in `out`.
        trials: Number of short trials, failed and pruned ones included; the first has the base configuration.
        finalists: Number of the best trials that are trained in full, besides the base configuration.
        budget: Seconds for everything, counted from `started`; None: no limit.
        metric: Validation metric to optimize: `loss` (at the best temperature), `accuracy` or `macro_f1`; where
            classes have an order, `quadratic_kappa`, too; where an image has any number of classes, `loss`, `macro_f1`
            or `mean_average_precision`; where it has a number, `loss` or `mae`. The loss decides between equals.
        config: Base configuration, at which the search starts.
        fixed: Names of settings that keep the base's value, such as `training.finetune_lr`.
        out: Folder of the search; a search in it is resumed. Default: a new folder under `runs/`.
        train: Whether the winner becomes a run, with metrics on the test part.
        cluster: Address of a Ray cluster that runs trials at the same time (`ray://HOST:10001`, `auto` or `local`),
            whose nodes see the data and `out` at the same paths. The winner becomes a run here.
        reporter: Reporter that gets the progress; default: that of the notebook or terminal.
        started: Moment of `time.monotonic` at which the budget starts; default: now.

    Returns:
        The result. After Ctrl-C, or at the end of the budget, the result so far.

    Raises:
        MissingExtraError: Optuna is not installed.
        UsageError: An argument is wrong, or `out` contains something else than a search.
        DataError: There are no validation images.
        RunError: Data or settings differ from those of the search in `out`, or no trial was completed.
        RegraftError: Any other failure.

    Examples:
        >>> result = regraft.tune("photos", trials=20, out="runs/tuned")  # doctest: +SKIP
        >>> print(result.changes)  # doctest: +SKIP
    """
    if find_spec("optuna") is None:
        raise MissingExtraError("A search for settings", "tune")
    started, reporter = time.monotonic() if started is None else started, reporter or NullReporter()
    if trials < 1 or finalists < 0 or metric not in METRICS or (budget is not None and budget <= 0):
        raise UsageError(
            f"trials = {trials}, finalists = {finalists}, metric = {metric}, budget = {budget}; expected at least 1 "
            f"trial, 0 finalists, one of {', '.join(METRICS)}, and a budget above 0 seconds."
        )
    # Here, since Optuna is optional.
    from regraft.studies.tune.search import Search
    from regraft.studies.tune.study import Study, quiet_optuna, read_settings

    with quiet_optuna():
        stored = None if out is None else read_settings(Path(out))
    if data is None:
        if stored is None:
            raise UsageError(f"{out} contains no search to resume. Expected DATA, or the folder of a search.")
        data, metric, fixed = stored["data"], stored["metric"], stored["fixed"]
        config = Config.model_validate(tomllib.loads(stored["config"]))
    config = config or Config()
    budget = budget or config.training.budget or None
    config = config.model_copy(update={"training": replace(config.training, budget=0.0)})
    settings = {"data": absolute(data), "metric": metric, "fixed": sorted(fixed), "config": config.to_toml(),
                "versions": versions()}  # fmt: skip
    if stored is not None:
        _refuse_other_settings(stored, settings, Path(str(out)))
    refuse_unlabeled(config, "regraft tune")
    refuse_teacher(config, "regraft tune")
    model, split = prepare(data, config, reporter)
    training = for_task(config.training, config.run.preset, split.dataset.task)
    config = config.model_copy(update={"training": with_enough_steps(training, len(split.train))})
    if finetunes_members(model, config.training):
        raise UsageError(
            f"{model.spec.name} are fine-tuned one after the other, and a search tries one training. Search each "
            "backbone, or the head over all: --set training.finetune_epochs=0."
        )
    if metric not in (expected := METRICS_OF[split.dataset.model_task]):
        task = split.dataset.model_task
        raise UsageError(f"metric = {metric}, and the task of the data is {task}. Expected {', '.join(expected)}.")
    if not len(split.val):
        raise DataError("There is no val part to judge settings by. Give data.val a share, or the data a val folder.")
    settings["split"] = split_sha256(split)
    if stored is not None:
        _refuse_other_settings(stored, settings, Path(str(out)))
    space = SearchSpace(config, fixed, model)
    path = Path(str(out)) if stored else new_folder(out, "tune", Path(absolute(data)).stem, config.model.backbone)
    with ExitStack() as locked:
        locked.enter_context(lock_run(path, resumed=stored is not None))
        locked.enter_context(continued_in(path))
        locked.enter_context(quiet_optuna())
        study = Study(path, config.training.seed, space.default, settings)
        resumed = shlex.join(["regraft", "tune", "--resume", str(path)])
        reporter.on_message(f"Search: {path}. If it is stopped, `{resumed}` resumes it.")
        deadline = None if budget is None else started + budget
        executor = locked.enter_context(open_executor(cluster))
        search = Search(
            path, model, split, space, study, settings, reporter, trials, finalists, train, deadline, executor
        )
        search.seconds["prepare"] = time.monotonic() - started
        return search.run()


def _refuse_other_settings(stored: dict[str, Any], settings: dict[str, Any], path: Path) -> None:
    names = {
        "split": "the images, their labels or their parts",
        "config": "the base configuration",
        "fixed": "the fixed settings",
        "metric": "the metric",
        "versions": "the versions of the libraries that compute",
    }
    changed = [text for key, text in names.items() if key in settings and stored[key] != settings[key]]
    if changed:
        raise RunError(
            f"{path} contains a search that was started with different settings: {' and '.join(changed)} differ. Its "
            "trials cannot be compared with new ones. Choose another --out, or resume it as it was: --resume alone, "
            "without DATA."
        )
