"""Serve runs and exports over HTTP.

Enters: folders of runs and of exports. Leaves: a server that answers until it is told to end.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from regraft.errors import MissingExtraError, RegraftError, UsageError, listed
from regraft.exporting.exported import ExportedModel, is_export
from regraft.exporting.formats import FORMATS
from regraft.models.allocator import keep_freed_memory_of_threads
from regraft.models.checkpoint import WEIGHTS, read_description
from regraft.models.classifier import Classifier
from regraft.models.doubt import Doubt
from regraft.models.inference import Predictor, predict_pixels
from regraft.pipeline.report import CARD
from regraft.pipeline.run import METRICS, Run

if TYPE_CHECKING:
    from regraft.serving.limits import Limits
    from regraft.serving.service import ServedModel

Engine = Literal["same", "fastest"]
#: What is tried where nothing was asked for: answers that are right 95 times in 100, and one familiar image in 100
#: that is called unknown.
SURE, UNKNOWN = 0.95, 0.01
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NEEDS = ("fastapi", "uvicorn", "httptools", "python_multipart", "prometheus_client")
#: Digits of a version, and seconds and images of a pass for which each engine is measured.
_DIGITS, _SECONDS, _IMAGES = 12, 1.0, 8


def serve(
    models: str | Path | Run | Sequence[str | Path | Run],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    engine: Engine = "same",
    sure: float | None = None,
    unknown: float | None = None,
    token: str | None = None,
    trust: bool = False,
    decoders: int | None = None,
    limits: Limits | None = None,
    log_level: str = "info",
    on_listening: Callable[[str], None] = lambda address: None,
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Answer over HTTP until SIGTERM or Ctrl-C; the addresses are told in docs/serve.md.

    Args:
        models: Folders of runs or exports, each maybe as `NAME=FOLDER`. The first answers where none is named.
        host: Address to listen at; others than loopback are reached from other machines.
        port: 0: any that is free.
        engine: `same` runs what `regraft predict` runs, and answers to its bits. `fastest` measures a run's own float32
            exports beside it and takes what is fastest; an export knows no unknown images and gives no heat maps.
        sure: As of `regraft predict --sure`; None: 0.95 where the run has validation images that can tell; 0: off.
        unknown: As of `regraft predict --unknown`; None: 0.01 where the run can tell; 0: off.
        token: That clients must send as `Authorization: Bearer TOKEN`.
        trust: Load exports whose format may run code.
        decoders: Processes that decode; None: one a core.
        limits: Of requests and of the server.
        log_level: debug, info, warning or error.
        on_listening: Called with the address as soon as it is known, before the models are loaded.
        on_ready: Called when requests are accepted.

    Returns:
        0 where all that was accepted was answered, else 1.

    Raises:
        MissingExtraError: The extra `serve` is not installed.
        UsageError: A folder is none, two models have one name, or the port is taken.
        RegraftError: A model cannot be loaded.
    """
    check_extra()
    keep_freed_memory_of_threads()
    from regraft.serving.limits import Limits
    from regraft.serving.server import bind
    from regraft.serving.server import serve as run_server
    from regraft.serving.service import Service

    if engine not in get_args(Engine):
        raise UsageError(f"engine = {engine!r}; expected {' or '.join(get_args(Engine))}.")
    if token is not None and not (len(token) >= 8 and token.isascii() and token.isprintable() and " " not in token):
        raise UsageError("The token is shorter than 8 characters, or has others than visible ASCII.")
    sources = [_Source.of(model, trust) for model in ([models] if isinstance(models, (str, Path, Run)) else models)]
    names = [source.name for source in sources]
    if not names:
        raise UsageError("0 models to serve; expected at least the folder of a run or of an export.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"Two models have the name {twice[0]}. Name them: one={sources[0].path} two=...")
    listening = bind(host, port)
    with listening:
        address = listening.getsockname()
        on_listening(f"http://{f'[{address[0]}]' if ':' in address[0] else address[0]}:{address[1]}")
        load = functools.partial(_load_all, sources, engine=engine, sure=sure, unknown=unknown, trust=trust)
        service = Service(names, load, limits or Limits(), decoders=decoders)
        return run_server(service, listening, token=token, log_level=log_level, on_ready=on_ready)


def check_extra() -> None:
    """Refuse where what a server needs is not installed.

    Raises:
        MissingExtraError: The extra `serve` is not.
    """
    if missing := [name for name in _NEEDS if importlib.util.find_spec(name) is None]:
        raise MissingExtraError(f"A server ({listed(missing)})", "serve")


@dataclass(frozen=True)
class _Source:
    """A folder to serve, looked at but not loaded."""

    name: str
    path: Path
    export: bool

    @classmethod
    def of(cls, given: str | Path | Run, trust: bool) -> _Source:
        """Of `NAME=FOLDER`, a folder or a run.

        Raises:
            UsageError: There is no such folder, or it cannot have this name.
            RunError: It holds no model.
        """
        if isinstance(given, Run):
            given = given.path
        name, separator, rest = str(given).partition("=")
        named = bool(separator and rest) and _NAME.fullmatch(name) is not None and not Path(given).exists()
        path = Path(rest if named else given)
        if not path.is_dir():
            raise UsageError(f"{path} is no folder. Expected that of a run or of an export, or NAME=FOLDER.")
        export = is_export(path)
        if not export:
            read_description(path)
        return cls(name if named else _name_of(path, export), path, export)


def _name_of(path: Path, export: bool) -> str:
    path = path.absolute()
    stem = f"{path.parent.parent.name}-{path.name}" if export and path.parent.name == "exports" else path.name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:64]
    if not name:
        raise UsageError(f"{path} has no letter or digit that an address could have. Name it: NAME={path}")
    return name


def _load_all(
    sources: Sequence[_Source], *, engine: Engine, sure: float | None, unknown: float | None, trust: bool
) -> list[ServedModel]:
    return [_load(source, engine, sure, unknown, trust) for source in sources]


def _load(source: _Source, wanted: Engine, sure: float | None, unknown: float | None, trust: bool) -> ServedModel:
    from regraft.serving.engines import Engine as ServingEngine
    from regraft.serving.service import ServedModel

    if source.export:
        if given := [name for name, value in (("--sure", sure), ("--unknown", unknown)) if value]:
            raise UsageError(f"{', '.join(given)} is for runs: {source.path} is an export, without validation images.")
        export = ExportedModel(source.path, trust=trust)
        form = FORMATS[export.description["format"]]
        return ServedModel(
            source.name,
            export.description["sha256"][form.files[0]][:_DIGITS],
            ServingEngine(export, form.name),
            facts=_facts_of_export(export),
        )
    run = Run(source.path)
    model: Classifier | Predictor = run.classifier
    name, version = "torch", str(run.description["sha256"][WEIGHTS])
    if wanted == "fastest" and (faster := _fastest(run)) is not None:
        model = faster
        name = str(faster.description["format"])
        version = faster.description["sha256"][FORMATS[name].files[0]]
    doubt, told = _doubt(run, sure, unknown, tells_unknown=isinstance(model, Classifier))
    card = source.path / CARD
    return ServedModel(
        source.name,
        version[:_DIGITS],
        ServingEngine(model, name),
        doubt,
        facts=_facts_of_run(run, name) + told,
        card=card.read_text(encoding="utf-8") if card.is_file() else "",
    )


def _fastest(run: Run) -> ExportedModel | None:
    """The run's float32 export that beats its model and all others, or None where there is none."""
    weights = run.description["sha256"]
    best, rate = None, _images_per_second(run.classifier)
    for folder in sorted((run.path / "exports").glob("*/")):
        try:
            export = ExportedModel(folder)
        except RegraftError:  # another's, damaged, without its runtime or trust: it is not what is asked for
            continue
        told = export.description
        if told.get("precision") != "fp32" or (told.get("run") or {}).get("sha256") != weights:
            continue
        if (its := _images_per_second(export)) > rate:
            best, rate = export, its
    return best


def _images_per_second(model: Classifier | Predictor) -> float:
    side = model.preprocessing.size
    images = np.random.default_rng(0).integers(0, 256, (_IMAGES, side, side, 3), dtype=np.uint8)
    predict_pixels(model, images)
    started, passes = time.perf_counter(), 0
    while passes < 2 or time.perf_counter() - started < _SECONDS:
        predict_pixels(model, images)
        passes += 1
    return passes * _IMAGES / (time.perf_counter() - started)


def _doubt(
    run: Run, sure: float | None, unknown: float | None, *, tells_unknown: bool
) -> tuple[Doubt, list[tuple[str, str]]]:
    """When the model says nothing, and what is told of that."""
    told: list[tuple[str, str]] = []
    threshold = strange = None
    if sure is None or sure > 0:
        try:
            found = run.threshold(SURE if sure is None else sure)
        except RegraftError as error:
            if sure is not None:
                raise
            told.append(("Not sure", f"It always says that it is sure: {error}"))
        else:
            threshold = found.threshold
            low, high = (round(100 * value) for value in found.accuracy_interval)
            told.append((
                "Not sure",
                f"Below a confidence of {100 * threshold:.1f} %. Of {found.count} validation images it was surer for "
                f"{100 * found.coverage:.0f} %, and right for {100 * found.accuracy:.0f} % of these (95 % interval "
                f"{low} to {high}).",
            ))  # fmt: skip
    if unknown is None or unknown > 0:
        try:
            if not tells_unknown:
                raise UsageError("An export does not know what is familiar. Serve with --engine same.")
            strange = run.least_familiarity(UNKNOWN if unknown is None else unknown)
        except RegraftError as error:
            if unknown is not None:
                raise
            told.append(("Unknown", f"It never says that a picture shows something else: {error}"))
        else:
            told.append((
                "Unknown",
                f"What is stranger than all but {100 * strange:g} % of the validation images shows something else.",
            ))  # fmt: skip
    return Doubt(sure=threshold, strange=strange), told


def _facts_of_run(run: Run, engine: str) -> list[tuple[str, str]]:
    facts = [("Backbone", str(run.description["backbone"]["name"]))]
    metrics: dict[str, Any] = run.metrics if (run.path / METRICS).is_file() else {}
    part = next((name for name in ("test", "val") if "accuracy" in metrics.get(name, {})), None)
    if part is not None:
        scores = metrics[part]
        low, high = scores["accuracy_interval"]
        facts.append((
            "Accuracy",
            f"{100 * scores['accuracy']:.1f} % of {scores['count']:,} {part} images (95 % interval {100 * low:.1f} to "
            f"{100 * high:.1f})",
        ))  # fmt: skip
    if "train" in metrics:
        facts.append(("Learnt from", f"{metrics['train']['count']:,} images"))
    calibration = metrics.get("calibration")
    if part is not None and calibration and calibration.get("fitted_on"):
        facts.append((
            "Calibration",
            f"Its confidence is off by {100 * calibration[part]['after']['ece']:.1f} points on average",
        ))  # fmt: skip
    return [*facts, ("Engine", engine)]


def _facts_of_export(export: ExportedModel) -> list[tuple[str, str]]:
    description = export.description
    facts = [
        ("Backbone", str((description.get("backbone") or {}).get("name", "not told"))),
        ("Export", f"{description['format']}, {description.get('precision', 'fp32')}"),
    ]
    if run := (description.get("run") or {}).get("name"):
        facts.append(("Of the run", str(run)))
    return facts
