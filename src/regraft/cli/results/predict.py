"""`regraft predict RUN|EXPORT IMAGE...`."""

from __future__ import annotations

import csv as csv_module
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rich.markup import escape
from rich.table import Table
from typer import Argument, Option

from regraft.cli.options import ClusterAddress, ClusterCpus, RunOrExport, Trust, cluster_of, probability
from regraft.cli.output import console, err, print_json
from regraft.cli.results.answers import answers, name_of, refuse_limits_of_others
from regraft.cli.results.file_notes import print_file_notes
from regraft.runs.progress import rich_progress
from regraft.text import encodable, join_truncated, one_line, pluralize

if TYPE_CHECKING:
    from regraft.cluster.executor import Cluster
    from regraft.evaluation.abstention import Selection
    from regraft.models.classifier import Classifier
    from regraft.models.inference import Prediction, Predictor
    from regraft.models.rejection import RejectionPolicy
    from regraft.runs.prediction_parts.parts import PartsOptions

#: Number of paths, as they are typed, that the settings of a folder of parts list.
_PATHS = 100
#: Number of unreadable images of a folder of parts that the terminal lists.
_UNREADABLE = 20


def command(
    run: RunOrExport,
    images: Annotated[list[Path], Argument(help="Image files, or folders of them; a table for --pool-by.")],
    top: Annotated[
        int | None, Option(metavar="N", min=1, show_default="3", help="Number of classes per image.")
    ] = None,
    batch_size: Annotated[int, Option(metavar="N", min=1, help="Images per batch.")] = 32,
    csv: Annotated[Path | None, Option(help="Write a row per image, with all probabilities.")] = None,
    out: Annotated[Path | None, Option(help="Folder for files of rows; a later call adds the missing.")] = None,
    format: Annotated[
        Literal["parquet", "csv", "jsonl"] | None, Option(show_default="parquet", help="Format of the files in --out.")
    ] = None,
    part_size: Annotated[
        int | None, Option(metavar="N", min=1, show_default="1000", help="Images of a file in --out, about.")
    ] = None,
    min_accuracy: Annotated[
        float | None, probability("Accept answers that are right this often on validation.")
    ] = None,
    min_confidence: Annotated[float | None, probability("Accept answers this sure; with a tree, a node above.")] = None,
    coverage: Annotated[float | None, probability("Add a set with the true class at this probability.")] = None,
    ood_rate: Annotated[float | None, probability("Flag out-of-distribution images: rate of false alarms.")] = None,
    threshold: Annotated[float | None, probability("Of several labels: those from this probability on.")] = None,
    min_precision: Annotated[float | None, probability("Of several labels: those right this often.")] = None,
    tta: Annotated[str, Option(help="Test-time augmentation: none, flip or crops (slow).")] = "none",
    pool_by: Annotated[
        str | None, Option(metavar="NAME", help="One answer a group: a table's column, or pattern on paths.")
    ] = None,
    trust: Trust = False,
    cluster: ClusterAddress = None,
    cluster_cpus: ClusterCpus = None,
    json: Annotated[bool, Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Predict classes in the order given; unreadable files are listed at the end (exit code 1)."""
    from regraft.errors import RegraftError, UsageError
    from regraft.models.inference import check_tta, predict_images, tree_of

    views, on_cluster = check_tta(tta), cluster_of(cluster, cluster_cpus)
    if on_cluster and out is None:
        raise UsageError("--cluster needs --out FOLDER, which every node can write; the images must be there, too.")
    if out is not None and csv is not None:
        raise UsageError("Received --csv and --out. For parts in CSV: --out FOLDER --format csv.")
    _refuse_without_effect({"--format": format, "--part-size": part_size}, {"--top": top}, has_out=out is not None)
    if pool_by and out is not None:
        raise UsageError("--out keeps answers for single images, and --pool-by gives one for each group: use --csv.")
    ignored: list[str] = []
    files, groups = _files(images, pool_by, ignored)
    screen = console(json)
    if (numbers := _model_of_numbers(run, trust)) is not None:
        from regraft.cli.results.numbers import Wanted, predict_numbers

        of_classes = {"--top": top, "--min-accuracy": min_accuracy, "--min-confidence": min_confidence, "--out": out}
        asked = Wanted(coverage, ood_rate, {**of_classes, "--threshold": threshold, "--min-precision": min_precision})
        predict_numbers(
            screen, numbers, files, ignored, asked, csv=csv, tta=views, batch_size=batch_size, json=json, groups=groups
        )
        return
    wanted = _Wanted(min_accuracy, min_confidence, coverage, ood_rate, threshold, min_precision)
    model, policy, selection = _load(run, wanted, trust)
    fitted = {"--min-accuracy": min_accuracy, "--coverage": coverage, "--min-precision": min_precision}
    refuse_limits_of_others(model, run, fitted, grouped=groups is not None)
    gives_labels, tree = bool(model.thresholds), tree_of(model)
    if out is not None:
        from regraft.runs.prediction_parts.parts import PartsOptions

        options = PartsOptions(format or "parquet", part_size or 1000, batch_size, views, policy)
        opener = functools.partial(_open_export, trust=trust) if _is_export(run) else None
        _write_parts(run, images, files, out, options, opener, on_cluster, json, ignored)
        return
    count, rows_written = min(top or 3, len(model.classes)), 0
    failed: list[Prediction] = []
    table = None
    with ExitStack() as stack:
        writers: list[Callable[[Prediction], None]] = []
        if json:
            writers.append(lambda p: _write_line({**name_of(p), **policy.to_json(p, count)}))
        elif not csv:
            columns = [*(_tree_columns(policy) if tree else ()), *(f"{_ordinal(i)} class" for i in range(1, count + 1))]
            if gives_labels:
                columns = ["labels", *(["most probable"] if top else [])]
            named = ["image"] if groups is None else ["group", "images"]
            table = rows = Table(*named, *policy.columns, *columns, box=None, header_style="bold")
            ranked = top or 0 if gives_labels else count
            writers.append(lambda prediction: rows.add_row(*_cells(prediction, ranked, policy)))
        if csv:
            writers.append(stack.enter_context(_csv_writer(csv, model, policy, grouped=groups is not None)))
        reporter = stack.enter_context(rich_progress(err))
        stream = predict_images(model, files, batch_size=batch_size, tta=views)
        progress = functools.partial(reporter.on_progress, "predict", total=len(files), detail="images")
        for prediction in answers(stream, model, groups, failed, progress if len(files) > batch_size else None):
            rows_written += 1
            for write in writers:
                write(prediction)
    if len(files) == len(failed) == 1:  # said once
        raise RegraftError(f"{failed[0].source} cannot be read: {failed[0].error}")
    if table:
        screen.print(table)
    if table and selection:
        low, high = selection.accuracy_interval
        screen.print(
            f"[dim]Accepted at a confidence of {100 * selection.threshold:.1f} % or more: "
            f"{100 * selection.coverage:.0f} % of {selection.count} validation images, of which "
            f"{100 * selection.accuracy:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f}) were right."
            f"{selection.describe_classes()}[/dim]"
        )
    if table and gives_labels:
        limits = zip(model.classes, policy.label_thresholds or model.thresholds, strict=True)
        texts = [f"{name} {100 * limit:.1f} %" if limit <= 1 else f"{name} never" for name, limit in limits]
        screen.print(escape(f"Labels from these probabilities on: {join_truncated(texts, shown=12)}."), style="dim")
    if csv:
        screen.print(escape(f"{rows_written} rows in {csv}"))
    print_file_notes(files, ignored, failed, json=json, has_table=table is not None and groups is None)


def _files(
    images: Sequence[Path], pool_by: str | None, ignored: list[str]
) -> tuple[list[Any], list[str | None] | None]:
    """The images, and the group of each if groups get one answer; files that are not used are added to `ignored`."""
    from regraft.errors import UsageError
    from regraft.models.image_sources import iter_sources
    from regraft.runs.groups import groups_of_files, images_of_table, is_table

    tables = [path for path in images if is_table(path)]
    if pool_by and tables and len(images) > 1:
        raise UsageError(f"{tables[0]} is a table of images, beside other paths. --pool-by takes a table alone.")
    if tables and len(images) == 1 and not pool_by:
        raise UsageError(
            f"{tables[0]} is a table and no image. With --pool-by COLUMN the images that it lists get one answer a "
            "group. For one an image, expected image files, or folders of them."
        )
    if not pool_by:
        return list(iter_sources(images, ignored.extend)), None
    if tables:
        files, groups, notes = images_of_table(images[0], pool_by)
    else:
        files = list(iter_sources(images, ignored.extend))
        groups, notes = groups_of_files(files, pool_by)
    for note in notes:
        err.print(f"[dim]{escape(note)}[/dim]")
    return files, groups


def _refuse_without_effect(of_parts: dict[str, Any], of_table: dict[str, Any], *, has_out: bool) -> None:
    """Raise `UsageError` for an option of the files in --out without it, or of the table with it."""
    given = [flag for flag, value in (of_table if has_out else of_parts).items() if value is not None]
    if given:
        from regraft.errors import UsageError

        has = "with --out, whose files have all classes" if has_out else "without --out FOLDER"
        raise UsageError(f"{' and '.join(given)} {'has' if len(given) == 1 else 'have'} no effect {has}.")


def _write_parts(
    model: Path,
    images: Sequence[Path],
    files: Sequence[Any],
    out: Path,
    options: PartsOptions,
    opener: Callable[[Path], Any] | None,
    cluster: Cluster | None,
    json: bool,
    ignored: Sequence[str],
) -> None:
    """Predict into a folder of parts, and print what is in it."""
    from regraft.data.ignored import describe_ignored
    from regraft.errors import RegraftError
    from regraft.runs.prediction_parts.parts import Listing, predict_parts
    from regraft.runs.run import classifier_of

    paths = sorted(encodable(str(path.resolve())) for path in images)
    described: dict[str, Any] = {"paths": paths}
    if len(paths) > _PATHS:
        described = {"sha256": hashlib.sha256("\n".join(paths).encode()).hexdigest()}
    with rich_progress(err) as reporter:
        parts = predict_parts(
            model, Listing.of_files(files), out, options, described=described, opener=opener or classifier_of,
            cluster=cluster, reporter=reporter,
        )  # fmt: skip
    unreadable = parts.unreadable
    if json:
        print_json({
            "folder": str(out), "images": parts.images, "parts": len(parts.parts), "computed": parts.computed,
            "unreadable": [{"path": path, "reason": reason} for path, reason in unreadable],
        })  # fmt: skip
    else:
        console(json).print(
            escape(f"{pluralize(parts.images, 'row')} in {pluralize(len(parts.parts), 'file')} in {out}; ")
            + f"{pluralize(parts.computed, 'file')} computed now."
        )
    for line in describe_ignored(list(ignored), Path):
        err.print(f"[yellow]not used:[/yellow] {escape(line)}")
    for path, reason in unreadable[:_UNREADABLE]:
        err.print(f"[yellow]cannot be read:[/yellow] {escape(path)}: {escape(reason)}")
    if unreadable:
        raise RegraftError(f"{len(unreadable)} of {parts.images} images could not be read.")


def _is_export(path: Path) -> bool:
    from regraft.exporting.exported_model import is_export

    return is_export(path)


def _open_export(path: Path, *, trust: bool) -> Any:
    from regraft.exporting.exported_model import ExportedModel

    return ExportedModel(path, trust=trust)


def _model_of_numbers(path: Path, trust: bool) -> Any:
    """The run or export in a folder if it gives images a number; else None."""
    from regraft.exporting.exported_model import ExportedModel, is_export
    from regraft.runs.run import load

    model = ExportedModel(path, trust=trust) if is_export(path) else load(path)
    return model if model.task == "regression" else None


@dataclass(frozen=True)
class _Wanted:
    """What is said of an answer beside its probabilities, and from when on a label is given."""

    min_accuracy: float | None
    min_confidence: float | None
    coverage: float | None
    ood_rate: float | None
    threshold: float | None
    min_precision: float | None

    def check(self, path: Path, several: bool) -> None:
        """Raise `UsageError` for what has no meaning for images with one class, or with `several` labels."""
        from regraft.errors import UsageError

        if self.threshold is not None and self.min_precision is not None:
            raise UsageError("Received --threshold and --min-precision; expected one of them.")
        if self.min_accuracy is not None and self.min_confidence is not None:
            raise UsageError("Received --min-accuracy, which chooses a confidence, and --min-confidence; expected one.")
        wrong = {"--threshold": self.threshold, "--min-precision": self.min_precision}
        if several:
            wrong = {
                "--min-accuracy": self.min_accuracy, "--min-confidence": self.min_confidence,
                "--coverage": self.coverage,
            }  # fmt: skip
        if given := [name for name, value in wrong.items() if value is not None]:
            what = "one class, and {} gives it any number of labels: use --min-precision or --threshold."
            if not several:
                what = "any number of labels, and {} gives it one class: use --min-accuracy or --coverage."
            raise UsageError(f"{', '.join(given)} is for models that give an image {what.format(path)}")


def _load(path: Path, wanted: _Wanted, trust: bool) -> tuple[Classifier | Predictor, RejectionPolicy, Selection | None]:
    from regraft.errors import UsageError
    from regraft.exporting.exported_model import ExportedModel, is_export
    from regraft.models.rejection import RejectionPolicy
    from regraft.runs.run import load

    if is_export(path):
        options = {
            "--min-accuracy": wanted.min_accuracy, "--coverage": wanted.coverage, "--ood-rate": wanted.ood_rate,
            "--min-precision": wanted.min_precision,
        }  # fmt: skip
        if given := [name for name, value in options.items() if value is not None]:
            raise UsageError(f"{', '.join(given)} needs a run's validation images, and {path} is an export.")
        export = ExportedModel(path, trust=trust)
        wanted.check(path, bool(export.thresholds))
        limits = () if wanted.threshold is None else (wanted.threshold,) * len(export.classes)
        return export, RejectionPolicy(wanted.min_confidence, label_thresholds=limits), None
    run = load(path)
    wanted.check(path, run.task == "multilabel")
    selection = None if wanted.min_accuracy is None else run.confidence_threshold(wanted.min_accuracy)
    limits = () if wanted.threshold is None else (wanted.threshold,) * len(run.classes)
    policy = RejectionPolicy(
        wanted.min_confidence if selection is None else selection.threshold,
        None if wanted.coverage is None else run.conformal_threshold(wanted.coverage),
        None if wanted.ood_rate is None else run.ood_threshold(wanted.ood_rate),
        limits if wanted.min_precision is None else run.precision_thresholds(wanted.min_precision),
    )
    return run.classifier, policy, selection


def _write_line(value: dict[str, Any]) -> None:
    print_json(value, indent=None)


def _tree_columns(policy: RejectionPolicy) -> list[str]:
    return [*(["answer"] if policy.min_confidence is not None else []), "from the top of the tree"]


def _tree_cells(prediction: Prediction, policy: RejectionPolicy) -> list[str]:
    """The cells of `_tree_columns`."""
    if prediction.taxonomy is None:
        return []
    label, confidence = policy.answer(prediction)
    is_sure = policy.of(prediction).get("accepted") and policy.label(prediction) is not None
    answer = f"{label} {100 * confidence:.1f} %" if is_sure else ""
    path = " > ".join(f"{name} {100 * p:.1f} %" for name, p in prediction.levels())
    cells = [answer, path] if policy.min_confidence is not None else [path]
    return cells if prediction.error is None else [""] * len(cells)


def _cells(prediction: Prediction, count: int, policy: RejectionPolicy) -> list[str]:
    from regraft.runs.prediction_parts.rows import rejection_cells

    own = (*rejection_cells(policy, prediction), *_tree_cells(prediction, policy))
    pictures = [] if prediction.pictures is None else [str(prediction.pictures)]
    cells = [escape(one_line(prediction.source)), *pictures, *map(escape, own)]
    if prediction.error is not None:
        return [*cells, f"[yellow]{escape(prediction.error)}[/yellow]"]
    labels = policy.labels(prediction)
    style = "[dim]{}[/dim]" if labels is None else "{}"
    if prediction.thresholds:
        probability = dict(zip(prediction.classes, prediction.probabilities.tolist(), strict=True))
        given = ", ".join(f"{name} {100 * probability[name]:.1f} %" for name in labels or ())
        cells.append(escape(given) if given else "[dim]none[/dim]")
        ranked = ", ".join(f"{name} {100 * p:.1f} %" for name, p in prediction.top(count))
        return [*cells, *([f"[dim]{escape(ranked)}[/dim]"] if count else [])]
    return [*cells, *(style.format(f"{escape(name)} {100 * p:.1f} %") for name, p in prediction.top(count))]


@contextmanager
def _csv_writer(
    file: Path, model: Classifier | Predictor, policy: RejectionPolicy, *, grouped: bool
) -> Iterator[Callable[[Prediction], None]]:
    from regraft.atomic_io import atomic_write
    from regraft.models.inference import tree_of
    from regraft.runs.prediction_parts.rows import csv_header, csv_row
    from regraft.spreadsheets import guarded_row

    with (
        atomic_write(file) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        writer = csv_module.writer(stream, lineterminator="\n")
        tree = tree_of(model)
        several = bool(model.thresholds)
        writer.writerow(guarded_row(csv_header(model.classes, policy, several=several, tree=tree, grouped=grouped)))
        yield lambda prediction: writer.writerow(guarded_row(csv_row(prediction, policy)))


def _ordinal(number: int) -> str:
    return f"{number}{'th' if 10 <= number % 100 <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"
