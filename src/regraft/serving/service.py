"""From image files to answers: the order of decoding, waiting and inference, and whether there is room at all.

Enters: models, limits, and image files of requests. Leaves: an `Outcome` for each.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from regraft.errors import ImageError, RegraftError
from regraft.models.doubt import Doubt
from regraft.models.inference import Prediction
from regraft.serving.batching import Answer, Batcher
from regraft.serving.decoding import DecodingPool
from regraft.serving.engines import Engine
from regraft.serving.intake import Intake, Upload
from regraft.serving.limits import Limits
from regraft.serving.metrics import Metrics
from regraft.serving.problems import Problem

State = Literal["starting", "ready", "draining"]
_log = logging.getLogger("regraft.serving")


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model with what is told of it.

    Attributes:
        name: In addresses; letters, digits, `.`, `_` and `-`.
        version: Of its weights.
        engine: What runs it.
        doubt: When it does not answer.
        facts: Plain JSON values for the page: pairs of a title and a text.
        card: Its model card as Markdown; "" where there is none.
    """

    name: str
    version: str
    engine: Engine
    doubt: Doubt = field(default_factory=Doubt)
    facts: Sequence[tuple[str, str]] = ()
    card: str = ""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of one image.

    Attributes:
        prediction: The answer, or why there is none.
        heat: float32 (S, S) in [0, 1] for the likeliest class, where it was asked for.
        picture: The image, small, as JPEG, where a heat map was asked for.
    """

    prediction: Prediction
    heat: np.ndarray | None = None
    picture: bytes = b""


class Service:
    """All that answers requests, whatever their form.

    Args:
        names: Of the models that `load` gives, the first being the one that is meant where none is named.
        load: Makes the models; runs in a thread while the server says that it is starting.
        limits: Of requests and of the server.
        decoders: Processes that decode; default: one a core.
    """

    def __init__(
        self,
        names: Sequence[str],
        load: Callable[[], Sequence[ServedModel]],
        limits: Limits,
        *,
        decoders: int | None = None,
    ) -> None:
        """Nothing is loaded yet."""
        self.names, self.limits, self.metrics = tuple(names), limits, Metrics()
        self.models: Mapping[str, ServedModel] = {}
        self.state: State = "starting"
        self.intake = Intake(limits, self.metrics.buffered.set)
        self._load, self._decoders = load, decoders
        self._waiting = 0
        self._rate = 0.0  # images a second, of late
        self._pool: DecodingPool | None = None
        self._batcher = Batcher(size=limits.batch, delay=limits.delay_seconds, on_batch=self._after_batch)
        self._numbers: dict[str, int] = {}
        self._named: dict[int, str] = {}

    async def start(self) -> None:
        """Load the models, begin the processes, answer once; ready afterwards.

        Raises:
            RegraftError: A model cannot be loaded, or no process be started.
        """
        models = await asyncio.to_thread(self._loaded)
        self._numbers = {model.name: i for i, model in enumerate(models)}
        self._named = {id(model.engine): model.name for model in models}
        self._pool = DecodingPool(
            [model.engine.preprocessing for model in models],
            max_pixels=self.limits.pixels,
            seconds=self.limits.decode_seconds,
            workers=self._decoders,
        )
        await self._pool.start()
        self._batcher.start()
        self.models = {model.name: model for model in models}
        if self.state == "starting":
            self.state = "ready"
            self.metrics.ready.set(1)
        for model in models:
            _log.info(
                "model ready",
                extra={"event": "model-ready", "model": model.name, "engine": model.engine.name,
                       "batches": list(model.engine.sizes)},
            )  # fmt: skip

    def _loaded(self) -> Sequence[ServedModel]:
        models = self._load()
        for model in models:
            model.engine.warm_up(self.limits.batch)
        return models

    def drain(self) -> None:
        """Accept nothing more; what was accepted is answered."""
        self.state = "draining"
        self.metrics.ready.set(0)

    async def stop(self) -> None:
        """End the thread and the processes."""
        self.drain()
        if self._pool is not None:
            await asyncio.to_thread(self._batcher.stop)
            await self._pool.stop()

    def find(self, name: str | None, version: str | None = None) -> ServedModel:
        """The model of this name, or the first.

        Raises:
            Problem: There is none of this name or version (404), or not yet (503).
        """
        self.check_ready()
        chosen = name or self.names[0]
        if chosen not in self.models:
            raise Problem(
                404, f"There is no model of this name; there is {', '.join(self.names)}.", name="no-such-model"
            )
        model = self.models[chosen]
        if version is not None and version != model.version:
            raise Problem(
                404, f"There is no such version of {model.name}; there is {model.version}.", name="no-such-version"
            )
        return model

    def check_ready(self) -> None:
        """Refuse while starting or draining.

        Raises:
            Problem: 503.
        """
        if self.state != "ready":
            doing = "loading its models" if self.state == "starting" else "ending"
            raise Problem(
                503, f"The server is {doing}. Try again later.", name=self.state, headers={"Retry-After": "2"}
            )

    def check_room(self, count: int = 1) -> None:
        """Refuse where so many more images would find no room.

        Raises:
            Problem: 429, with the seconds after which there should be some.
        """
        if self._waiting + count > self.limits.queue:
            wait = min(60, max(1, math.ceil(self._waiting / self._rate))) if self._rate else 1
            raise Problem(
                429,
                f"{self._waiting} images wait, and there is room for {self.limits.queue}. Try again in {wait} s.",
                name="queue-full",
                headers={"Retry-After": str(wait)},
            )

    async def predict(self, model: ServedModel, uploads: Sequence[Upload], *, explain: bool = False) -> list[Outcome]:
        """Answer for images; each fails alone.

        Args:
            model: Which.
            uploads: Image files.
            explain: Whether heat maps are wanted.

        Raises:
            Problem: No room (429), too late (504), or the engine failed (500).
        """
        if explain and not model.engine.explains:
            raise Problem(
                422,
                f"{model.name} runs in {model.engine.name} and gives no heat maps. Ask without, or serve the run.",
                name="no-heat-maps",
            )
        with self._room(len(uploads)):
            try:
                async with asyncio.timeout(self.limits.deadline_seconds):
                    return list(await asyncio.gather(*(self._answer(model, upload, explain) for upload in uploads)))
            except TimeoutError:
                raise Problem(
                    504,
                    f"There was no answer within {self.limits.deadline_seconds:g} s. Try again, with fewer images.",
                    name="deadline",
                ) from None

    @contextmanager
    def _room(self, count: int) -> Iterator[None]:
        self.check_room(count)
        self._waiting += count
        self.metrics.queue.set(self._waiting)
        try:
            yield
        finally:
            self._waiting -= count
            self.metrics.queue.set(self._waiting)

    async def _answer(self, model: ServedModel, upload: Upload, explain: bool) -> Outcome:
        assert self._pool is not None
        engine, started = model.engine, time.monotonic()
        try:
            decoded = await self._pool.decode(upload.data, self._numbers[model.name], picture=explain)
        except ImageError as error:
            self.metrics.images.labels(model.name, "unreadable").inc()
            return Outcome(Prediction("", engine.classes, np.empty(0), error.reason))
        finally:
            self.metrics.decoding.observe(time.monotonic() - started)
            self.metrics.killed.set(self._pool.killed)
        try:
            answer: Answer = await asyncio.wrap_future(self._batcher.submit(engine, decoded.pixels, explain=explain))
        except RegraftError as error:  # an export whose runtime gave something else
            self.metrics.images.labels(model.name, "failed").inc()
            raise Problem(500, f"{model.name} could not be run; the server's log says why.", name="engine") from error
        self.metrics.images.labels(model.name, "answered").inc()
        return Outcome(answer.prediction, answer.heat, decoded.picture)

    def _after_batch(self, engine: Engine, count: int, seconds: float) -> None:
        name = self._named[id(engine)]
        self.metrics.batch.labels(name).observe(count)
        self.metrics.inference.labels(name).observe(seconds)
        rate = count / max(seconds, 1e-6)
        self._rate = rate if not self._rate else 0.9 * self._rate + 0.1 * rate

    def describe(self) -> list[dict[str, Any]]:
        """What the page and programs are told of the models."""
        return [
            {
                "name": model.name,
                "version": model.version,
                "engine": model.engine.name,
                "classes": list(model.engine.classes),
                "image_size": model.engine.preprocessing.size,
                "explains": model.engine.explains,
                "sure_from": model.doubt.sure,
                "unknown_below": model.doubt.strange,
                "facts": [{"title": title, "text": text} for title, text in model.facts],
                "has_card": bool(model.card),
            }
            for model in self.models.values()
        ]
