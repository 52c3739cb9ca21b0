"""Serve runs and exports over HTTP until a signal arrives."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from regraft.data.labels import Task
from regraft.errors import MissingExtraError, RegraftError, UsageError, refuse_old_names
from regraft.evaluation.drift.observations import Observations
from regraft.exporting.exported_model import ExportedModel, is_export
from regraft.exporting.formats import FORMATS
from regraft.models.classifier import Classifier
from regraft.models.inference import Predictor, predict_pixels
from regraft.models.malloc import keep_freed_memory_of_threads
from regraft.models.rejection import RejectionPolicy
from regraft.models.serialization import WEIGHTS, read_model_json
from regraft.runs.reference_answers import has_answers, reference_answers
from regraft.runs.report import CARD
from regraft.runs.run import Run
from regraft.serving.inference_engine import Engine as ServingEngine
from regraft.serving.model_facts import (
    Facts,
    band_facts,
    choose_min_confidence,
    choose_ood_threshold,
    facts_of,
    group_facts,
)
from regraft.signing.signature import Signature
from regraft.signing.verified_copy import CopyVerified, verified_copies
from regraft.text import join_truncated
from regraft.timing import time_passes

if TYPE_CHECKING:
    from regraft.serving.limits import Limits
    from regraft.serving.server import DrainingServer
    from regraft.serving.service import ServedModel

Engine = Literal["same", "fastest"]
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#,A-Z]+")
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REQUIRED_MODULES = ("fastapi", "uvicorn", "httptools", "python_multipart", "prometheus_client")
#: Number of digits of a version.
_DIGITS = 12
#: Seconds for which each engine is timed, and the size of its batches.
_TIMED_SECONDS, _TIMED_BATCH = 1.0, 8


@refuse_old_names(sure="min_accuracy", unknown="ood_rate")
def serve(
    models: str | Path | Run | Sequence[str | Path | Run],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    engine: Engine = "same",
    min_accuracy: float | None = None,
    min_confidence: float | None = None,
    ood_rate: float | None = None,
    token: str | None = None,
    trust: bool = False,
    require_signature: Path | str | None = None,
    decoders: int | None = None,
    limits: Limits | None = None,
    log_level: str = "info",
    root_path: str = "",
    allow_origins: Sequence[str] = (),
    log: Path | str | None = None,
    keep_samples: Path | str | None = None,
    stop: threading.Event | None = None,
    on_listening: Callable[[str], None] = lambda address: None,
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Answer over HTTP until SIGTERM or Ctrl-C; docs/serve.md describes the addresses.

    In a thread, and to serve while other cells of a notebook run, `stop` ends the server:

        stop = threading.Event()
        threading.Thread(target=regraft.serve, args=("runs/photos",), kwargs={"stop": stop}).start()
        ...
        stop.set()

    Called in a cell of a notebook itself, it serves until the kernel is interrupted.

    Args:
        models: Folders of runs or exports, each optionally as `NAME=FOLDER`. The first is the default model.
        host: Address to listen at. Other machines reach only addresses other than loopback.
        port: Port to listen at; 0: any free port.
        engine: `same` runs what `regraft predict` runs, with the same bits. `fastest` times a run and its float32
            exports and takes the fastest. An export has no out-of-distribution detection and no heat maps.
        min_accuracy: As for `regraft predict --min-accuracy`; None: 0.95 if the validation images allow it, and off for
            a model that gives an image any number of labels; 0: off.
        min_confidence: As for `regraft predict --min-confidence`, in place of `min_accuracy`; exports take it, too.
        ood_rate: As for `regraft predict --ood-rate`; None: 0.01 if the validation images allow it; 0: off.
        token: Token that clients must send as `Authorization: Bearer TOKEN`.
        trust: Load exports whose format can run code.
        require_signature: File of a public key. Models that are not signed by it, or were changed since, are refused
            before anything of them is read; what is loaded is a private copy that was verified.
        decoders: Number of processes that decode images; None: the number of cores.
        limits: Limits of requests and of the server.
        log_level: debug, info, warning or error.
        root_path: Path at which a proxy publishes the server, such as /classify. The proxy may keep or remove it.
        allow_origins: Origins, such as https://example.org, whose pages may use the server; `*`: all.
        log: Folder for a log of answers without pictures, which `regraft.drift` reads; None: answers are only counted.
        keep_samples: Folder in which some of the pictures are kept, the strangest and a random part; None: none is.
        stop: Event that ends the server as SIGTERM does: accepted requests are answered first.
        on_listening: Called with the address before the models are loaded.
        on_ready: Called when requests are accepted.

    Returns:
        0 if all accepted requests were answered, else 1.

    Raises:
        MissingExtraError: The extra `serve` is not installed.
        UsageError: A folder does not exist, two models have the same name, the port is taken, or an argument is not of
            the described form.
        SignatureError: `require_signature` is given, and a model is not what this key has signed.
        RegraftError: A model cannot be loaded.

    Examples:
        >>> regraft.serve("runs/photos", port=8000)  # doctest: +SKIP
    """
    check_extra()
    keep_freed_memory_of_threads()
    from regraft.serving.json_logging import set_up_logging
    from regraft.serving.limits import Limits
    from regraft.serving.listener import bind
    from regraft.serving.recorder import Recording
    from regraft.serving.server import DrainingServer
    from regraft.serving.service import Service

    if engine not in get_args(Engine):
        raise UsageError(f"engine = {engine!r}; expected {' or '.join(get_args(Engine))}.")
    if token is not None and not (len(token) >= 8 and token.isascii() and token.isprintable() and " " not in token):
        raise UsageError("Invalid token; expected at least 8 characters of visible ASCII.")
    if min_accuracy is not None and min_confidence is not None:
        raise UsageError("Received --min-accuracy and --min-confidence. The first chooses the second; expected one.")
    root_path = _checked_root_path(root_path)
    for origin in allow_origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise UsageError(f"The origin {origin!r} is not valid; expected one such as https://example.org, or *.")
    every = [models] if isinstance(models, (str, Path, Run)) else models
    with nullcontext() if require_signature is None else verified_copies(require_signature) as copy_verified:
        sources = [ModelSource.parse(model, copy_verified) for model in every]
        names = [source.name for source in sources]
        if not names:
            raise UsageError("0 models to serve; expected the folder of a run or of an export.")
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(f"Two models have the name {repeated[0]}. Name them: one={sources[0].folder} two=...")
        with bind(host, port) as listener:
            address = listener.getsockname()
            on_listening(f"http://{f'[{address[0]}]' if ':' in address[0] else address[0]}:{address[1]}")
            load = functools.partial(load_models, sources, engine, min_accuracy, ood_rate, trust, min_confidence)
            folders = [None if folder is None else Path(folder) for folder in (log, keep_samples)]
            recording = Recording(*folders) if any(folders) else None
            service = Service(names, load, limits or Limits(), decoders, recording)
            set_up_logging(log_level)
            server = DrainingServer(service, token, root_path=root_path, allow_origins=allow_origins, stop=stop)
            _run(server, lambda: asyncio.run(server.run_service(listener, on_ready)))
    return 1 if server.has_lost_requests else 0


def _checked_root_path(given: str) -> str:
    from regraft.serving.http.app import ADDRESSES

    path = "/" + given.strip("/") if given.strip("/") else ""
    if path and (not _ROOT_PATH.fullmatch(path) or {".", ".."} & set(path.split("/"))):
        raise UsageError(f"The root path {given!r} is not valid; expected a path such as /classify.")
    if path.split("/")[1:2] and path.split("/")[1] in ADDRESSES:
        raise UsageError(f"The root path {given!r} begins with an address of the server; choose another path.")
    return path


def _run(server: DrainingServer, run: Callable[[], None]) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        run()
        return
    # This thread runs a loop already, as in Jupyter: the server's loop gets a thread, and signals still come here.
    with ThreadPoolExecutor(1, "regraft-serve") as pool, server.capture_signals():
        done = pool.submit(run)
        while wait([done], timeout=0.5).not_done:
            pass
    done.result()


def check_extra() -> None:
    """Raise `MissingExtraError` if the extra `serve` is not installed."""
    if missing := [name for name in _REQUIRED_MODULES if importlib.util.find_spec(name) is None]:
        raise MissingExtraError(f"A server ({join_truncated(missing)})", "serve")


@dataclass(frozen=True)
class ModelSource:
    """A folder to serve, which exists but is not loaded."""

    name: str
    path: Path
    is_export: bool
    signature: Signature | None = None

    @classmethod
    def parse(cls, given: str | Path | Run, copy_verified: CopyVerified | None = None) -> ModelSource:
        """Parse `NAME=FOLDER`, a folder or a run; raises `UsageError`, or `RunError` if the folder has no model.

        `copy_verified` returns the folder to serve in place of a signed one, or raises `SignatureError`.
        """
        if isinstance(given, Run):
            given = given.path
        name, separator, rest = str(given).partition("=")
        is_named = bool(separator and rest) and _NAME.fullmatch(name) is not None and not Path(given).exists()
        path = Path(rest if is_named else given)
        if not path.is_dir():
            raise UsageError(f"{path} is not a folder. Expected a run, an export, or NAME=FOLDER.")
        served, signature = (path, None) if copy_verified is None else copy_verified(path)
        export = is_export(served)
        if not export:
            read_model_json(served)
        return cls(name if is_named else _default_name(path, export), served, export, signature)

    @property
    def folder(self) -> Path:
        """What was given, where `path` is a copy."""
        return self.signature.path if self.signature else self.path

    @property
    def facts(self) -> Facts:
        """Who signed it, if that was verified."""
        return [("Signature", self.signature.describe())] if self.signature else []


def _default_name(path: Path, export: bool) -> str:
    path = path.absolute()
    stem = f"{path.parent.parent.name}-{path.name}" if export and path.parent.name == "exports" else path.name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:64]
    if not name:
        raise UsageError(f"{path} has no letter or digit for a name. Name it: NAME={path}")
    return name


def load_models(
    sources: Sequence[ModelSource], engine: Engine, min_accuracy: float | None, ood_rate: float | None, trust: bool,
    min_confidence: float | None = None,
) -> list[ServedModel]:  # fmt: skip
    """Load the models; see `serve` for the arguments."""
    return [
        _load_export(source, min_accuracy, min_confidence, ood_rate, trust)
        if source.is_export
        else _load_run(source, engine, min_accuracy, min_confidence, ood_rate)
        for source in sources
    ]


def _load_export(
    source: ModelSource, min_accuracy: float | None, min_confidence: float | None, ood_rate: float | None, trust: bool
) -> ServedModel:
    from regraft.serving.service import ServedModel

    if given := [name for name, value in (("--min-accuracy", min_accuracy), ("--ood-rate", ood_rate)) if value]:
        raise UsageError(f"{', '.join(given)} is for runs. {source.folder} is an export, without validation images.")
    export = ExportedModel(source.path, trust=trust)
    form, description = FORMATS[export.description["format"]], export.description
    backbone = str((description.get("backbone") or {}).get("name", "unknown"))
    precision = str(description.get("precision", "fp32"))
    facts = [("Backbone", backbone), ("Export", f"{form.name}, {precision}")]
    if run := (description.get("run") or {}).get("name"):
        facts.append(("Run", str(run)))
    facts += [*group_facts(export.pool_by), *band_facts(export.preprocessing), *source.facts]
    version = description["sha256"][form.files[0]]
    if min_confidence is not None:
        _check_gives_one_class(export.task, source.folder)
    policy = RejectionPolicy(min_confidence)
    served, weights = ServingEngine(export, form.name, precision), _weights_of(description)
    return ServedModel(source.name, version[:_DIGITS], served, policy, facts, weights=weights)


def _load_run(
    source: ModelSource,
    engine: Engine,
    min_accuracy: float | None,
    min_confidence: float | None,
    ood_rate: float | None,
) -> ServedModel:
    from regraft.serving.service import ServedModel

    run = Run(source.path)
    model: Classifier | Predictor = run.classifier
    runtime, version = "torch", str(run.description["sha256"][WEIGHTS])
    if engine == "fastest" and (export := _fastest_export(run)) is not None:
        model = export
        runtime = str(export.description["format"])
        version = export.description["sha256"][FORMATS[runtime].files[0]]
    confidence_fact: Facts = []
    if min_confidence is not None:
        _check_gives_one_class(run.task, source.folder)
    else:
        min_confidence, confidence_fact = choose_min_confidence(run, min_accuracy)
    ood_threshold, ood_fact = choose_ood_threshold(run, ood_rate, isinstance(model, Classifier))
    policy = RejectionPolicy(min_confidence=min_confidence, ood_threshold=ood_threshold)
    about = [*facts_of(run), *group_facts(run.description.get("pool_by", "")), *band_facts(model.preprocessing)]
    served = ServingEngine(model, runtime)
    facts = [*about, ("Engine", f"{runtime}, {served.precision}"), *confidence_fact, *ood_fact, *source.facts]
    file = source.path / CARD
    card = file.read_text(encoding="utf-8") if file.is_file() else ""
    return ServedModel(
        source.name, version[:_DIGITS], served, policy, facts, card,
        str(run.description["sha256"][WEIGHTS]), _validation_of(run),
    )  # fmt: skip


def _weights_of(description: Mapping[str, Any]) -> str:
    """The SHA-256 of the weights of the run that an export was made from; "" if it does not say."""
    return str(((description.get("run") or {}).get("sha256") or {}).get(WEIGHTS, ""))


def _validation_of(run: Run) -> Observations | None:
    """What the run said of images that it had not seen, if that is stored and each has an answer."""
    if not has_answers(run):
        return None
    predictions = reference_answers(run)
    return Observations.of_predictions(predictions) if len(predictions) else None


def _check_gives_one_class(task: Task, path: Path) -> None:
    """Raise `UsageError` for --min-confidence where answers are no single class."""
    if task != "classification":
        gives = "a number" if task == "regression" else "any number of labels"
        raise UsageError(
            f"--min-confidence is for models that give an image one class, and {path} gives it {gives} "
            f"(task = {task!r}). Serve it without --min-confidence."
        )


def _fastest_export(run: Run) -> ExportedModel | None:
    """The run's float32 export that is faster than its model and all other exports, if there is one."""
    weights = run.description["sha256"]
    fastest, rate = None, _images_per_second(run.classifier)
    for folder in sorted((run.path / "exports").glob("*/")):
        try:
            export = ExportedModel(folder)
        except RegraftError:  # damaged, or without its runtime or trust; nobody asked for this export by name
            continue
        description = export.description
        if description.get("precision") != "fp32" or (description.get("run") or {}).get("sha256") != weights:
            continue
        if (export_rate := _images_per_second(export)) > rate:
            fastest, rate = export, export_rate
    return fastest


def _images_per_second(model: Classifier | Predictor) -> float:
    shape = (_TIMED_BATCH, *model.preprocessing.pixel_shape)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    seconds = time_passes(lambda: predict_pixels(model, images), passes=2, min_seconds=_TIMED_SECONDS)
    return _TIMED_BATCH * len(seconds) / sum(seconds)
