"""Plots of a search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.importance import BaseImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from regraft.report.plots import style
from regraft.studies.tune.result import Metric, TrialRecord

_AXIS = {"loss": "validation loss", "accuracy": "1 - validation accuracy", "macro_f1": "1 - validation macro-F1",
         "mean_average_precision": "1 - validation mAP", "mae": "validation MAE",
         "quadratic_kappa": "1 - validation quadratic kappa"}  # fmt: skip


def plot_history(study: optuna.Study, finalists: Sequence[TrialRecord], metric: Metric, path: Path) -> None:
    """Plot the minimized value of each complete trial, the best so far, and the trials that were trained in full."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    numbers, values = [trial.number for trial in trials], np.array([trial.value for trial in trials], dtype=float)
    figure = Figure(figsize=(10, 5))
    axes = figure.add_axes((0.08, 0.12, 0.9, 0.72))
    style.frame(axes)
    axes.plot(numbers, values, "o", color=style.BLUE, label="short training")
    axes.step(numbers, np.minimum.accumulate(values), where="post", color=style.BLUE, label="best so far")
    if finalists:
        full, results = zip(*((record.number, record.value) for record in finalists), strict=True)
        axes.plot(full, results, "D", color=style.ORANGE, label="trained in full")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial", size=style.TEXT_SIZE, color=style.MUTED)
    axes.set_ylabel(_AXIS[metric], size=style.TEXT_SIZE, color=style.MUTED)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=3, frameon=False,
                fontsize=style.SMALL_SIZE, labelcolor=style.INK)  # fmt: skip
    title = f"{len(trials)} complete trials, lower is better"
    style.write(axes, title, (0, 1), (0, 34), size=style.TITLE_SIZE, color=style.INK)
    style.save(figure, path, tight=True)


def plot_importance(study: optuna.Study, evaluator: BaseImportanceEvaluator, path: Path) -> None:
    """Plot the importance of each parameter, the largest first."""
    importance = get_param_importances(study, evaluator=evaluator)
    names, values = list(importance), list(importance.values())
    figure = Figure(figsize=(10, 1 + 0.4 * len(names)))
    axes = figure.add_subplot()
    style.frame(axes, "x")
    bars = axes.barh(names, values, color=style.BLUE)
    axes.bar_label(bars, [f"{100 * value:.0f} %" for value in values], padding=4, size=style.SMALL_SIZE,
                   color=style.INK)  # fmt: skip
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1 * max(values))
    axes.xaxis.set_visible(False)
    axes.tick_params(axis="y", labelsize=style.TEXT_SIZE, colors=style.INK)
    title = "Parameters that separate the best quarter of the trials"
    style.write(axes, title, (0, 1), (0, 10), size=style.TITLE_SIZE, color=style.INK)
    style.save(figure, path, tight=True)
