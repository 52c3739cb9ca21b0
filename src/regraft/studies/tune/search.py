"""Run a search. The result is written after each trial, so that a kill loses at most the training under way."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from optuna.trial import Trial

from regraft.atomic_io import write_json
from regraft.cache import Cache
from regraft.cluster.executor import Executor, Task
from regraft.config import Config
from regraft.data.dataset import Split
from regraft.errors import RegraftError, RunError
from regraft.models.classifier import Classifier
from regraft.runs.budget import RunPlan
from regraft.runs.prepare import build_for
from regraft.runs.resume import resume
from regraft.runs.run import CHECKPOINT, CONFIG, METRICS, SOURCE, Run
from regraft.runs.run_folder import SCRATCH, lock_run
from regraft.runs.sample_predictions import predict_samples
from regraft.runs.train import train_into
from regraft.studies.tune.plots import plot_history, plot_importance
from regraft.studies.tune.result import BEST, Metric, TrialRecord, TrialResult, TuneResult
from regraft.studies.tune.search_space import SearchSpace, changes
from regraft.studies.tune.study import Pruned, Study
from regraft.studies.tune.trial import OutOfTime, TrialReporter, run_trial
from regraft.training.callbacks import Epoch, HeadFit, ProgressReporter

FINALISTS = "finalists"
#: Shares of the time left after the first trial that full trainings and the last evaluation may take at most.
_FULL_SHARE, _EVALUATION_SHARE = 0.6, 0.4
#: Factor on measured times, since the machine may become slower; number of images that are predicted to measure it.
_MARGIN, _TIMED_IMAGES = 1.25, 8


@dataclass
class Search:
    """One call of `tune`: the short trials, the full trainings of the best, and the winner's run."""

    path: Path
    model: Classifier
    split: Split
    space: SearchSpace
    study: Study
    settings: dict[str, Any]
    reporter: ProgressReporter
    max_trials: int
    max_finalists: int
    train: bool
    deadline: float | None
    executor: Executor
    seconds: dict[str, float] = field(default_factory=dict)
    stopped: str | None = None

    def __post_init__(self) -> None:
        self.metric: Metric = self.settings["metric"]
        self.cache = Cache(limit=int(self.space.base.training.cache_gb * 1e9))
        # The search gets no test images, so that it cannot depend on them.
        samples = [sample for sample in self.split.dataset.samples if sample.part != "test"]
        self.search_split = Split(self.split.dataset.with_samples(samples))
        self._shared_split = self.executor.share(self.search_split)
        # Set after the first trial, by its duration.
        self.num_finalists = 0
        self.search_deadline: float | None = None
        self.finalists_deadline: float | None = None

    def run(self) -> TuneResult:
        """Run the steps that are left; write and return the result. Raises `RunError` if no trial was completed."""
        try:
            with self._timed("search"):
                self._run_trials()
            with self._timed("finalists"):
                self._train_finalists()
        except KeyboardInterrupt:
            self.stopped = "interrupted"
        result = self._write()
        if self.train and self.stopped != "interrupted":
            with self._timed("run"):
                run = self._train_winner(result.best)
            result = self._write(run)
            for file in (self.path / FINALISTS).glob("*.safetensors"):
                file.unlink()
        return result

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[step] = time.monotonic() - started

    def _run_trials(self) -> None:
        records = self.study.records
        if records:
            self._plan(records[0])
        running: dict[Task, _Running] = {}

        def next_task() -> Task | None:
            while len(records) + len(running) < self.max_trials:
                if not records and running and self.deadline is not None:
                    return None  # how long the first trial takes decides what there is time for
                # The first trial always starts, and ends early where it must: without it there is no result.
                if records and self.search_deadline is not None and time.monotonic() > self.search_deadline:
                    self.stopped = "time"
                    return None
                started = self._start_trial(records, running)
                if isinstance(started, Task):
                    return started
                self._end_trial(started, records)
            return None

        try:
            for task, future in self.executor.run(next_task):
                ended = running[task]
                try:
                    ended.record = self._record_of(ended, future)
                except OutOfTime:
                    self.stopped = "time"
                    break
                del running[task]
                self._end_trial(ended, records)
        finally:  # also after Ctrl-C
            for left in running.values():
                self.study.tell(left.trial, None)
        self.reporter.on_progress("search", self.max_trials, self.max_trials, "")

    def _end_trial(self, ended: _Running, records: list[TrialRecord]) -> None:
        assert ended.record is not None
        self.study.tell(ended.trial, ended.record)
        self._report_trial(ended.record, _best_of(records))
        records.append(ended.record)
        if len(records) == 1:
            self._plan(ended.record)
        if _best_of(records):
            self._write(plots=False)

    def _plan(self, first: TrialRecord) -> None:
        """Set the number of finalists, and the deadlines of search and finalists, by the first trial's duration."""
        if self.deadline is None:
            self.num_finalists = 1 + self.max_finalists
            return
        evaluation = 0.0
        if self.train:
            val, started = self.search_split.val, time.monotonic()
            timed = val.with_samples(val.samples[:_TIMED_IMAGES])
            predict_samples(self.model, timed)
            per_image = (time.monotonic() - started) / len(timed)
            evaluation = 2 + _MARGIN * per_image * sum(len(self.split[p]) for p in self.split if p != "train")
        left = max(0.0, self.deadline - time.monotonic())
        self.finalists_deadline = self.deadline - min(evaluation, _EVALUATION_SHARE * left)
        short, full = (self.space.config(self.space.default, short=is_short).training for is_short in (True, False))
        rows = [len(self.search_split.train) * o.views + len(self.search_split.val) for o in (short, full)]
        factors = {"prefix": rows[1] / rows[0], "finetune": full.finetune_epochs / max(1, short.finetune_epochs)}
        one = _MARGIN * sum(seconds * factors.get(step, 1.0) for step, seconds in first.steps.items())
        fitting = int(_FULL_SHARE * (self.finalists_deadline - time.monotonic()) // max(one, 1e-9))
        self.num_finalists = min(fitting, 1 + self.max_finalists) if fitting >= 2 else 0
        self.search_deadline = self.finalists_deadline - self.num_finalists * one
        if self.train and not self.num_finalists:  # the best short trial is trained again, with its cached layers
            cached = () if first.cache_too_small else ("decode", "prefix")
            again = _MARGIN * sum(seconds for step, seconds in first.steps.items() if step not in cached)
            self.search_deadline -= min(again, _EVALUATION_SHARE * left)
        if not self.num_finalists:
            self.reporter.on_message(
                f"A full training takes about {one:.0f} s: there is time for short trials alone; the best of them wins."
            )

    def _start_trial(self, records: list[TrialRecord], running: dict[Task, _Running]) -> Task | _Running:
        """The task of the next trial; if a trial with this configuration is complete, one that has ended."""
        used = {record.number for record in records} | {other.number for other in running.values()}
        number = next(number for number in itertools.count() if number not in used)
        trial = self.study.ask(number)
        started = _Running(number, trial, self.space.draw(trial), time.monotonic())
        params = started.params
        config = self.space.config(params, short=True)
        for earlier in records:
            if earlier.state == "complete" and self.space.config(earlier.params, short=True) == config:
                message = f"same as {earlier.number}"
                started.record = replace(earlier, number=number, params=params, seconds=0.0, steps={}, message=message)
                return started
        reported: set[int] = set()

        def prune(row: Epoch) -> None:
            value = {
                "loss": row.val_loss,
                "accuracy": None if row.val_accuracy is None else 1 - row.val_accuracy,
                "macro_f1": None if row.val_macro_f1 is None else 1 - row.val_macro_f1,
                # Epochs have none of these, and trials are compared with trials.
                "mean_average_precision": row.val_loss,
                "mae": row.val_loss,
                "quadratic_kappa": row.val_loss,
            }[self.metric]
            if value is not None and number and row.epoch not in reported:  # it is, if a cluster's node has died
                reported.add(row.epoch)
                trial.report(value, row.epoch)
                if trial.should_prune():
                    raise Pruned(f"{self.metric} was among the worst third after epoch {row.epoch}")

        best = _best_of(records)
        title = f"trial {number}" + (f", best {best.text(self.metric)}" if best else "")
        deadline = self.search_deadline if records else None
        reporter = TrialReporter(
            self.reporter, "search", len(records), self.max_trials, title, deadline=deadline, on_epoch=prune
        )
        views = self.space.config(params).training.views
        limit = None
        if not records and self.deadline is not None:
            limit = (1 - _EVALUATION_SHARE * self.train) * max(0.0, self.deadline - time.monotonic())
        task = self._task(number, params, config, reporter, views=views, limit=limit)
        running[task] = started
        return task

    def _record_of(self, ended: _Running, future: Future[TrialResult]) -> TrialRecord:
        try:
            record = future.result().record
        except (Pruned, RegraftError) as error:
            state: Literal["pruned", "failed"] = "pruned" if isinstance(error, Pruned) else "failed"
            seconds = time.monotonic() - ended.started
            return TrialRecord(ended.number, ended.params, state, seconds=seconds, message=str(error))
        if record.cache_too_small and not any(earlier.cache_too_small for earlier in self.study.records):
            self.reporter.on_message(
                f"The cache ({self.cache.limit / 1e9:g} GB, training.cache_gb) is too small for this search: trials "
                "that do not fit compute their frozen layers again."
            )
        return record

    def _task(
        self, number: int, params: dict[str, Any], config: Config, reporter: TrialReporter, **options: Any
    ) -> Task:
        options |= {"cache": self.cache, "scratch": (self.path / SCRATCH).resolve()}
        function = functools.partial(run_trial, **options)
        return Task(f"trial {number}", function, (number, params, config, self._shared_split, self.metric), reporter)

    def _report_trial(self, record: TrialRecord, best: TrialRecord | None) -> None:
        if record.state == "failed":
            self.reporter.on_message(f"Trial {record.number} failed: {record.message}")
        elif record.state == "complete" and (best is None or record.rank < best.rank):
            title = "the base configuration" if not record.number else "the best so far"
            self.reporter.on_message(f"Trial {record.number}: {record.describe()} in {record.seconds:.1f} s, {title}.")

    def _train_finalists(self) -> None:
        """Train the base and the best others in full, as far as earlier calls have not."""
        done = {finalist.record.number for finalist in self.study.finalists}
        chosen = self._choose_finalists()
        waiting = [(place, short) for place, short in enumerate(chosen) if short.number not in done]
        titles: dict[Task, str] = {}

        def next_task() -> Task | None:
            if not waiting:
                return None
            place, short = waiting.pop(0)
            title = f"trial {short.number}" if short.number else "the base"
            reporter = TrialReporter(
                self.reporter, "finalists", place, len(chosen), f"in full: {title}", deadline=self.finalists_deadline
            )
            config, checkpoint = self.space.config(short.params), self._checkpoint(short.number).resolve()
            task = self._task(short.number, short.params, config, reporter, checkpoint=checkpoint)
            titles[task] = title
            return task

        for task, future in self.executor.run(next_task):
            try:
                result = future.result()
            except OutOfTime:
                self.stopped = "time"
                break
            except RegraftError as error:
                self.reporter.on_message(f"{task.name.capitalize()} failed in full: {error}")
                continue
            self.study.add_finalist(result)
            record = result.record
            self.reporter.on_message(
                f"{titles[task].capitalize()} in full: {record.describe()} in {record.seconds:.0f} s."
            )
        self.reporter.on_progress("finalists", len(chosen), len(chosen), "")

    def _choose_finalists(self) -> list[TrialRecord]:
        """The base, and the best trials whose full configurations differ."""
        complete = [record for record in self.study.records if record.state == "complete"]
        if not self.num_finalists:
            return []
        chosen = [record for record in complete if not record.number]
        configs = [self.space.config(record.params) for record in chosen]
        for record in sorted(complete, key=lambda record: record.rank):
            config = self.space.config(record.params)
            if len(chosen) < self.num_finalists and config not in configs:
                chosen.append(record)
                configs.append(config)
        return chosen

    def _checkpoint(self, number: int) -> Path:
        return self.path / FINALISTS / f"{number:03d}.safetensors"

    def _write(self, run: Run | None = None, *, plots: bool = True) -> TuneResult:
        """Write the result so far; raise `RunError` if no trial is complete."""
        records, finalists = self.study.records, self.study.finalists
        short = _best_of(records)
        if short is None:
            failed = [record.message for record in records if record.state == "failed"]
            reason = f"; the first error: {failed[0]}" if failed else ". Give more time."
            raise RunError(f"None of {len(records)} trials was completed{reason}")
        if finalists:
            best = min(finalists, key=lambda finalist: finalist.record.rank)
        else:
            config = self.space.config(short.params, short=True)
            training = replace(config.training, prefix_backend=short.prefix_backend)
            best = TrialResult(short, config.model_copy(update={"training": training}))
        base = self.space.config(self.space.default, short=not finalists)
        result = TuneResult(
            self.path, self.metric, tuple(records), tuple(finalists), best, changes(best.config, base),
            self.study.importance(), dict(self.seconds), self.stopped, run,
        )  # fmt: skip
        result.write()
        if plots:
            folder = self.path / "plots"
            plot_history(self.study.optuna, [f.record for f in finalists], self.metric, folder / "history.png")
            if result.importance:
                plot_importance(self.study.optuna, self.study.evaluator, folder / "importance.png")
        return result

    def _train_winner(self, best: TrialResult) -> Run:
        text = best.config.to_toml()
        for number in itertools.count(1):
            path = self.path / (BEST if number == 1 else f"{BEST}-{number}")
            if not (path / CONFIG).is_file():
                break
            if (path / CONFIG).read_text(encoding="utf-8") == text:
                is_finished = (path / METRICS).is_file() and not (path / CHECKPOINT).is_file()
                return Run(path) if is_finished else resume(path, reporter=self.reporter)
        model = build_for(best.config, self.split.dataset)
        with lock_run(path):
            write_json(path / SOURCE, {"data": self.settings["data"]})
            checkpoint, deadline = self._checkpoint(best.record.number), self.finalists_deadline
            if best.calibrated_losses and checkpoint.is_file():
                (path / CHECKPOINT).parent.mkdir(parents=True, exist_ok=True)
                checkpoint.replace(path / CHECKPOINT)
                deadline = None  # it is trained
            return train_into(
                RunPlan(model, best.config, deadline), self.split, path, _WithoutEpochs(self.reporter)
            )  # fmt: skip


@dataclass
class _Running:
    """A trial that has been asked for; `started` is a moment of `time.monotonic`, `record` its end."""

    number: int
    trial: Trial
    params: dict[str, Any]
    started: float
    record: TrialRecord | None = None


def _best_of(records: Collection[TrialRecord]) -> TrialRecord | None:
    """The complete trial with the least value, the earliest of equals, or None."""
    complete = [record for record in records if record.state == "complete"]
    return min(complete, key=lambda record: record.rank, default=None)


class _WithoutEpochs:
    """Reporter that leaves out the epochs, which were trained before."""

    def __init__(self, reporter: ProgressReporter) -> None:
        self.on_progress: Callable[..., None] = reporter.on_progress
        self.on_message: Callable[[str], None] = reporter.on_message

    def on_head_path(self, path: Sequence[HeadFit]) -> None:
        pass

    def on_epoch_end(self, row: Epoch) -> None:
        pass
