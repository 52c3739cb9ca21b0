"""Look for better settings: many short trainings from the store, then the best few in full.

Enters: labelled images and a base `Config`. Leaves: a `Tuning`, and a folder with every trial, the best configuration
and a run that was trained by it. The test part takes no part until that run is evaluated.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.config import Config, load_config
from regraft.data.dataset import Split
from regraft.data.split import split_text
from regraft.data.urls import whole
from regraft.errors import DataError, MissingExtraError, RegraftError, RunError, UsageError
from regraft.files import write_json, write_text
from regraft.models.checkpoint import versions
from regraft.models.classifier import Classifier
from regraft.pipeline.attempt import METRICS, Metric, Outcome, OutOfTime, Watch, attempt
from regraft.pipeline.evaluate import predict_dataset
from regraft.pipeline.folder import SCRATCH, claimed, new_folder
from regraft.pipeline.listening import told
from regraft.pipeline.run import CONFIG, SOURCE, STANDING, Run
from regraft.pipeline.run import METRICS as RUN_METRICS
from regraft.pipeline.search_space import SearchSpace, changes
from regraft.pipeline.train import build_for, prepare, resume, train_into
from regraft.pipeline.trials import (
    BASE,
    SEARCH,
    Final,
    Record,
    begun_with,
    best_of,
    read_finals,
    refuse_other,
    value_of,
    write_final,
)
from regraft.pipeline.tuning import BEST, Tuning, write_tuning
from regraft.store import Store
from regraft.training.progress import Epoch, Listener, Silence

if TYPE_CHECKING:
    from regraft.pipeline.study import Study

_TRIALS, FINALS = "trials.log", "finalists"
#: Of the time that is left after the first trial, what full trainings and the last evaluation may take at most.
_FULL_SHARE, _EVALUATION_SHARE = 0.6, 0.4
#: The machine may be slower later than while it was measured; images that are predicted to measure it.
_MARGIN, _TIMED = 1.25, 8


@told
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
    listener: Listener | None = None,
    started: float | None = None,
) -> Tuning:
    """Search for settings by validation, and train by the best of them.

    Args:
        data: What `scan` takes. None: that of the search in `out`, with its settings.
        trials: Short trainings, failed and pruned ones included; the first is by the base configuration.
        finalists: How many of the best train in full, beside the base configuration.
        budget: Seconds for everything, from `started` on; None: as long as the trials take.
        metric: What validation is judged by: `loss` (at the best temperature), `accuracy` or `macro_f1`; the loss
            decides between equals.
        config: The base; what it sets is where the search begins.
        fixed: Names of settings that keep the base's value, such as `training.finetune_lr`.
        out: The search's folder. If a search lies in it, it goes on. Default: a new one under `runs/`.
        train: Whether the winner becomes a run, with metrics on the test part.
        listener: Told how far the work is; default: a notebook or terminal that this is called from.
        started: Moment of `time.monotonic` at which the budget begins; default: now.

    Returns:
        What was found. After Ctrl-C, or at the end of the budget, what was found until then.

    Raises:
        MissingExtraError: Optuna is not installed.
        UsageError: An argument does not fit, or `out` holds something else than a search.
        DataError: There are no validation images.
        RunError: Data or settings differ from those of the search in `out`, or no trial succeeded.
        RegraftError: Whatever else goes wrong.
    """
    if find_spec("optuna") is None:
        raise MissingExtraError("A search for settings", "tune")
    started, listener = time.monotonic() if started is None else started, listener or Silence()
    if trials < 1 or finalists < 0 or metric not in METRICS or (budget is not None and budget <= 0):
        raise UsageError(
            f"trials = {trials}, finalists = {finalists}, metric = {metric}, budget = {budget}; expected at least 1 "
            f"trial, 0 finalists, one of {', '.join(METRICS)}, and a budget above 0 seconds."
        )
    known = None if out is None else begun_with(Path(out))
    if data is None:
        if known is None or out is None:
            raise UsageError(f"{out} holds no search to go on with. Expected DATA, or the folder of a search.")
        data, metric, fixed = known["data"], known["metric"], known["fixed"]
        config = load_config(Path(out) / BASE)
    config = config or Config()
    budget = budget or config.training.budget or None
    config = config.model_copy(update={"training": replace(config.training, budget=0.0)})
    where = whole(data)
    identity = {
        "data": where,
        "metric": metric,
        "fixed": sorted(fixed),
        "config": hashlib.sha256(config.to_toml().encode()).hexdigest(),
        "versions": versions(),
    }
    if known is not None:
        refuse_other(known, identity, Path(str(out)))
    model, split = prepare(data, config, listener)
    if not len(split.val):
        raise DataError("There is no val part to judge settings by. Give data.val a share, or the data a val folder.")
    identity["split"] = hashlib.sha256(split_text(split).encode()).hexdigest()
    if known is not None:
        refuse_other(known, identity, Path(str(out)))
    space = SearchSpace(config, fixed, model)
    path = Path(str(out)) if known else new_folder(out, "tune", Path(where).stem, config.model.backbone)
    with claimed(path, resumed=known is not None):
        if known is None:
            write_text(path / BASE, config.to_toml())
            write_json(path / SEARCH, identity)
        listener.note(f"Search: {path}. If it is stopped, `regraft tune --resume {path}` goes on with it.")
        deadline = None if budget is None else started + budget
        search = _Search(path, where, model, split, space, metric, listener, trials, finalists)
        return search.run(deadline, train=train, started=started)


class _Search:
    """The state of one call of `tune`."""

    def __init__(
        self,
        path: Path,
        data: str,
        model: Classifier,
        split: Split,
        space: SearchSpace,
        metric: Metric,
        listener: Listener,
        trials: int,
        finalists: int,
    ) -> None:
        from regraft.pipeline.study import Study, quiet

        self.path, self.data, self.model, self.split, self.space = path, data, model, split, space
        self.metric, self.listener, self.trials, self.finalists = metric, listener, trials, finalists
        # What is searched by cannot look at the test.
        self.seen = Split(split.dataset.with_samples([s for s in split.dataset.samples if s.part != "test"]))
        self.store = Store(limit=int(space.base.training.cache_gb * 1e9))
        with quiet():
            self.study: Study = Study(path / _TRIALS, space.base.training.seed, space.default)
        self.stopped: str | None = None
        #: How many train in full, and until when; known after the first trial, which tells how long things take here.
        self.full = 0
        self.end: float | None = None

    def run(self, deadline: float | None, *, train: bool, started: float) -> Tuning:
        from regraft.pipeline.study import quiet

        spent: dict[str, float] = {"prepare": time.monotonic() - started}
        with quiet():
            steps: dict[str, Callable[[], None]] = {
                "search": lambda: self._search(deadline, train=train),
                "finalists": self._finals,
            }
            for name, work in steps.items():
                begun = time.monotonic()
                try:
                    if self.stopped != "interrupted":
                        work()
                except KeyboardInterrupt:
                    self.stopped = "interrupted"
                spent[name] = time.monotonic() - begun
            tuning = self._keep(spent)
        if train and self.stopped != "interrupted":
            begun = time.monotonic()
            run = self._run(tuning.best)
            spent["run"] = time.monotonic() - begun
            tuning = self._keep(spent, run)
            for file in (self.path / FINALS).glob("*.safetensors"):
                file.unlink()
        return tuning

    def _deadlines(self, deadline: float | None, *, train: bool) -> tuple[tuple[float | None, float | None], int]:
        """When the search and the full trainings end, and how many of these there is time for, by the first trial."""
        if deadline is None:
            return (None, None), 1 + self.finalists
        evaluate = 0.0
        if train:
            some, begun = self.seen.val.samples[:_TIMED], time.monotonic()
            predict_dataset(self.model, self.seen.val.with_samples(some))
            each = (time.monotonic() - begun) / len(some)
            evaluate = 2 + _MARGIN * each * sum(len(self.split[part]) for part in self.split if part != "train")
        left = deadline - time.monotonic()
        end = deadline - min(evaluate, _EVALUATION_SHARE * max(0.0, left))
        first, params = self.study.records[0], self.space.default
        short, whole = (self.space.config(params, short=short).training for short in (True, False))
        rows = [len(self.seen.train) * options.views + len(self.seen.val) for options in (short, whole)]
        factors = {
            "prefix": rows[1] / rows[0],
            "finetune": whole.finetune_epochs / max(1, short.finetune_epochs),
        }
        one = _MARGIN * sum(seconds * factors.get(name, 1.0) for name, seconds in first.steps.items())
        full = int(_FULL_SHARE * (end - time.monotonic()) // max(one, 1e-9))
        full = min(full, 1 + self.finalists) if full >= 2 else 0
        if not full:
            self.listener.note(
                f"A full training takes about {one:.0f} s: there is time for short ones alone; the best of them wins."
            )
        return (end - full * one, end), full

    def _search(self, deadline: float | None, *, train: bool) -> None:
        ends: tuple[float | None, float | None] | None = None
        while True:
            records = self.study.records
            if records and ends is None:
                ends, self.full = self._deadlines(deadline, train=train)
                self.end = ends[1]
            if len(records) >= self.trials:
                break
            end = ends and ends[0]  # the first trial, without which there is no result, has its time
            if end is not None and time.monotonic() > end:
                self.stopped = "time"
                break
            trial = self.study.ask()
            record: Record | None = None
            try:
                record = self._try(trial, records, end)
            except OutOfTime:
                self.stopped = "time"
            finally:  # also after Ctrl-C
                self.study.tell(trial, record)
            if record is None:
                break
            self._tell(record, records)
            if any(row.state == "complete" for row in (*records, record)):
                self._keep({}, pictures=False)
        self.listener.work("search", self.trials, self.trials, "")

    def _try(self, trial: Any, records: list[Record], deadline: float | None) -> Record:
        from regraft.pipeline.study import Pruned

        number, begun = len(records), time.monotonic()
        params = self.space.draw(trial)
        config = self.space.config(params, short=True)
        for before in records:
            if before.state == "complete" and self.space.config(before.params, short=True) == config:
                return replace(before, number=number, params=params, seconds=0.0, steps={}, why=f"as {before.number}")
        best = best_of(records)

        def heard(row: Epoch) -> None:
            value = {
                "loss": row.val_loss,
                "accuracy": None if row.val_accuracy is None else 1 - row.val_accuracy,
                "macro_f1": None if row.val_macro_f1 is None else 1 - row.val_macro_f1,
            }[self.metric]
            if value is not None and number:
                trial.report(value, row.epoch)
                if trial.should_prune():
                    raise Pruned(f"{self.metric} was among the worst third after epoch {row.epoch}")

        name = f"trial {number}" + (f", best {self._shown(best)}" if best else "")
        watch = Watch(self.listener, number, self.trials, name, work="search", deadline=deadline, on_epoch=heard)
        try:
            views = self.space.config(params).training.views
            outcome = attempt(config, self.seen, self.store, self.path / SCRATCH, watch, views=views)
        except Pruned as pruned:
            return Record(number, params, "pruned", seconds=time.monotonic() - begun, why=str(pruned))
        except RegraftError as error:
            return Record(number, params, "failed", seconds=time.monotonic() - begun, why=str(error))
        return self._record(number, params, outcome, time.monotonic() - begun)

    def _record(self, number: int, params: dict[str, Any], outcome: Outcome, seconds: float) -> Record:
        scores = outcome.scores
        return Record(
            number,
            params,
            "complete",
            value=outcome.value(self.metric),
            loss=outcome.loss,
            accuracy=scores.accuracy,
            macro_f1=scores.macro_f1,
            seconds=seconds,
            steps=outcome.steps,
            finetuned=outcome.finetuned,
            engine=outcome.engine,
        )

    def _tell(self, record: Record, before: list[Record]) -> None:
        best = best_of(before)
        if record.state == "failed":
            self.listener.note(f"Trial {record.number} failed: {record.why}")
        elif record.value is not None and (best is None or best.value is None or record.value < best.value):
            what = "the base configuration" if not record.number else "the best so far"
            self.listener.note(
                f"Trial {record.number}: validation loss {record.loss:.4f}, accuracy {record.accuracy:.4f} in "
                f"{record.seconds:.1f} s, {what}."
            )

    def _shown(self, record: Record) -> str:
        return f"{getattr(record, self.metric):.4f}"

    def _finals(self) -> None:
        """Train the base and the best others in full; what was trained before is not trained again."""
        done = {final.record.number for final in read_finals(self.path / FINALS)}
        chosen = self._finalists(self.full)
        for place, record in enumerate(chosen):
            if record.number in done:
                continue
            config, begun = self.space.config(record.params), time.monotonic()
            what = "in full: the base" if not record.number else f"in full: trial {record.number}"
            watch = Watch(self.listener, place, len(chosen), what, work="finalists", deadline=self.end)
            name = f"{record.number:03d}"
            standing = self.path / FINALS / f"{name}.safetensors"
            try:
                outcome = attempt(config, self.seen, self.store, self.path / SCRATCH, watch, standing)
            except OutOfTime:
                self.stopped = "time"
                break
            except RegraftError as error:
                self.listener.note(f"Trial {record.number} failed in full: {error}")
                continue
            result = self._record(record.number, record.params, outcome, time.monotonic() - begun)
            write_final(self.path / FINALS / f"{name}.json", Final(result, outcome.config, outcome.scores.refined))
            title = "The base" if not record.number else f"Trial {record.number}"
            self.listener.note(
                f"{title} in full: validation loss {result.loss:.4f}, accuracy {result.accuracy:.4f} in "
                f"{result.seconds:.0f} s."
            )
        self.listener.work("finalists", len(chosen), len(chosen), "")

    def _finalists(self, full: int) -> list[Record]:
        complete = [record for record in self.study.records if record.state == "complete"]
        if not complete or not full:
            return []
        chosen: list[Record] = [record for record in complete if not record.number]
        configs = [self.space.config(record.params) for record in chosen]
        for record in sorted(complete, key=value_of):
            if len(chosen) < full and (config := self.space.config(record.params)) not in configs:
                chosen.append(record)
                configs.append(config)
        return chosen

    def _keep(self, spent: dict[str, float], run: Run | None = None, *, pictures: bool = True) -> Tuning:
        """Write down what is known.

        Raises:
            RunError: No trial is complete.
        """
        records, finals = self.study.records, read_finals(self.path / FINALS)
        if not any(record.state == "complete" for record in records):
            failures = [record.why for record in records if record.state == "failed"]
            raise RunError(
                f"None of {len(records)} trials came to an end that could be compared"
                + (f"; the first failed: {failures[0]}" if failures else ". Give more time.")
            )
        best, base = min(finals, key=lambda final: value_of(final.record), default=None), self.space.default
        if best is None and (record := best_of(records)):
            config = self.space.config(record.params, short=True)
            training = replace(config.training, engine=record.engine)
            best = Final(record, config.model_copy(update={"training": training}))
        assert best is not None
        base_config = _engine_aside(self.space.config(base, short=not finals))
        changed = changes(_engine_aside(best.config), base_config)
        tuning = Tuning(
            self.path, self.metric, tuple(records), tuple(finals), best, changed,
            self.study.importance(), spent, self.stopped, run,
        )  # fmt: skip
        write_tuning(tuning, pictures=pictures)
        return tuning

    def _run(self, best: Final) -> Run:
        """The winner as a run, from the weights that its full training left where there are such."""
        text = best.config.to_toml()
        number = 1
        while True:
            path = self.path / (BEST if number == 1 else f"{BEST}-{number}")
            if not (path / CONFIG).is_file():
                break
            if (path / CONFIG).read_text(encoding="utf-8") == text:
                if (path / RUN_METRICS).is_file() and not (path / STANDING).is_file():
                    return Run(path)
                return resume(path, listener=self.listener)
            number += 1
        standing = self.path / FINALS / f"{best.record.number:03d}.safetensors"
        model = build_for(best.config, self.split, best.config.model.image_size)
        with claimed(path):
            write_json(path / SOURCE, {"data": self.data})
            if best.refined and standing.is_file():
                (path / STANDING).parent.mkdir(parents=True, exist_ok=True)
                standing.replace(path / STANDING)
            return train_into(model, self.split, path, best.config, _Quieter(self.listener))


class _Quieter:
    """Passes on the work and the notes, not the epochs that were trained before."""

    def __init__(self, listener: Listener) -> None:
        self.work: Callable[..., None] = listener.work
        self.note: Callable[[str], None] = listener.note

    def epoch(self, row: Epoch) -> None:
        """Say nothing."""


def _engine_aside(config: Config) -> Config:
    """What runs the frozen layers was chosen, not searched."""
    return config.model_copy(update={"training": replace(config.training, engine="auto")})
