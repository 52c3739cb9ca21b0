"""The log of answers: numbers of the pictures that a server has answered, and no picture. `regraft drift` reads it.

A log is a folder with files of JSON lines, `answers-TIME-RANDOM.jsonl`. The first line of a file has the models, and
each other line an answer. A process writes into files of its own, whole lines with one system call, so that several
processes share a folder, and of a killed one at most the last line is cut off. The oldest files are deleted as soon as
the folder is larger than its limit.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regraft.data.labels import Task
from regraft.errors import DataError
from regraft.evaluation.drift.observations import Observations

_PREFIX, _SUFFIX, _VERSION = "answers-", ".jsonl", 1
#: Share of a log's limit that one file has at most.
_FILE_SHARE = 0.1
#: Answers that are read at most, the latest.
_MOST = 200_000


@dataclass(frozen=True)
class LoggedModel:
    """What the first line of a file says of a model; `weights` is the SHA-256 of the run's weights, "" if unknown."""

    name: str
    version: str
    weights: str
    task: Task
    classes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"version": self.version, "weights": self.weights, "task": self.task, "classes": list(self.classes)}


class AnswerLog:
    """Writes answers into a folder; for use by one thread. `samples` is the folder of kept pictures, if there is one.

    Raises `OSError` if the folder cannot be written.
    """

    def __init__(self, folder: Path, models: Sequence[LoggedModel], *, limit_bytes: int, samples: str = "") -> None:
        self._folder, self._limit = folder, limit_bytes
        header = {"regraft_answers": _VERSION, "models": {model.name: model.to_json() for model in models}}
        self._header = _line(header | ({"samples": samples} if samples else {}))
        self._file, self._size, self._path = -1, 0, folder
        folder.mkdir(parents=True, exist_ok=True)
        self._start_file()

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append answers; after an `OSError` the file has none of them."""
        lines = b"".join(map(_line, rows))
        is_full = self._size > len(self._header) and self._size + len(lines) > _FILE_SHARE * self._limit
        if self._file < 0 or is_full:
            self.close()
            self._start_file()
        self._append(lines)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _start_file(self) -> None:
        name = f"{_PREFIX}{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(4)}{_SUFFIX}"
        self._path = self._folder / name
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self._file, self._size = os.open(self._path, flags, 0o666), 0
        self._append(self._header)
        self._delete_oldest()

    def _append(self, lines: bytes) -> None:
        written = os.write(self._file, lines)
        if written < len(lines):  # there is no room for all of it
            os.ftruncate(self._file, self._size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self._size += len(lines)

    def _delete_oldest(self) -> None:
        files = []
        for path in _files(self._folder):
            with suppress(OSError):  # another process has deleted it
                files.append((path.stat().st_mtime_ns, path.name, path, path.stat().st_size))
        size = sum(bytes_ for *_, bytes_ in files)
        for _, _, path, bytes_ in sorted(files):
            if size <= (1 - _FILE_SHARE) * self._limit:
                return
            if path != self._path:
                with suppress(OSError):
                    path.unlink()
                size -= bytes_


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}"))


def is_answer_log(path: Path) -> bool:
    """Whether a path is a file of a log, or a folder with some."""
    return path.suffix == _SUFFIX if path.is_file() else bool(path.is_dir() and _files(path))


@dataclass(frozen=True, eq=False)
class LoggedAnswers:
    """The answers of one model in a log, the earliest first.

    Attributes:
        observations: Their numbers.
        times: When each was given, in seconds since 1970, float64 (N,).
        samples: Names of the picture of each below `folder`, if it was kept when it came.
        folder: Folder of the kept pictures; "" if there is none.
        others: Number of answers of other models.
    """

    observations: Observations
    times: np.ndarray
    samples: tuple[tuple[str, ...], ...]
    folder: str
    others: int


def read_answers(path: Path, weights: str, since: float = 0.0) -> LoggedAnswers:
    """Read the answers of the model with these weights from a log, at most the latest 200,000.

    If it was served under several names, such as its run and an export, those of the name with the most answers are
    read. Answers given before `since`, in seconds since 1970, do not count.

    Raises:
        DataError: A line is damaged, or no answer is of this model.
    """
    latest: dict[str, deque[dict[str, Any]]] = {}
    model_of: dict[str, LoggedModel] = {}
    folder, others, names = "", 0, set[str]()
    for file in [path] if path.is_file() else _files(path):
        lines = _read_lines(file)
        header = next(lines, None)
        if header is None:
            continue
        models = _models(header, file)
        own = {name: one for name, one in models.items() if one.weights == weights}
        names |= {f"{name} {one.version}" for name, one in models.items()}
        model_of |= own
        folder = header.get("samples", folder)
        for row in lines:
            if (name := row.get("model")) not in own:
                others += 1
            elif row["time"] >= since:
                latest.setdefault(name, deque(maxlen=_MOST)).append(row)
    if not model_of:
        raise DataError(
            f"{path} has no answers of this run; those in it are of {', '.join(sorted(names)) or 'no model'}. Give the "
            "run whose model was served."
        )
    most = max(latest, key=lambda name: len(latest[name]), default=next(iter(model_of)))
    others += sum(len(found) for name, found in latest.items() if name != most)
    rows = sorted(latest.get(most, ()), key=lambda row: float(row["time"]))
    try:
        observations = _observations(model_of[most], rows)
        times = np.array([row["time"] for row in rows], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error!r} in an answer. Copy the log again.") from error
    samples = tuple(tuple(map(str, row.get("samples", ()))) for row in rows)
    return LoggedAnswers(observations, times, samples, folder, others)


def _read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file without the last one if it is cut off, as it is after a process was killed."""
    with file.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                value = json.loads(line)
                if not isinstance(value, dict) or (number > 1 and not isinstance(value.get("time"), (int, float))):
                    raise ValueError("expected an object with a time")
            except (ValueError, RecursionError) as error:
                raise DataError(f"{file}, line {number} is damaged: {error}. Remove the line, or the file.") from error
            yield value


def _models(header: Mapping[str, Any], file: Path) -> dict[str, LoggedModel]:
    try:
        if header["regraft_answers"] != _VERSION:
            raise ValueError(f"version {header['regraft_answers']}, expected {_VERSION}")
        return {
            name: LoggedModel(name, one["version"], one["weights"], one["task"], tuple(one["classes"]))
            for name, one in header["models"].items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file} is no log of `regraft serve`, or damaged: {error!r}. Copy the log again.") from error


def _observations(model: LoggedModel, rows: Sequence[Mapping[str, Any]]) -> Observations:
    distances = None
    if all(row.get("ood_distance") is not None for row in rows):
        distances = np.array([row["ood_distance"] for row in rows], np.float64)
    if model.task == "regression":
        values = np.array([row["value"] for row in rows], np.float64)
        return Observations(model.task, model.classes, np.empty((0, 0), bool), np.empty(0), values, distances)
    column = {name: i for i, name in enumerate(model.classes)}
    said = np.zeros((len(rows), len(model.classes)), bool)
    for i, row in enumerate(rows):
        said[i, [column[name] for name in row["labels"]]] = True
    confidence = np.array([row["confidence"] for row in rows], np.float64)
    return Observations(model.task, model.classes, said, confidence, distances=distances)
