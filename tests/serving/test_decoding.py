"""Processes that decode: what ends one ends nothing else."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from PIL import Image

from regraft.data.preprocessing import Preprocessing
from regraft.errors import ImageError
from regraft.serving.decoding import PICTURE_SIDE, DecodingPool

SIZES = [Preprocessing(size=16), Preprocessing(size=32, resize="pad")]


def picture(width: int = 50, height: int = 30) -> bytes:
    file = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def with_pool(use: Callable[[DecodingPool], Awaitable[None]], seconds: float = 20, workers: int = 1) -> None:
    async def run() -> None:
        pool = DecodingPool(SIZES, max_pixels=1_000_000, seconds=seconds, workers=workers)
        await pool.start()
        try:
            await use(pool)
        finally:
            await pool.stop()

    asyncio.run(run())


def test_pixels_are_those_of_the_one_decoder() -> None:
    async def use(pool: DecodingPool) -> None:
        wide = picture(2000, 400)
        for number, preprocessing in enumerate(SIZES):
            found = await pool.decode(picture(), number)
            assert np.array_equal(found.pixels, preprocessing(picture()))
            assert found.picture == b""
            found = await pool.decode(wide, number, picture=True)
            assert np.array_equal(found.pixels, preprocessing(wide))
            with Image.open(io.BytesIO(found.picture)) as small:
                assert small.size == (PICTURE_SIDE, PICTURE_SIDE // 5)
        for bad, reason in ((b"", "empty file"), (b"x", "not an image"), (picture(2000, 501), "more than 1,000,000")):
            with pytest.raises(ImageError, match=reason):
                await pool.decode(bad, 0)
        many = await asyncio.gather(*(pool.decode(picture(20 + i), 0) for i in range(20)))
        assert all(np.array_equal(one.pixels, SIZES[0](picture(20 + i))) for i, one in enumerate(many))
        assert pool.killed == 0

    with_pool(use, workers=2)


def test_one_that_takes_too_long_is_killed_and_replaced() -> None:
    async def use(pool: DecodingPool) -> None:
        (worker,) = pool._all
        os.kill(worker.process.pid, signal.SIGSTOP)  # as a decoder that hangs
        with pytest.raises(ImageError, match="more than 1 s"):
            await pool.decode(picture(), 0)
        assert pool.killed == 1
        assert (await pool.decode(picture(), 0)).pixels.shape == (16, 16, 3)
        assert worker not in pool._all

    with_pool(use, seconds=1)


def test_one_that_crashes_is_replaced() -> None:
    async def use(pool: DecodingPool) -> None:
        (worker,) = pool._all
        os.kill(worker.process.pid, signal.SIGSTOP)
        asking = asyncio.ensure_future(pool.decode(picture(), 0))
        await asyncio.sleep(0.05)
        os.kill(worker.process.pid, signal.SIGKILL)
        with pytest.raises(ImageError, match="SIGKILL"):
            await asking
        assert (await pool.decode(picture(), 1)).pixels.shape == (32, 32, 3)

    with_pool(use)


def test_who_waits_no_longer_costs_no_process() -> None:
    async def use(pool: DecodingPool) -> None:
        (worker,) = pool._all
        os.kill(worker.process.pid, signal.SIGSTOP)
        asking = asyncio.ensure_future(pool.decode(picture(), 0))
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        os.kill(worker.process.pid, signal.SIGCONT)
        found = await pool.decode(picture(), 1)
        assert np.array_equal(found.pixels, SIZES[1](picture()))  # not the answer to the other
        assert pool.killed == 0
        for name in ("SIGTERM", "SIGINT"):  # a signal to the whole group is the server's affair
            os.kill(worker.process.pid, getattr(signal, name))
        assert (await pool.decode(picture(), 1)).pixels.shape == (32, 32, 3)
        assert pool.killed == 0

    with_pool(use)
