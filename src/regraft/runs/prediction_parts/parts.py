"""Predict any number of images into a folder of parts; a later call computes the parts that are missing.

A part is a file with the rows of a few hundred or thousand images. Its name is a hash of their paths, sizes and change
times; the folder's `settings.json` has the hash of the model and the settings of the prediction. A part is written as a
whole, by the process that computes it, so that whatever dies, the parts that are there are right.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from filelock import FileLock, Timeout

from regraft.atomic_io import sha256_of, write_json
from regraft.cluster.executor import Cluster, Task, open_executor
from regraft.data.dataset import Dataset
from regraft.data.decode import MAX_PIXELS, ImageSource
from regraft.data.sources.piece import piece_of
from regraft.data.sources.table import import_parquet
from regraft.data.storage import Folder, Storage, image_error
from regraft.errors import DataError, RunError, UsageError
from regraft.models.inference import Prediction, Tta, check_tta, predict_images, tree_of
from regraft.models.rejection import RejectionPolicy
from regraft.models.serialization import versions
from regraft.runs.prediction_parts.rows import Format, write_rows
from regraft.runs.run import classifier_of
from regraft.runs.run_folder import release
from regraft.text import encodable, pluralize
from regraft.training.callbacks import NullReporter, ProgressReporter

SETTINGS, SUMMARY, _LOCK = "settings.json", "predictions.json", ".lock"
#: Images of a part by default, on average; its least and greatest number as shares of that.
PART_SIZE, _LEAST, _MOST = 1000, 0.25, 4.0
#: Threads that ask for sizes and times of files, which a network answers slowly.
_THREADS = 16
#: Files that define a model, in the order in which they are looked for.
_DESCRIPTIONS = ("export.json", "model.json")


@dataclass(frozen=True)
class PartsOptions:
    """How images become rows.

    Attributes:
        format: `parquet`, `csv` or `jsonl`.
        part_size: Images of a part, on average.
        batch_size: Images per batch.
        tta: Test-time augmentation, as in `predict`.
        policy: Which predictions are rejected.
        max_pixels: An image of more pixels is unreadable.
    """

    format: Format = "parquet"
    part_size: int = PART_SIZE
    batch_size: int = 32
    tta: Tta = "none"
    policy: RejectionPolicy = field(default_factory=RejectionPolicy)
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        check_tta(self.tta)
        if self.format not in get_args(Format) or self.part_size < 1 or self.batch_size < 1:
            raise UsageError(
                f"format = {self.format!r}, part_size = {self.part_size}, batch_size = {self.batch_size}; expected "
                f"one of {', '.join(get_args(Format))}, and at least 1 and 1."
            )


@dataclass(frozen=True)
class Part:
    """A file of predictions: where it is, how many images it has, and which of them could not be read and why."""

    file: Path
    images: int
    unreadable: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Parts:
    """The predictions in a folder, its parts in the order of the images; `computed` of them by this call."""

    path: Path
    parts: tuple[Part, ...]
    computed: int

    @property
    def images(self) -> int:
        """Number of images."""
        return sum(part.images for part in self.parts)

    @property
    def unreadable(self) -> list[tuple[str, str]]:
        """Path and reason of each image that could not be read."""
        return [file for part in self.parts for file in part.unreadable]


@dataclass(frozen=True)
class Listing:
    """Images to predict: their names, how each is opened, and a text that changes with the content of one.

    `piece` returns, for some names, what a process on another machine needs to open them.
    """

    names: Sequence[str]
    mark: Callable[[str], str]
    piece: Callable[[Sequence[str]], Storage | None]

    @classmethod
    def of_files(cls, files: Iterable[Path | str]) -> Listing:
        """Files that every node can read at these paths."""
        return cls([os.path.abspath(file) for file in files], _mark_of_file, lambda names: None)

    @classmethod
    def of_dataset(cls, dataset: Dataset) -> Listing:
        """The images of a data set, in its order."""
        hashes = dict(zip(dataset.table.paths.tolist(), dataset.table.sha256s(), strict=True))
        storage = dataset.storage or Folder(Path(dataset.root))
        return cls(list(hashes), hashes.__getitem__, lambda names: piece_of(storage, names))


def predict_parts(
    model: Path,
    listing: Listing,
    out: Path | str,
    options: PartsOptions | None = None,
    *,
    described: Mapping[str, Any],
    opener: Callable[[Path], Any] = classifier_of,
    cluster: Cluster | str | None = None,
    reporter: ProgressReporter | None = None,
) -> Parts:
    """Predict images into a folder.

    Args:
        model: Folder of a run or an export.
        listing: The images.
        out: Folder of the parts, which every node of a cluster can write; what is missing in it is computed.
        options: How images become rows.
        described: What the images are, in JSON values; the folder is for these alone.
        opener: Opens the model; an importable function, or a `functools.partial` of one.
        cluster: Cluster on which parts are computed; None: this process.
        reporter: Receives the progress.

    Raises:
        UsageError: The folder contains something else, or predictions with other settings.
        RunError: Another process works in the folder.
        DataError: There are no images.
        RegraftError: Any other failure; the parts that are finished stay.
    """
    options, reporter, out = options or PartsOptions(), reporter or NullReporter(), Path(out)
    if not listing.names:
        raise DataError("There are no images to predict.")
    if options.format == "parquet":
        import_parquet("Parquet files of predictions")
    opened = _Model(model.resolve(), opener, _hash_of(model))
    settings = {
        "model": opened.key, "images": dict(described), "versions": versions(),
        **{key: value for key, value in asdict(options).items() if key != "batch_size"},
    }  # fmt: skip
    with _locked(out, settings):
        shards = list(_shards(listing, options.part_size))
        with ThreadPoolExecutor(_THREADS) as threads:
            keys = list(threads.map(lambda shard: _key(listing, shard), shards))
        files = [out.resolve() / f"part-{key}.{options.format}" for key in keys]
        missing = [i for i, file in enumerate(files) if not file.is_file()]
        done = len(listing.names) - sum(len(shards[i]) for i in missing)
        if missing:
            job = _Job(opened, options)
            _compute(job, listing, [(shards[i], files[i]) for i in missing], done, cluster, reporter)
        parts = tuple(Part(file, len(shard), _read_unreadable(file)) for file, shard in zip(files, shards, strict=True))
        _remove_others(out, parts, reporter)
        rows = [{"file": p.file.name, "images": p.images, "unreadable": len(p.unreadable)} for p in parts]
        write_json(out / SUMMARY, {"images": len(listing.names), "parts": rows})
    return Parts(out, parts, len(missing))


@dataclass(frozen=True)
class _Model:
    """A model's folder, and how it is opened."""

    path: Path
    opener: Callable[[Path], Any]
    key: str


@dataclass(frozen=True)
class _Job:
    """What all parts have in common."""

    model: _Model
    options: PartsOptions


def _compute(
    job: _Job,
    listing: Listing,
    parts: Sequence[tuple[range, Path]],
    done: int,
    cluster: Cluster | str | None,
    reporter: ProgressReporter,
) -> None:
    total, waiting = len(listing.names), iter(parts)

    def next_task() -> Task | None:
        if (part := next(waiting, None)) is None:
            return None
        shard, file = part
        names = [listing.names[i] for i in shard]
        arguments = (job, names, listing.piece(names), file)
        return Task(file.name, predict_part, arguments, NullReporter())

    with open_executor(cluster) as executor:
        reporter.on_progress("predict", done, total, "images")
        for _, future in executor.run(next_task):
            done += future.result()
            reporter.on_progress("predict", done, total, "images")


def predict_part(job: _Job, names: Sequence[str], piece: Storage | None, file: Path, *, reporter: Any) -> int:
    """Write a part, and before it the list of its images that cannot be read; returns the number of images."""
    model, options = _open(job.model), job.options
    unreadable: list[tuple[str, str]] = []

    def rows() -> Iterator[Prediction]:
        sources = (_source(piece, name) for name in names)
        stream = predict_images(
            model, sources, batch_size=options.batch_size, max_pixels=options.max_pixels, tta=options.tta
        )
        for name, prediction in zip(names, stream, strict=True):
            if prediction.error is not None:
                unreadable.append((name, prediction.error))
            yield replace(prediction, source=name)
        if unreadable:
            write_json(_unreadable_file(file), [[encodable(name), reason] for name, reason in unreadable])
        else:
            _unreadable_file(file).unlink(missing_ok=True)

    several, tree = bool(model.thresholds), tree_of(model)
    write_rows(file, options.format, rows(), model.classes, options.policy, several=several, tree=tree)
    return len(names)


def _source(piece: Storage | None, name: str) -> ImageSource:
    if piece is None:
        return name
    try:
        return piece.source(name)
    except (OSError, ValueError) as error:
        raise image_error(error, name) from error


#: The model that this process has opened last, by its hash.
_opened: dict[str, Any] = {}


def _open(model: _Model) -> Any:
    if model.key not in _opened:
        if (now := _hash_of(model.path)) != model.key:
            raise RunError(f"{model.path} is another model ({now[:12]}) than before ({model.key[:12]}).")
        _opened.clear()
        _opened[model.key] = opened = model.opener(model.path)
        if opened.task == "regression":
            raise UsageError(f"{model.path} gives images numbers, and files of rows are for classes so far.")
    return _opened[model.key]


def _hash_of(model: Path) -> str:
    """Hash of the file that describes a model; it has the hashes of the files with the weights."""
    for name in _DESCRIPTIONS:
        if (model / name).is_file():
            return sha256_of(model / name)
    raise RunError(f"{model} is neither a run nor an export, or this machine cannot see it.")


def _shards(listing: Listing, size: int) -> Iterator[range]:
    """Consecutive images. A part ends after certain names, so that one image more or less changes one part alone."""
    least, most, start = max(1, int(_LEAST * size)), max(1, int(_MOST * size)), 0
    for i, name in enumerate(listing.names, start=1):
        length = i - start
        if length >= most or (length >= least and zlib.crc32(name.encode(errors="surrogateescape")) % size == 0):
            yield range(start, i)
            start = i
    if start < len(listing.names):
        yield range(start, len(listing.names))


def _key(listing: Listing, shard: range) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for i in shard:
        name = listing.names[i]
        digest.update(f"{name}\0{listing.mark(name)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _mark_of_file(name: str) -> str:
    try:
        stat = os.stat(name)
    except OSError:  # its row will say why
        return ""
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _unreadable_file(part: Path) -> Path:
    return part.with_suffix(".unreadable.json")


def _read_unreadable(part: Path) -> tuple[tuple[str, str], ...]:
    with suppress(FileNotFoundError):
        rows = json.loads(_unreadable_file(part).read_text(encoding="utf-8"))
        return tuple((name, reason) for name, reason in rows)
    return ()


@contextmanager
def _locked(out: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Lock the folder, write the settings into a new one, and refuse one with others."""
    file = out / SETTINGS
    if out.exists() and (not out.is_dir() or (not file.is_file() and {p.name for p in out.iterdir()} - {_LOCK})):
        raise UsageError(f"{out} exists and contains no predictions; nothing is overwritten. Choose another --out.")
    is_new = not file.is_file()
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(f"Another process predicts into {out}. Wait for it, or choose another --out.") from error
    try:
        plain = json.loads(json.dumps(settings))
        stored = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else plain
        if changed := [name for name in {**stored, **plain} if stored.get(name) != plain.get(name)]:
            raise UsageError(
                f"{out} contains predictions that differ in {', '.join(sorted(changed))}. Choose another --out."
            )
        write_json(file, plain)
        yield
    finally:
        for left in out.glob(".*.partial"):  # of processes that were killed
            left.unlink(missing_ok=True)
        if is_new and not any(out.glob("part-*")):  # nothing came of it, so the folder is for any predictions
            file.unlink(missing_ok=True)
        release(lock)


def _remove_others(out: Path, parts: Sequence[Part], reporter: ProgressReporter) -> None:
    """Remove parts of an earlier call whose images are others now."""
    wanted = {file.name for part in parts for file in (part.file, _unreadable_file(part.file))}
    others = [file for file in out.glob("part-*") if file.name not in wanted]
    for file in others:
        file.unlink()
    if count := sum(not file.name.endswith(".unreadable.json") for file in others):
        reporter.on_message(
            f"{pluralize(count, 'file')} in {out} had images of an earlier call that have changed or have other "
            "neighbors now; new files replace them."
        )
