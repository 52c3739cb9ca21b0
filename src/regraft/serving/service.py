"""Turn image files into predictions, within the server's capacity."""

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
from starlette.requests import Request

from regraft.errors import ImageError, RegraftError
from regraft.evaluation.drift.observations import Observations
from regraft.models.inference import Prediction, half_width_for
from regraft.models.rejection import RejectionPolicy
from regraft.serving.answer_log import LoggedModel
from regraft.serving.answer_numbers import AnswerNumbers
from regraft.serving.batching import Answer, Batcher
from regraft.serving.decode_pool import DecodingPool
from regraft.serving.http.problem_details import Problem
from regraft.serving.http.request_body import BodyReader, Upload
from regraft.serving.inference_engine import Engine
from regraft.serving.limits import Limits
from regraft.serving.metrics import Metrics
from regraft.serving.recorder import Recorder, Recording

State = Literal["starting", "ready", "draining"]
_log = logging.getLogger("regraft.serving")


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model with what its page shows: `facts` are pairs of a title and a text, and `card` is Markdown or "".

    `weights` is the SHA-256 of the weights of its run, "" if unknown, and `validation` what the run said in validation.
    """

    name: str
    version: str
    engine: Engine
    rejection_policy: RejectionPolicy = field(default_factory=RejectionPolicy)
    facts: Sequence[tuple[str, str]] = ()
    card: str = ""
    weights: str = ""
    validation: Observations | None = None

    @property
    def logged(self) -> LoggedModel:
        """What the log of answers says of the model."""
        return LoggedModel(self.name, self.version, self.weights, self.engine.task, tuple(self.engine.classes))


class Service:
    """Answers requests, whatever their protocol.

    `load` returns the models of these names, the default first; it runs in a thread while the server is starting.
    `recording` says where answers are written down, if anywhere.
    """

    def __init__(
        self,
        names: Sequence[str],
        load: Callable[[], Sequence[ServedModel]],
        limits: Limits,
        decoders: int | None,
        recording: Recording | None = None,
    ) -> None:
        self.names, self.limits, self.metrics = tuple(names), limits, Metrics()
        self.models: Mapping[str, ServedModel] = {}
        self.state: State = "starting"
        self.bodies = BodyReader(limits, self.metrics.buffered.set)
        self._load, self._decoders, self._recording = load, decoders, recording
        self._recorder: Recorder | None = None
        self._queued = 0
        self._images_per_second = 0.0  # moving average
        self._pool: DecodingPool | None = None
        self._batcher = Batcher(size=limits.batch, delay=limits.delay_seconds, on_batch=self._after_batch)

    async def start(self) -> None:
        """Load the models and start the processes; raises `RegraftError` if one of them fails."""
        models = await asyncio.to_thread(self._load_and_warm_up)
        for model in models:
            self.metrics.answers.add_model(model.name, model.engine.classes, model.validation)
        if self._recording is not None:
            logged, lost = [model.logged for model in models], self.metrics.answers.lost
            self._recorder = await asyncio.to_thread(self._recording.start, logged, self.limits, lost.inc)
        self._batcher.start()
        preprocessings, limits = [model.engine.preprocessing for model in models], self.limits
        self._pool = DecodingPool(preprocessings, limits.pixels, limits.decode_seconds, self._decoders)
        await self._pool.start()
        self.models = {model.name: model for model in models}
        if self.state == "starting":
            self.state = "ready"
            self.metrics.ready.set(1)
        for name, model in self.models.items():
            extra = {"model": name, "engine": model.engine.name, "batches": list(model.engine.sizes)}
            _log.info("model ready", extra={"event": "model-ready", **extra})

    def _load_and_warm_up(self) -> Sequence[ServedModel]:
        models = self._load()
        for model in models:
            model.engine.warm_up(self.limits.batch)
        return models

    def drain(self) -> None:
        """Accept no more requests; those that were accepted are answered."""
        self.state = "draining"
        self.metrics.ready.set(0)

    async def stop(self) -> None:
        """Stop the thread and the processes."""
        self.drain()
        if self._pool is not None:
            await asyncio.to_thread(self._batcher.stop)
            await self._pool.stop()
        if self._recorder is not None:
            await asyncio.to_thread(self._recorder.stop)

    def find(self, name: str | None, version: str | None = None) -> ServedModel:
        """The model with this name, or the default model; raises `Problem` 404, or 503 while models are loaded."""
        self.check_ready()
        model = self.models.get(name or self.names[0])
        if model is None:
            text = f"There is no model of this name. Expected {', '.join(self.names)}."
            raise Problem(404, text, name="no-such-model")
        if version is not None and version != model.version:
            text = f"{model.name} has no such version. Expected {model.version}."
            raise Problem(404, text, name="no-such-version")
        return model

    def check_ready(self) -> None:
        """Raise `Problem` 503 while the server is starting or draining."""
        if self.state != "ready":
            activity = "loading its models" if self.state == "starting" else "shutting down"
            text = f"The server is {activity}. Try again later."
            raise Problem(503, text, name=self.state, headers={"Retry-After": "2"})

    def check_capacity(self, count: int = 1) -> None:
        """Raise `Problem` 429, with the seconds to wait, if the queue has no space for `count` images."""
        if self._queued + count > self.limits.queue:
            rate = self._images_per_second
            wait = min(60, max(1, math.ceil(self._queued / rate))) if rate else 1
            text = f"{self._queued} images are waiting, and the queue holds {self.limits.queue}. Try again in {wait} s."
            raise Problem(429, text, name="queue-full", headers={"Retry-After": str(wait)})

    async def predict(self, model: ServedModel, uploads: Sequence[Upload], *, explain: bool = False) -> list[Answer]:
        """Predict images; a bad image does not affect the others.

        Raises `Problem`: no heat maps (422), the queue is full (429), the engine failed (500), or too late (504).
        """
        if explain and not model.engine.explains:
            fix = "Send the request without `explain`, or serve the run itself."
            text = f"{model.name} runs in {model.engine.name} and has no heat maps. {fix}"
            raise Problem(422, text, name="no-heat-maps")
        with self._reserve_queue_space(len(uploads)):
            try:
                async with asyncio.timeout(self.limits.deadline_seconds):
                    return list(await asyncio.gather(*(self._predict(model, upload, explain) for upload in uploads)))
            except TimeoutError:
                text = f"There was no answer within {self.limits.deadline_seconds:g} s. Try again with fewer images."
                raise Problem(504, text, name="deadline") from None

    @contextmanager
    def _reserve_queue_space(self, count: int) -> Iterator[None]:
        self.check_capacity(count)
        self._queued += count
        self.metrics.queue.set(self._queued)
        try:
            yield
        finally:
            self._queued -= count
            self.metrics.queue.set(self._queued)

    async def _predict(self, model: ServedModel, upload: Upload, explain: bool) -> Answer:
        assert self._pool is not None
        engine, started = model.engine, time.monotonic()
        try:
            image = await self._pool.decode(upload.data, self.names.index(model.name), thumbnail=explain)
        except ImageError as error:
            self.metrics.images.labels(model.name, "unreadable").inc()
            return Answer(Prediction("", engine.classes, np.empty(0), error.reason, taxonomy=engine.taxonomy))
        finally:
            self.metrics.decoding.observe(time.monotonic() - started)
            self.metrics.killed.set(self._pool.killed)
        try:
            answer = await asyncio.wrap_future(self._batcher.submit(engine, image, explain=explain))
        except RegraftError as error:  # such as an export whose runtime failed
            self.metrics.images.labels(model.name, "failed").inc()
            raise Problem(500, f"{model.name} failed. The server's log has the reason.", name="engine") from error
        self.metrics.images.labels(model.name, "answered").inc()
        numbers = AnswerNumbers.of(answer.prediction, engine.task)
        self.metrics.answers.count(model.name, numbers)
        if self._recorder is not None:
            self._recorder.submit(model.name, numbers, upload.data)
        return answer

    def _after_batch(self, engine: Engine, count: int, seconds: float) -> None:
        name = next(model.name for model in self.models.values() if model.engine is engine)
        self.metrics.batch.labels(name).observe(count)
        self.metrics.inference.labels(name).observe(seconds)
        rate = count / max(seconds, 1e-6)
        self._images_per_second = 0.9 * self._images_per_second + 0.1 * rate if self._images_per_second else rate

    def describe(self) -> list[dict[str, Any]]:
        """The models for the page and for programs, as in `ModelDescription`."""
        return [
            {
                "name": model.name, "version": model.version, "engine": model.engine.name,
                "precision": model.engine.precision, "task": model.engine.task,
                "classes": list(model.engine.classes), "ordered": model.engine.ordered,
                "thresholds": list(model.engine.thresholds),
                "half_width": half_width_for(model.engine.model, None),
                "taxonomy": None if model.engine.taxonomy is None else model.engine.taxonomy.to_json(),
                "image_size": model.engine.preprocessing.named_size,
                "explains": model.engine.explains,
                "min_confidence": model.rejection_policy.min_confidence,
                "ood_threshold": model.rejection_policy.ood_threshold,
                "facts": [{"title": title, "text": text} for title, text in model.facts],
                "has_card": bool(model.card),
            }
            for model in self.models.values()
        ]  # fmt: skip


def service_of(request: Request) -> Service:
    """The service that the application of a request was created with."""
    service: Service = request.app.state.service
    return service
