"""Decoding processes: a crash, a hang or a client that leaves costs one image at most."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from PIL import Image

from regraft.data.band_values import Bands
from regraft.data.preprocessing import Preprocessing
from regraft.errors import ImageError
from regraft.serving.decode_pool import THUMBNAIL_SIDE, DecodingPool

SIZES = [
    Preprocessing(size=16),
    Preprocessing(size=32, resize="pad"),
    Preprocessing(size=(32, 16), resize="crop"),
    Preprocessing(size=16, value_range=((29000.0, 31000.0), (0.0, 0.0))),
    Preprocessing(
        size=16,
        mean=(0.5,) * 4,
        std=(0.2,) * 4,
        bands=Bands((5, 1, 2, 3), ((0.0, 4000.0),) * 4, (0.5,) * 4, (0.2,) * 4),
    ),
]


def picture(width: int = 50, height: int = 30) -> bytes:
    file = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def with_pool(use: Callable[[DecodingPool], Awaitable[None]], seconds: float = 20, workers: int = 1) -> None:
    async def run() -> None:
        pool = DecodingPool(SIZES, 1_000_000, seconds, workers)
        await pool.start()
        try:
            await use(pool)
        finally:
            await pool.stop()

    asyncio.run(run())


def test_sixteen_bits_are_shown_in_the_range_of_the_model() -> None:
    async def use(pool: DecodingPool) -> None:
        file = io.BytesIO()
        Image.fromarray(np.linspace(29000, 31000, 32 * 32).reshape(32, 32).astype(np.uint16)).save(file, "PNG")
        decoded = await pool.decode(file.getvalue(), 3, thumbnail=True)
        assert np.array_equal(decoded.pixels, SIZES[3](file.getvalue()))
        with Image.open(io.BytesIO(decoded.thumbnail)) as small:
            assert np.ptp(np.asarray(small)) > 240

    with_pool(use)


def test_other_bands_than_colors_and_their_picture() -> None:
    async def use(pool: DecodingPool) -> None:
        file = io.BytesIO()
        np.save(file, np.random.default_rng(0).integers(0, 4000, (30, 20, 5)).astype(np.uint16))
        decoded = await pool.decode(file.getvalue(), 4, thumbnail=True)
        assert decoded.pixels.shape == (16, 16, 4)
        assert np.array_equal(decoded.pixels, SIZES[4](file.getvalue()))
        with Image.open(io.BytesIO(decoded.thumbnail)) as small:
            assert small.size == (20, 30)
        with pytest.raises(ImageError, match="3 bands of 8-bit integers; expected at least 5"):
            await pool.decode(picture(), 4)
        with pytest.raises(ImageError, match="5 bands of 16-bit integers, which are not colors"):
            await pool.decode(file.getvalue(), 0)

    with_pool(use)


def test_pixels_equal_those_of_the_preprocessing() -> None:
    async def use(pool: DecodingPool) -> None:
        wide = picture(2000, 400)
        for number, preprocessing in enumerate(SIZES[:4]):
            decoded = await pool.decode(picture(), number)
            assert np.array_equal(decoded.pixels, preprocessing(picture()))
            assert decoded.thumbnail == b""
            decoded = await pool.decode(wide, number, thumbnail=True)
            assert np.array_equal(decoded.pixels, preprocessing(wide))
            with Image.open(io.BytesIO(decoded.thumbnail)) as small:
                assert small.size == (THUMBNAIL_SIDE, THUMBNAIL_SIDE // 5)
        for bad, reason in ((b"", "empty file"), (b"x", "not an image"), (picture(2000, 501), "more than 1,000,000")):
            with pytest.raises(ImageError, match=reason):
                await pool.decode(bad, 0)
        many = await asyncio.gather(*(pool.decode(picture(20 + i), 0) for i in range(20)))
        assert all(np.array_equal(one.pixels, SIZES[0](picture(20 + i))) for i, one in enumerate(many))
        assert pool.killed == 0

    with_pool(use, workers=2)


def test_hanging_process_is_killed_and_replaced() -> None:
    async def use(pool: DecodingPool) -> None:
        (worker,) = pool._workers
        os.kill(worker._process.pid, signal.SIGSTOP)  # as a decoder that hangs
        with pytest.raises(ImageError, match="more than 1 s"):
            await pool.decode(picture(), 0)
        assert pool.killed == 1
        assert (await pool.decode(picture(), 0)).pixels.shape == (16, 16, 3)
        assert worker not in pool._workers

    with_pool(use, seconds=1)


def test_crashed_process_is_replaced() -> None:
    async def use(pool: DecodingPool) -> None:
        (worker,) = pool._workers
        os.kill(worker._process.pid, signal.SIGSTOP)
        asking = asyncio.ensure_future(pool.decode(picture(), 0))
        await asyncio.sleep(0.05)
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(ImageError, match="SIGKILL"):
            await asking
        assert (await pool.decode(picture(), 1)).pixels.shape == (32, 32, 3)

    with_pool(use)


def test_cancelled_request_and_signals_keep_the_process() -> None:
    async def use(pool: DecodingPool) -> None:
        (worker,) = pool._workers
        os.kill(worker._process.pid, signal.SIGSTOP)
        asking = asyncio.ensure_future(pool.decode(picture(), 0))
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        os.kill(worker._process.pid, signal.SIGCONT)
        decoded = await pool.decode(picture(), 1)
        assert np.array_equal(decoded.pixels, SIZES[1](picture()))  # not the answer to the other
        assert pool.killed == 0
        for name in ("SIGTERM", "SIGINT"):  # a signal to the whole group is the server's affair
            os.kill(worker._process.pid, getattr(signal, name))
        assert (await pool.decode(picture(), 1)).pixels.shape == (32, 32, 3)
        assert pool.killed == 0

    with_pool(use)
