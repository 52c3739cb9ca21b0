"""Write a split or cleaned data to disk; no image is ever moved, changed or overwritten."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from regraft.atomic_io import csv_text, write_json, write_text
from regraft.cache import Cache
from regraft.config import Config, DataOptions
from regraft.data.dataset import Dataset, Sample, Split
from regraft.data.labels import AskedTask, LabelOptions, Task
from regraft.data.quality.cleaning import Dropped, clean
from regraft.data.quality.findings import UNREADABLE_KINDS, Inspection
from regraft.data.sources.folders import FolderLayout
from regraft.data.split import split as split_dataset
from regraft.data.storage import Folder
from regraft.data.taxonomy import Taxonomy
from regraft.errors import DataError, UsageError
from regraft.runs.scan_and_split import scan_with
from regraft.spreadsheets import read_records
from regraft.studies.inspect.inspect import inspect
from regraft.training.callbacks import NullReporter, ProgressReporter

SPLIT = "split.csv"
_COLUMNS = ("path", "label", "part", "sha256", "source")


def split_into(
    source: Path | str,
    target: Path | str,
    *,
    train: float | None = None,
    val: float | None = None,
    test: float | None = None,
    seed: int = 0,
    link: bool = False,
    keep: Path | str | None = None,
    group_by: str = "",
    remote: bool = False,
    layout: FolderLayout = "auto",
    image_column: str = "",
    label_column: str = "",
    bands: str = "",
    task: AskedTask = "auto",
    label_separator: str = "",
    reporter: ProgressReporter | None = None,
) -> Split:
    """Copy or hard-link every image into `target/train|val|test/<class>/`; after a kill, the same call finishes it.

    An image with several labels cannot be in one class folder: these are in `target/train|val|test/`, and
    `target/split.csv` is the manifest with their labels.

    Near duplicates and groups are never divided. A target that this function wrote before gets the new images; those in
    it stay, unless `keep` names another `split.csv`. Raises `UsageError` as `split`, or if the target contains other
    files, was divided by other shares, is inside the source or does not support links, and `DataError` as `scan`, or if
    a class cannot be a folder name.
    """
    source, target, reporter = str(source), Path(target), reporter or NullReporter()
    _check_target(source, target)
    options = DataOptions(
        group_by=group_by, remote=remote, layout=layout, image_column=image_column, label_column=label_column,
        bands=bands, task=LabelOptions(task).read_as, label_separator=label_separator,
    )  # fmt: skip
    dataset = scan_with(Config(data=options), source, Cache(), reporter)
    earlier = _read_split(target / SPLIT)
    if keep is None and earlier:
        _refuse_other_shares(target, earlier, {"train": train, "val": val, "test": test}, len(dataset.classes))
        keep = target / SPLIT
    parts = split_dataset(dataset, train=train, val=val, test=test, seed=seed, keep=keep)
    samples = parts.dataset.samples
    paths = _target_paths(samples, earlier, dataset.task, dataset.taxonomy)
    rows = [(path, s.label, s.part, s.sha256, s.path) for s, path in zip(samples, paths, strict=True)]
    gone = [row for row in earlier if row["path"] not in set(paths)]
    if gone:
        reporter.on_message(
            f"{len(gone)} images of {target} are no longer in {source}, such as {gone[0]['path']}; they stay."
        )
    rows += [tuple(row[name] for name in _COLUMNS) for row in gone]  # type: ignore[misc]
    # Written before the images, so that after a kill the next call finishes the work.
    write_text(target / SPLIT, csv_text(_COLUMNS, sorted(rows)))
    for done, (sample, path) in enumerate(zip(samples, paths, strict=True), start=1):
        _copy_or_link(dataset, sample, target / path, link=link)
        reporter.on_progress("link" if link else "copy", done, len(paths), "images")
    return parts


def _check_target(source: str, target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file; expected a folder.")
    if Path(source).is_dir() and target.absolute().is_relative_to(Path(source).absolute()):
        raise UsageError(f"{target} is inside {source}, where it would be read as data. Choose another folder.")
    if target.exists() and any(target.iterdir()) and not (target / SPLIT).is_file():
        raise UsageError(f"{target} is not empty and was not written by `regraft split`. Choose another folder.")


def _read_split(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(read_records(stream))
    if not rows or any(row.get(name) is None for row in rows for name in _COLUMNS):
        raise UsageError(f"{file} was not written by `regraft split`: expected the columns {', '.join(_COLUMNS)}.")
    return rows


def _refuse_other_shares(
    target: Path, earlier: Sequence[dict[str, str]], wanted: dict[str, float | None], classes: int
) -> None:
    """Refuse shares that the images of the target, which stay where they are, do not have."""
    counts = Counter(row["part"] for row in earlier)
    tolerance = 0.05 + classes / len(earlier)  # an image in each class, and near duplicates that stay together
    other = [
        f"{part}={share:g}"
        for part, share in wanted.items()
        if share is not None and abs(share - counts[part] / len(earlier)) > tolerance
    ]
    if other:
        found = ", ".join(f"{counts[part]:,} {part}" for part in wanted)
        raise UsageError(
            f"{target} is divided already ({found}), and its images keep their part, so {', '.join(other)} would have "
            "no effect on them. Leave the shares out, or choose another folder."
        )


def _target_paths(
    samples: Sequence[Sample], earlier: Sequence[dict[str, str]], task: Task, tree: Taxonomy | None
) -> list[str]:
    """Path of each sample below the target: that of an earlier call, else its own name if that is free."""
    known = {(row["source"], row["sha256"]): row["path"] for row in earlier}
    taken = {row["path"].casefold() for row in earlier}
    paths = []
    for sample in samples:
        path = known.get((sample.path, sample.sha256))
        if path is None:
            label, folder = sample.label, f"{sample.part}"
            if task == "classification":
                label = label if tree is None else tree.folder_of(label)
                folders = label.split("/") if tree else [label]
                if any(one in (".", "..") or any(c in one for c in "/\\\0") for one in folders):
                    raise DataError(f"The class {label!r} cannot be a folder name. Rename it.")
                folder = f"{folder}/{label}"
            name = PurePosixPath(sample.path)
            path, number = f"{folder}/{name.name}", 1
            while path.casefold() in taken:  # two source folders may have a file with this name
                number += 1
                path = f"{folder}/{name.stem}-{number}{name.suffix}"
            taken.add(path.casefold())
        paths.append(path)
    return paths


def _copy_or_link(dataset: Dataset, sample: Sample, path: Path, *, link: bool) -> None:
    if path.exists():  # written by an earlier call
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    source = dataset.source(sample)
    if link:
        if not isinstance(source, Path):
            raise UsageError("--link needs a folder of files; leave it out to copy from an archive.")
        try:
            os.link(source.resolve(), path)
        except OSError as error:
            raise UsageError(f"{path} cannot be linked to {source}: {error.strerror}. Leave out --link.") from error
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".regraft-")
    os.close(handle)
    try:
        if isinstance(source, Path):
            shutil.copyfile(source, name)
            shutil.copystat(source, name)
        else:
            Path(name).write_bytes(source)  # type: ignore[arg-type]  # an archive gives bytes
            os.chmod(name, 0o644)
        os.link(name, path)  # fails if the file exists, unlike os.replace
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def clean_into(
    data: Path | str,
    out: Path | str,
    drop: Sequence[str],
    *,
    group_by: str = "",
    layout: FolderLayout = "auto",
    taxonomy: Path | str | None = None,
    image_column: str = "",
    label_column: str = "",
    bands: str = "",
    task: AskedTask = "auto",
    label_separator: str = "",
    reporter: ProgressReporter | None = None,
) -> tuple[Inspection, Dataset, list[Dropped]]:
    """Write a manifest without the images of some findings, and beside it `<name>.dropped.csv` with the reasons.

    Files that cannot be read are dropped, too, whether they are asked for or not.

    A tree of classes, of folders or of a `taxonomy` as for `scan`, is in `<name>.taxonomy.json`, because a manifest has
    none.

    Return the inspection, the images that stay, and those that were dropped. Raises `UsageError` if a file exists or is
    no `.csv`, the data are not files on disk, or as `clean`.
    """
    out = Path(out)
    dropped_file = out.with_suffix(".dropped.csv")
    if out.suffix.lower() != ".csv":
        raise UsageError(f"--out {out}: expected a file name that ends in .csv.")
    if taken := [str(file) for file in (out, dropped_file, tree_file(out)) if file.exists()]:
        raise UsageError(f"{' and '.join(taken)} exist already, and nothing is overwritten. Choose another --out.")
    inspection = inspect(
        data, labels="label_error" in drop, group_by=group_by, layout=layout, taxonomy=taxonomy,
        image_column=image_column, label_column=label_column, bands=bands, task=LabelOptions(task).read_as,
        label_separator=label_separator, reporter=reporter,
    )  # fmt: skip
    dataset = inspection.dataset
    if not isinstance(dataset.storage, Folder):
        raise UsageError(f"A manifest names files on disk, and {data} has none. Unpack it first.")
    found = {finding.kind for finding in inspection.findings}
    unreadable = [kind for kind in UNREADABLE_KINDS if kind in found and kind not in drop]
    kept, dropped = clean(dataset, inspection.findings, [*drop, *unreadable])
    rows = [(_relative_path(out, dataset, s.path), s.label, s.part or "", s.group or "") for s in kept.samples]
    columns = ("path", "label", "split", "group")
    used = [i for i in range(len(columns)) if i < 2 or any(row[i] for row in rows)]
    out.parent.mkdir(parents=True, exist_ok=True)
    reasons = [(_relative_path(out, dataset, d.path), d.label, d.kind, d.reason) for d in dropped]
    write_text(dropped_file, csv_text(("path", "label", "finding", "reason"), reasons))
    if dataset.taxonomy is not None:
        write_json(tree_file(out), dataset.taxonomy.to_json())
    write_text(out, csv_text([columns[i] for i in used], [[row[i] for i in used] for row in rows]))
    return inspection, kept, dropped


def tree_file(manifest: Path) -> Path:
    """The file with the tree of a manifest that `clean_into` writes."""
    return manifest.with_suffix(".taxonomy.json")


def _relative_path(out: Path, dataset: Dataset, path: str) -> str:
    try:
        return PurePosixPath(Path(os.path.relpath(Path(dataset.root, path), out.parent))).as_posix()
    except ValueError:  # another drive
        return Path(dataset.root, path).absolute().as_posix()
