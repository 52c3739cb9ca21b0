"""`regraft predict` with a model that gives an image a number."""

from __future__ import annotations

import csv as csv_module
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from regraft.cli.output import err, print_json
from regraft.cli.results.answers import answers, name_of, refuse_limits_of_others
from regraft.cli.results.file_notes import print_file_notes
from regraft.evaluation.regression.conformal import COVERAGE
from regraft.runs.progress import rich_progress
from regraft.text import one_line

if TYPE_CHECKING:
    from regraft.exporting.exported_model import ExportedModel
    from regraft.models.inference import Prediction, Tta
    from regraft.models.rejection import RejectionPolicy
    from regraft.runs.run import Run


@dataclass(frozen=True)
class Wanted:
    """What is said of a number beside it; `of_classes` are options that have no meaning for numbers, by their flags."""

    coverage: float | None
    ood_rate: float | None
    of_classes: Mapping[str, Any]

    def check(self, model: Run | ExportedModel) -> None:
        """Raise `UsageError` for an option that has no meaning for this model."""
        from regraft.errors import UsageError
        from regraft.runs.run import Run

        if given := [flag for flag, value in self.of_classes.items() if value is not None]:
            what = "is" if len(given) == 1 else "are"
            raise UsageError(f"{', '.join(given)} {what} for models that give classes, and {model.path} gives numbers.")
        of_runs = {"--coverage": self.coverage, "--ood-rate": self.ood_rate}
        if given := [flag for flag, value in of_runs.items() if value is not None and not isinstance(model, Run)]:
            raise UsageError(f"{', '.join(given)} needs a run's validation images, and {model.path} is an export.")


def predict_numbers(
    screen: Console,
    model: Run | ExportedModel,
    files: Sequence[Any],
    ignored: Sequence[str],
    wanted: Wanted,
    *,
    csv: Path | None,
    tta: Tta,
    batch_size: int,
    json: bool,
    groups: Sequence[str | None] | None = None,
) -> None:
    """`regraft predict` with a model that gives an image, or a group of images, a number.

    Raises `RegraftError` for unreadable files.
    """
    from regraft.errors import RegraftError
    from regraft.models.inference import is_calibrated_for, pooling_of, predict_images
    from regraft.models.rejection import RejectionPolicy
    from regraft.runs.run import Run, classifier_of

    wanted.check(model)
    loaded, p_limit = classifier_of(model), None
    grouped = groups is not None
    refuse_limits_of_others(loaded, model.path, {"--coverage": wanted.coverage}, grouped=grouped)
    width = loaded.half_width
    if isinstance(model, Run):
        width = width if wanted.coverage is None else model.conformal_half_width(wanted.coverage)
        p_limit = None if wanted.ood_rate is None else model.ood_threshold(wanted.ood_rate)
    quantity, policy = loaded.classes[0], RejectionPolicy(ood_threshold=p_limit)
    failed: list[Prediction] = []
    coverage = 100 * (wanted.coverage or COVERAGE)
    has_interval = width is not None and bool(pooling_of(loaded)) == grouped
    columns = [
        quantity,
        *([f"{coverage:g} % interval"] if has_interval else []),
        *(["out of dist."] if p_limit else []),
    ]
    named, count = ["image"] if groups is None else ["group", "images"], 0
    table = Table(*named, *map(escape, columns), box=None, header_style="bold")
    with ExitStack() as stack:
        named = ["path"] if groups is None else ["group", "images"]
        write = None if csv is None else stack.enter_context(_csv_writer(csv, named, quantity, policy))
        reporter = stack.enter_context(rich_progress(err))
        predicted = predict_images(loaded, files, batch_size=batch_size, tta=tta)
        progress = partial(reporter.on_progress, "predict", total=len(files), detail="images")
        for found in answers(predicted, loaded, groups, failed, progress if len(files) > batch_size else None):
            is_fitted = found.value is not None and is_calibrated_for(loaded, found.pictures)
            prediction = replace(found, half_width=width if is_fitted else None)
            count += 1
            if json:
                print_json({**name_of(prediction), **policy.to_json(prediction, 1)}, indent=None)
            elif write is None:
                table.add_row(*_cells(prediction, has_interval, p_limit))
            if write is not None:
                write(prediction)
    if len(files) == len(failed) == 1:
        raise RegraftError(f"{failed[0].source} cannot be read: {failed[0].error}")
    if csv is not None:
        screen.print(escape(f"{count} rows in {csv}"))
    elif not json:
        screen.print(table)
    print_file_notes(files, ignored, failed, json=json, has_table=csv is None and not json and groups is None)


def _cells(prediction: Prediction, has_interval: bool, p_limit: float | None) -> list[str]:
    """The cells of an image in the table: its name, its number, and the interval or the error."""
    named = [escape(one_line(prediction.source)), *([] if prediction.pictures is None else [str(prediction.pictures)])]
    if prediction.value is None:
        return [*named, f"[yellow]{escape(prediction.error or '')}[/yellow]"]
    cells, interval = [*named, f"{prediction.value:.4g}"], prediction.interval
    if has_interval:
        cells.append("" if interval is None else f"{interval[0]:.4g} to {interval[1]:.4g}")
    if p_limit is not None and prediction.ood_p_value is not None:
        cells.append("yes" if prediction.ood_p_value <= p_limit else "no")
    return cells


@contextmanager
def _csv_writer(
    file: Path, named: Sequence[str], quantity: str, policy: RejectionPolicy
) -> Iterator[Callable[[Prediction], None]]:
    """Write one row per image or group: name, number, interval, what the policy says and error; some may be empty."""
    from regraft.atomic_io import atomic_write
    from regraft.runs.prediction_parts.rows import rejection_cells
    from regraft.spreadsheets import guarded_row

    with (
        atomic_write(file) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        writer = csv_module.writer(stream, lineterminator="\n")
        writer.writerow(guarded_row([*named, quantity, "low", "high", "ood_p_value", *policy.columns, "error"]))

        def write(prediction: Prediction) -> None:
            low, high = prediction.interval or ("", "")
            value, p_value = ("" if number is None else number for number in (prediction.value, prediction.ood_p_value))
            cells = [value, low, high, p_value, *rejection_cells(policy, prediction)]
            writer.writerow(guarded_row([*name_of(prediction).values(), *cells, prediction.error or ""]))

        yield write
