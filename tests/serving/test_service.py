"""The service without capacity, time or answers, with a predictor whose speed the test controls."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from PIL import Image
from predictors import MeanPredictor, pixels

from regraft.errors import ExportError, RegraftError
from regraft.models.rejection import RejectionPolicy
from regraft.serving import decode_pool
from regraft.serving.http.app import create_app
from regraft.serving.inference_engine import Engine
from regraft.serving.limits import Limits
from regraft.serving.service import ServedModel, Service

RAW = {"Content-Type": "application/octet-stream"}


def picture(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(value)).save(file, "PNG")
    return file.getvalue()


def serving(use: Callable[[httpx.AsyncClient, MeanPredictor, Service], Awaitable[None]], **limits: Any) -> None:
    """Run a service within limits, and a client of it."""
    predictor = MeanPredictor(failing=0)

    async def run() -> None:
        service = Service(
            ["means"],
            lambda: [ServedModel("means", "1", Engine(predictor, "ours"), RejectionPolicy(min_confidence=0.9))],
            Limits(delay_seconds=0, **limits),
            decoders=1,
        )
        app = create_app(service)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            for address in ("/v2/health/ready", "/v2/models/means", "/models"):
                assert (await client.get(address)).status_code == 503
            answer = await client.post("/predict", content=picture(1), headers=RAW)
            assert answer.status_code == 503
            assert "loading" in answer.json()["detail"]
            assert (await client.get("/v2/health/live")).status_code == 200
            await service.start()
            try:
                assert (await client.get("/v2/health/ready")).status_code == 200
                await use(client, predictor, service)
            finally:
                predictor.gate.set()
                await service.stop()
            assert (await client.get("/v2/health/ready")).status_code == 503

    asyncio.run(run())


def test_full_queue_refuses_and_recovers() -> None:
    async def use(client: httpx.AsyncClient, predictor: MeanPredictor, service: Service) -> None:
        predictor.gate.clear()
        requests = [asyncio.ensure_future(client.post("/predict", content=picture(9), headers=RAW)) for _ in range(3)]
        while service._queued < 3:
            await asyncio.sleep(0.01)
        two = {"images": [base64.b64encode(picture(9)).decode()] * 2}
        refused = await client.post("/predict", json=two)  # there is space for one image only
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert "3 images are waiting" in refused.json()["detail"]
        requests.append(asyncio.ensure_future(client.post("/predict", content=picture(9), headers=RAW)))
        while service._queued < 4:
            await asyncio.sleep(0.01)
        assert (await client.post("/predict", content=picture(9), headers=RAW)).status_code == 429
        predictor.gate.set()
        assert [answer.status_code for answer in await asyncio.gather(*requests)] == [200] * 4
        assert (await client.post("/predict", json=two)).status_code == 200
        text = (await client.get("/metrics")).text
        assert 'regraft_rejections_total{cause="queue-full"} 2.0' in text
        assert "regraft_queue_images 0.0" in text

    serving(use, queue=4, images=2)


def test_deadline() -> None:
    async def use(client: httpx.AsyncClient, predictor: MeanPredictor, service: Service) -> None:
        predictor.gate.clear()
        answer = await client.post("/predict", content=picture(9), headers=RAW)
        assert answer.status_code == 504
        assert "within 0.3 s" in answer.json()["detail"]
        assert service._queued == 0
        predictor.gate.set()
        assert (await client.post("/predict", content=picture(9), headers=RAW)).status_code == 200

    serving(use, deadline_seconds=0.3)


def test_failing_engine_affects_one_request() -> None:
    async def use(client: httpx.AsyncClient, predictor: MeanPredictor, service: Service) -> None:
        answers = await asyncio.gather(
            *(client.post("/predict", content=picture(value), headers=RAW) for value in (9, 0, 30))
        )
        assert [answer.status_code for answer in answers] == [200, 500, 200]
        assert answers[1].headers["content-type"] == "application/problem+json"
        assert "secret" not in answers[1].text

    serving(use)


def test_answers_come_from_the_engine() -> None:
    async def use(client: httpx.AsyncClient, predictor: MeanPredictor, service: Service) -> None:
        for value, label, accepted in ((30, "dark", False), (230, "bright", True)):
            answer = (await client.post("/predict", content=picture(value), headers=RAW)).json()["images"][0]
            assert (answer["label"], answer["accepted"], answer["ood_p_value"]) == (label, accepted, None)
            assert {one["label"]: one["probability"] for one in answer["top"]}["bright"] == value / 255
        refused = await client.post("/predict?explain=true", content=picture(9), headers=RAW)
        assert refused.status_code == 422
        assert "no heat maps" in refused.json()["detail"]
        outputs = (await client.get("/v2/models/means")).json()["outputs"]
        assert [tensor["name"] for tensor in outputs] == ["probabilities", "label"]

    serving(use)


def test_bodies_share_a_memory_limit() -> None:
    async def use(client: httpx.AsyncClient, predictor: MeanPredictor, service: Service) -> None:
        async def endless() -> Any:
            yield b"x" * 900
            await asyncio.sleep(0.5)
            yield b"x"

        first = asyncio.ensure_future(client.post("/predict", content=endless(), headers=RAW))
        while not service.bodies.buffered:
            await asyncio.sleep(0.01)
        second = await client.post("/predict", content=b"x" * 900, headers=RAW)
        assert second.status_code == 503
        assert second.headers["retry-after"] == "1"
        assert (await first).status_code == 422
        assert service.bodies.buffered == 0

    serving(use, body_bytes=1000, buffered_bytes=1000)


@pytest.mark.parametrize("fault", [ExportError("damaged"), RuntimeError("other")])
def test_start_fails_if_a_model_cannot_be_loaded(fault: Exception) -> None:
    def load() -> list[ServedModel]:
        raise fault

    async def run() -> None:
        service = Service(["x"], load, Limits(), None)
        with pytest.raises(type(fault)):
            await service.start()
        await service.stop()

    asyncio.run(run())


def test_start_fails_if_no_process_can_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    def handler(settings: object) -> None:
        raise NotImplementedError

    handler.__module__ = "no_such_module"
    monkeypatch.setattr(decode_pool, "make_handler", handler)

    async def run() -> None:
        service = Service(
            ["means"], lambda: [ServedModel("means", "1", Engine(MeanPredictor(), "ours"))], Limits(), decoders=1
        )
        with pytest.raises(RegraftError, match="No process that decodes images could be started"):
            await service.start()
        await service.stop()

    asyncio.run(run())
