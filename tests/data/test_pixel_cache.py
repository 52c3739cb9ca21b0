import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from PIL import Image

from regraft.cache import Cache, Table
from regraft.data import pixel_cache as pixels_module
from regraft.data.dataset import Dataset, Sample
from regraft.data.pixel_cache import StreamedPixels, load_pixels
from regraft.data.preprocessing import Preprocessing
from regraft.errors import ImageError


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    """Twelve crops of a photograph, in several sizes and formats."""
    photo = sklearn.datasets.load_sample_image("china.jpg")
    samples = []
    for i in range(12):
        path = f"{i:02d}.{('png', 'jpg', 'webp')[i % 3]}"
        Image.fromarray(photo[20 * i : 20 * i + 40, 30 * i : 30 * i + 50 + i]).save(tmp_path / path)
        samples.append(Sample(path, "ab"[i % 2], str(i)))
    return Dataset(tmp_path, tuple(samples), ("a", "b"))


@pytest.mark.parametrize("workers", [None, 1, 5])
def test_each_row_is_what_preprocessing_gives(dataset, tmp_path, workers):
    prepare = Preprocessing(size=24, resize="crop")
    pixels = load_pixels(dataset, prepare, Cache(tmp_path / "store"), workers=workers)
    assert (pixels.shape, pixels[:].dtype) == ((12, 24, 24, 3), np.uint8)
    for row, sample in zip(pixels[:], dataset.samples, strict=True):
        np.testing.assert_array_equal(row, prepare(dataset.source(sample)))


def test_what_is_stored_is_not_decoded_again(dataset, tmp_path, monkeypatch):
    first = load_pixels(dataset.with_samples(dataset.samples[:8]), Preprocessing(size=16), Cache(tmp_path / "store"))
    read = []
    monkeypatch.setattr(Dataset, "source", lambda self, sample: read.append(sample.path) or self.root / sample.path)
    again = load_pixels(dataset, Preprocessing(size=16), Cache(tmp_path / "store"))
    assert read == [sample.path for sample in dataset.samples[8:]]
    np.testing.assert_array_equal(again[:8], first[:])
    assert again[np.array([3, 1])].shape == (2, 16, 16, 3)
    load_pixels(dataset, Preprocessing(size=16, resize="pad"), Cache(tmp_path / "store"))
    assert len(read) == 4 + 12


def test_arrays_need_no_files(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    dataset = Dataset.from_arrays(images, ["a", "b", "a"])
    np.testing.assert_array_equal(load_pixels(dataset, Preprocessing(size=16), Cache(tmp_path / "store"))[:], images)


def test_no_samples_are_no_pixels(dataset, tmp_path):
    pixels = load_pixels(dataset.with_samples([]), Preprocessing(size=16), Cache(tmp_path / "store"))
    assert (pixels.shape, pixels[:].dtype) == ((0, 16, 16, 3), np.uint8)


def test_progress_counts_every_image(dataset, tmp_path):
    calls: list[tuple[int, int]] = []
    load_pixels(
        dataset,
        Preprocessing(size=16),
        Cache(tmp_path / "store"),
        progress=lambda *done_and_total: calls.append(done_and_total),
    )
    assert calls == [(i, 12) for i in range(1, 13)]


def test_one_chunk_is_decoded_while_another_is_stored_and_no_more(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(pixels_module, "_CHUNK", 2)
    read: list[str] = []
    decoded_at_append: list[int] = []
    append = Table.append

    def slow_append(self: Table, names: list[bytes], rows: np.ndarray) -> np.ndarray:
        deadline = time.monotonic() + 5
        expected = min(12, 2 * len(decoded_at_append) + 4)
        while len(read) < expected and time.monotonic() < deadline:
            time.sleep(0.001)
        decoded_at_append.append(len(read))
        return append(self, names, rows)

    monkeypatch.setattr(Table, "append", slow_append)
    monkeypatch.setattr(Dataset, "source", lambda self, sample: read.append(sample.path) or self.root / sample.path)
    pixels = load_pixels(dataset, Preprocessing(size=16), Cache(tmp_path / "store"))
    assert decoded_at_append == [4, 6, 8, 10, 12, 12]
    assert pixels.shape == (12, 16, 16, 3)


def test_an_image_that_is_gone_is_an_error_and_leaves_no_file(dataset, tmp_path):
    (tmp_path / "07.jpg").unlink()
    before = threading.active_count()
    with pytest.raises(ImageError, match=r"07\.jpg: file not found"):
        load_pixels(dataset, Preprocessing(size=16), Cache(tmp_path / "store"))
    assert threading.active_count() == before


def test_what_was_decoded_before_an_error_is_kept(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(pixels_module, "_CHUNK", 3)
    gone = tmp_path / "07.jpg"
    data = gone.read_bytes()
    gone.unlink()
    with pytest.raises(ImageError, match=r"07\.jpg: file not found"):
        load_pixels(dataset, Preprocessing(size=16), Cache(tmp_path / "store"))
    gone.write_bytes(data)
    read: list[str] = []
    monkeypatch.setattr(Dataset, "source", lambda self, sample: read.append(sample.path) or self.root / sample.path)
    load_pixels(dataset, Preprocessing(size=16), Cache(tmp_path / "store"))
    assert read == [sample.path for sample in dataset.samples[6:]]


def test_what_scan_allowed_is_allowed_again(dataset, tmp_path):
    small = dataclasses.replace(dataset, max_pixels=100)
    with pytest.raises(ImageError, match=r"50 x 40 pixels, more than 100 allowed"):
        load_pixels(small, Preprocessing(size=16), Cache(tmp_path / "store"))


def test_an_interrupt_stops_the_pool(dataset, tmp_path, monkeypatch):
    read: list[Path] = []
    stopped = threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            stopped.set()
            super().shutdown(wait=wait)

    class Slow(Dataset):
        def source(self, sample: Sample) -> Path:
            path = self.root / sample.path
            read.append(path)
            if sample.path != "00.png":
                stopped.wait(10)
            return path

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pixels_module, "ThreadPoolExecutor", Pool)
    slow = Slow(dataset.root, dataset.samples, dataset.classes)
    with pytest.raises(KeyboardInterrupt):
        load_pixels(slow, Preprocessing(size=16), Cache(tmp_path / "store"), workers=2, progress=interrupt)
    assert len(set(read)) <= 3


@pytest.mark.parametrize("workers", [None, 1, 5])
def test_streamed_pixels_are_the_cached_ones(dataset, tmp_path, workers):
    prepare, cache = Preprocessing(size=24, resize="crop"), Cache(tmp_path / "store")
    streamed = StreamedPixels(dataset, prepare, cache, workers=workers)
    assert cache.entries() == [], "nothing is stored"
    cached = load_pixels(dataset, prepare, Cache(tmp_path / "other"))
    assert (streamed.shape, len(streamed), streamed[:].dtype) == (cached.shape, 12, np.uint8)
    for chosen in (slice(None), slice(3, 7), np.array([5, 1, 1])):
        np.testing.assert_array_equal(streamed[chosen], cached[chosen])
    parts = [np.array([4, 2]), np.array([], dtype=np.int64), np.array([11, 0, 7])]
    for ours, theirs in zip(streamed.batches(parts), cached.batches(parts), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_streaming_reads_what_a_cache_has(dataset, tmp_path, monkeypatch):
    cached = load_pixels(dataset.with_samples(dataset.samples[:8]), Preprocessing(size=16), Cache(tmp_path / "store"))
    read = []
    monkeypatch.setattr(Dataset, "source", lambda self, sample: read.append(sample.path) or self.root / sample.path)
    streamed = StreamedPixels(dataset, Preprocessing(size=16), Cache(tmp_path / "store"))
    mixed = np.array([9, 2, 7])
    np.testing.assert_array_equal(streamed[mixed][1:], cached[mixed[1:]])
    assert read == [dataset.samples[9].path]


def test_only_a_few_batches_are_decoded_ahead(dataset, monkeypatch):
    read = []
    monkeypatch.setattr(Dataset, "source", lambda self, sample: read.append(sample.path) or self.root / sample.path)
    before = threading.active_count()
    batches = StreamedPixels(dataset, Preprocessing(size=16), workers=1).batches([np.array([i]) for i in range(12)])
    next(batches)
    assert len(read) <= 2 + pixels_module._AHEAD
    batches.close()
    assert threading.active_count() == before
    assert len(read) <= 2 + pixels_module._AHEAD


def test_streaming_an_image_that_is_gone_is_an_error(dataset, tmp_path):
    (tmp_path / "07.jpg").unlink()
    before = threading.active_count()
    with pytest.raises(ImageError, match=r"07\.jpg: file not found"):
        StreamedPixels(dataset, Preprocessing(size=16))[:]
    assert threading.active_count() == before
