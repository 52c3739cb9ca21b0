"""Compare what a run is used on with its validation images, or with earlier pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from regraft.atomic_io import write_csv, write_json
from regraft.data.decode import ImageSource
from regraft.errors import DataError, ImageError, UsageError, suggest_names
from regraft.evaluation.drift.changes import ALPHA, Changes, find_changes, strange_p_values
from regraft.evaluation.drift.observations import Observations
from regraft.models.serialization import WEIGHTS
from regraft.report.plots.samples import StrangeTile, plot_samples
from regraft.runs.run import Run
from regraft.serving.answer_log import is_answer_log, read_answers
from regraft.studies.drift.choose import ChosenPicture, label_next, strangest
from regraft.studies.drift.observe import observe
from regraft.studies.drift.pictures import open_pictures
from regraft.studies.drift.reference import validation_of
from regraft.text import pluralize
from regraft.training.callbacks import NullReporter, ProgressReporter

#: What `Drift.write` writes.
RESULT, SHEET, LABEL_NEXT = "drift.json", "strangest.png", "label_next.csv"
#: Pictures on the sheet of the strangest, and the least size of a side on it.
_STRANGEST, _SHEET_SIZE = 24, 256
_COLUMNS = ("path", "reason", "answer", "confidence", "ood_p_value")


def _no_picture(name: str) -> np.ndarray:
    raise ImageError("not kept", name)


@dataclass(frozen=True, eq=False)
class Drift:
    """Whether inputs or answers have changed, and what to do about it.

    Attributes:
        changes: The tests, with a verdict.
        strangest: The pictures farthest from the training pictures, the farthest first.
        label_next: Pictures whose labels would teach the model most, the most urgent first.
        notes: What the user should know about the comparison, in sentences.
        unreadable: Paths and reasons of pictures that cannot be read.
    """

    changes: Changes
    strangest: tuple[ChosenPicture, ...]
    label_next: tuple[ChosenPicture, ...]
    notes: tuple[str, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()
    _picture: Callable[[str], np.ndarray] = field(default=_no_picture, repr=False)

    def __str__(self) -> str:
        return "\n".join([self.changes.verdict, *(one.sentence for one in self.changes.tests), *self.notes])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **self.changes.to_json(),
            "strangest": [_plain(one) for one in self.strangest],
            "label_next": [_plain(one) for one in self.label_next],
            "notes": list(self.notes),
            "unreadable": [{"path": path, "reason": reason} for path, reason in self.unreadable],
        }

    def write(self, folder: Path) -> list[Path]:
        """Write `drift.json`, `label_next.csv` and `strangest.png` into a folder; returns the files."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in (LABEL_NEXT, SHEET):  # of an earlier comparison
            (folder / name).unlink(missing_ok=True)
        files = [folder / RESULT]
        write_json(files[0], self.to_json())
        named = [one for one in self.label_next if one.name]
        if named:
            files.append(folder / LABEL_NEXT)
            write_csv(files[-1], _COLUMNS, [_cells(one) for one in named])
        tiles = []
        for one in self.strangest:
            try:
                tiles.append(StrangeTile(self._picture(one.name), one.answer, one.p_value, one.confidence))
            except (ImageError, OSError):  # it is gone since it was predicted
                continue
        if tiles:
            files.append(folder / SHEET)
            plot_samples(tiles, files[-1], title="The strangest pictures, the farthest from the training first")
        return files


def _plain(one: ChosenPicture) -> dict[str, Any]:
    return {"path": one.name, **{name: value for name, value in asdict(one).items() if name != "name"}}


def _cells(one: ChosenPicture) -> list[Any]:
    numbers = ("" if value is None else f"{value:.4g}" for value in (one.confidence, one.p_value))
    return [one.name, one.reason, one.answer, *numbers]


@suggest_names
def drift(
    run: Run | Path | str,
    pictures: Path | str,
    *,
    against: Path | str | None = None,
    since: datetime | None = None,
    alpha: float = ALPHA,
    group_by: str = "",
    label_count: int = 20,
    reporter: ProgressReporter | None = None,
) -> Drift:
    r"""Say by tests whether new pictures, or a run's answers for them, differ from those in validation.

    All tests together raise a false alarm at most with the rate `alpha`. Copies, near duplicates and pictures of the
    training do not count, and of more than 20,000 pictures a random part is compared.

    Args:
        run: A run or its folder.
        pictures: New pictures: a folder of any structure, an archive, or a table of paths; or a log of answers that
            `regraft.serve(log=)` has written, a folder or a file in it.
        against: Earlier pictures or a log to compare with, instead of the validation images.
        since: Answers of a log that were given before this time do not count; UTC, if it has no time zone.
        alpha: Rate of false alarms.
        group_by: What pictures of one thing are, of which one counts: a table's column, or a pattern on paths such as
            `patient(\d+)`.
        label_count: Number of pictures to label next.
        reporter: Receives the progress.

    Raises:
        UsageError: The run has no validation images, or answers groups of images; or an argument is wrong.
        DataError: There is no picture to compare.

    Examples:
        >>> found = regraft.drift("runs/photos", "photos")
        >>> found.changes.is_drift
        False
    """
    run, reporter = run if isinstance(run, Run) else Run(run), reporter or NullReporter()
    if not 0 < alpha < 1:
        raise UsageError(f"alpha = {alpha:g}; expected a rate of false alarms between 0 and 1.")
    if since is not None and not is_answer_log(Path(pictures)):
        raise UsageError(f"{pictures} is no log of answers, and since= is for one.")
    if label_count < 0:
        raise UsageError(f"label_count = {label_count}; expected a number from 0.")
    name = "validation"
    if against is not None:
        groups = "" if is_answer_log(Path(against)) else group_by
        earlier = _observed(run, against, groups, None, reporter)
        reference, name = earlier.observations, "the earlier pictures"
        notes = [f"Of the earlier pictures: {note}" for note in earlier.notes]
    else:
        reference, notes = validation_of(run, reporter, features=not is_answer_log(Path(pictures)))
    new = _observed(run, pictures, group_by, since, reporter)
    preprocessing = run.classifier.preprocessing
    changes = find_changes(reference, new.observations, alpha=alpha, name=name)
    p_values = None
    if reference.distances is not None and new.observations.distances is not None:
        p_values = strange_p_values(reference.distances, new.observations.distances)
    to_label = new.observations.take(new.pictured)
    return Drift(
        changes,
        strangest(new.observations, p_values, _STRANGEST),
        label_next(to_label, None if p_values is None else p_values[new.pictured], label_count),
        (*new.notes, *notes),
        new.unreadable,
        lambda name: preprocessing.picture(new.source(name), at_least=_SHEET_SIZE),
    )


@dataclass(frozen=True, eq=False)
class _Observed:
    """Pictures that count: their numbers, which of them can be looked at, and how one is read by its name."""

    observations: Observations
    pictured: np.ndarray
    source: Callable[[str], ImageSource]
    notes: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...] = ()


def _observed(
    run: Run, path: Path | str, group_by: str, since: datetime | None, reporter: ProgressReporter
) -> _Observed:
    if is_answer_log(Path(path)):
        if group_by:
            raise UsageError(f"{path} is a log of answers, which has no groups. Leave out group_by={group_by!r}.")
        return _logged(run, Path(path), since)
    found = open_pictures(run, path, group_by, reporter)
    dataset, samples = found.dataset, list(found.dataset.samples)
    folder = Path(dataset.root) if isinstance(dataset.root, Path) and dataset.root.is_dir() else None
    names = [str(folder / sample.path) if folder else sample.path for sample in samples]
    sources = (dataset.source(sample) for sample in samples)
    observed, failed = observe(run.classifier, sources, names, reporter, "predict", max_pixels=dataset.max_pixels)
    if not len(observed):
        raise DataError(f"{path} has no picture that can be read: {failed[0][1]}.")
    sample_of = dict(zip(names, samples, strict=True))
    return _Observed(
        observed, np.arange(len(observed)), lambda name: dataset.source(sample_of[name]), found.notes,
        (*found.unreadable, *failed),
    )  # fmt: skip


def _logged(run: Run, path: Path, since: datetime | None) -> _Observed:
    """The answers of a log; those whose picture was kept are named by its path, and others by their time."""
    start = 0.0
    if since is not None:
        start = (since if since.tzinfo else since.replace(tzinfo=UTC)).timestamp()
    answers = read_answers(path, str(run.description["sha256"][WEIGHTS]), start)
    given = [datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S") for seconds in answers.times.tolist()]
    if not given:
        raise DataError(f"{path} has no answers of this run{'' if since is None else f' since {since}'}.")
    there = set(map(str, Path(answers.folder).glob("*/*"))) if answers.folder else set()
    kept = [[str(Path(answers.folder, name)) for name in names] for names in answers.samples]
    names = [next((f for f in files if f in there), when) for files, when in zip(kept, given, strict=True)]
    notes = [f"Answers from {given[0]} to {given[-1]} UTC."]
    if answers.others:
        notes.append(f"Answers of other models, which do not count: {answers.others:,}.")
    observed = replace(answers.observations, names=tuple(names))
    rows = observed.first_of_each()
    if repeated := len(observed) - len(rows):
        notes.append(f"Not counted as repeated requests for a picture: {pluralize(repeated, 'answer')}.")
    observed = observed.take(rows)
    pictured = np.flatnonzero([names[row] != given[row] for row in rows.tolist()])
    if not len(pictured):
        notes.append(
            "No picture of these is kept, so none is shown or named to be labeled; see `serve --keep-samples`."
        )
    return _Observed(observed, pictured, lambda name: Path(name), tuple(notes))
