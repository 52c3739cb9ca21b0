"""Put a split or a cleaning on disk: folders of copies or links, and manifests.

Enters: data as `scan` takes it. Leaves: `DST/train|val|test/<class>/` with its `split.csv`; or a manifest and the list
of what it leaves out. No image is ever moved, changed or overwritten.
"""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from regraft.data.audit import Inspection
from regraft.data.cleaning import Dropped, clean
from regraft.data.dataset import Dataset, Sample, Split
from regraft.data.scan import scan
from regraft.data.split import split as split_dataset
from regraft.data.storage import Folder
from regraft.errors import DataError, UsageError
from regraft.files import csv_text, write_text
from regraft.pipeline.inspect import inspect
from regraft.store import Store
from regraft.training.progress import Listener, Silence

SPLIT = "split.csv"
_COLUMNS = ("path", "label", "part", "sha256", "source")


def split_into(
    source: Path | str,
    target: Path | str,
    *,
    train: float = 0.8,
    val: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    link: bool = False,
    keep: Path | str | None = None,
    group_by: str = "",
    remote: bool = False,
    listener: Listener | None = None,
) -> Split:
    """Copy or link every image into `target/train|val|test/<class>/`.

    Near duplicates and groups are never divided. A target that was made like this before is added to: what it holds
    stays where it is. After a kill the same call finishes the work.

    Args:
        source: As `scan` takes it; parts that it has are kept.
        target: A folder that is empty, not there yet, or made by this function.
        train: Fraction for train; `val` and `test` likewise.
        val: See `train`.
        test: See `train`.
        seed: Of the split.
        link: Make hard links in place of copies.
        keep: An earlier `split.csv` whose parts are kept; default: the target's own.
        group_by: A regular expression on the path, as for `scan`.
        remote: Whether images that a manifest names elsewhere are fetched, as for `scan`.
        listener: Told how far the work is.

    Returns:
        The split.

    Raises:
        UsageError: The target holds other things, lies within the source, or cannot be linked to.
        DataError: As `scan`, or a class's name cannot be that of a folder.
    """
    source, target, listener = str(source), Path(target), listener or Silence()
    _check_target(source, target)
    dataset = scan(
        source,
        group_by=group_by,
        remote=remote,
        store=Store(),
        progress=lambda done, total: listener.work("scan", done, total, "images"),
        compare=lambda done, total: listener.work("near duplicates", done, total, "pairs"),
    )
    for note in dataset.notes:
        listener.note(note)
    earlier = _earlier(target / SPLIT)
    if keep is None and earlier:
        keep = target / SPLIT
    parts = split_dataset(dataset, train=train, val=val, test=test, seed=seed, keep=keep)
    places = _places(parts.dataset.samples, earlier)
    rows = [(place, s.label, s.part, s.sha256, s.path) for s, place in zip(parts.dataset.samples, places, strict=True)]
    gone = [row for row in earlier if row["path"] not in set(places)]
    if gone:
        listener.note(
            f"{len(gone)} images of {target} are no longer in {source}; they stay, such as {gone[0]['path']}."
        )
    rows += [tuple(row[name] for name in _COLUMNS) for row in gone]  # type: ignore[misc]
    # The plan first: after a kill the next call finds it and finishes.
    write_text(target / SPLIT, csv_text(_COLUMNS, sorted(rows)))
    for done, (sample, place) in enumerate(zip(parts.dataset.samples, places, strict=True), start=1):
        _put(dataset, sample, target / place, link=link)
        listener.work("link" if link else "copy", done, len(places), "images")
    return parts


def _check_target(source: str, target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file; expected a folder.")
    if Path(source).is_dir() and target.absolute().is_relative_to(Path(source).absolute()):
        raise UsageError(f"{target} lies within {source}, so that it would be read as data. Choose another folder.")
    if target.exists() and any(target.iterdir()) and not (target / SPLIT).is_file():
        raise UsageError(f"{target} is not empty and was not made by `regraft split`. Choose another folder.")


def _earlier(file: Path) -> list[dict[str, str]]:
    """Rows of the target's split, if it has one."""
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or any(row.get(name) is None for row in rows for name in _COLUMNS):
        raise UsageError(f"{file} was not made by `regraft split`: expected the columns {', '.join(_COLUMNS)}.")
    return rows


def _places(samples: Sequence[Sample], earlier: Sequence[dict[str, str]]) -> list[str]:
    """Where each sample goes, below the target: where it is already, else under its own name if that is free."""
    there = {(row["source"], row["sha256"]): row["path"] for row in earlier}
    taken = {row["path"].casefold() for row in earlier}
    places = []
    for sample in samples:
        place = there.get((sample.path, sample.sha256))
        if place is None:
            label = sample.label
            if label in (".", "..") or any(c in label for c in "/\\\0"):
                raise DataError(f"The class {label!r} cannot be the name of a folder. Rename it.")
            name = PurePosixPath(sample.path)
            place, number = f"{sample.part}/{label}/{name.name}", 1
            while place.casefold() in taken:  # two folders, or two disks, may know a file by one name
                number += 1
                place = f"{sample.part}/{label}/{name.stem}-{number}{name.suffix}"
            taken.add(place.casefold())
        places.append(place)
    return places


def _put(dataset: Dataset, sample: Sample, place: Path, *, link: bool) -> None:
    """Copy or link a file to where none is; one that is there already is that of an earlier call."""
    if place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    origin = dataset.source(sample)
    if link:
        if not isinstance(origin, Path):
            raise UsageError("--link needs a folder of files; leave it out to copy from an archive.")
        try:
            os.link(origin.resolve(), place)
        except OSError as error:
            raise UsageError(f"{place} cannot be linked to {origin}: {error.strerror}. Leave out --link.") from error
        return
    handle, name = tempfile.mkstemp(dir=place.parent, prefix=".regraft-")
    os.close(handle)
    try:
        if isinstance(origin, Path):
            shutil.copyfile(origin, name)
            shutil.copystat(origin, name)
        else:
            Path(name).write_bytes(origin)  # type: ignore[arg-type]  # an archive gives bytes
            os.chmod(name, 0o644)
        os.link(name, place)  # fails where a file is, which os.replace would not
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def clean_into(
    data: Path | str,
    out: Path | str,
    drop: Sequence[str],
    *,
    group_by: str = "",
    listener: Listener | None = None,
) -> tuple[Inspection, Dataset, list[Dropped]]:
    """Write a manifest without what some findings name, and beside it `<name>.dropped.csv` with the reasons.

    Args:
        data: A folder or a manifest.
        out: The manifest to write, a `.csv` that is not there yet.
        drop: Kinds of finding, such as `duplicates`.
        group_by: A regular expression on the path, as for `scan`.
        listener: Told how far the work is.

    Returns:
        What was found, what stays, and what does not.

    Raises:
        UsageError: The file is there already or no `.csv`, the data are no files on disk, or as `clean`.
    """
    out = Path(out)
    listed = out.with_suffix(".dropped.csv")
    if out.suffix.lower() != ".csv":
        raise UsageError(f"--out {out}: expected a file name that ends in .csv.")
    if taken := [str(file) for file in (out, listed) if file.exists()]:
        raise UsageError(f"{' and '.join(taken)} exist already, and nothing is overwritten. Choose another --out.")
    inspection = inspect(data, labels="label_error" in drop, group_by=group_by, listener=listener)
    dataset = inspection.dataset
    if not isinstance(dataset.storage, Folder):
        raise UsageError(f"A manifest names files on disk, and {data} holds none. Unpack it first.")
    kept, dropped = clean(dataset, inspection.findings, drop)
    rows = [(_from(out, dataset, s.path), s.label, s.part or "", s.group or "") for s in kept.samples]
    columns = [("path", True), ("label", True), ("split", any(r[2] for r in rows)), ("group", any(r[3] for r in rows))]
    wanted = [i for i, (_, there) in enumerate(columns) if there]
    out.parent.mkdir(parents=True, exist_ok=True)
    lost = [(_from(out, dataset, d.path), d.label, d.kind, d.reason) for d in dropped]
    write_text(listed, csv_text(("path", "label", "finding", "reason"), lost))
    write_text(out, csv_text([columns[i][0] for i in wanted], [[row[i] for i in wanted] for row in rows]))
    return inspection, kept, dropped


def _from(out: Path, dataset: Dataset, path: str) -> str:
    """A file's path from the manifest's folder."""
    try:
        return PurePosixPath(Path(os.path.relpath(Path(dataset.root, path), out.parent))).as_posix()
    except ValueError:  # another drive
        return Path(dataset.root, path).absolute().as_posix()
