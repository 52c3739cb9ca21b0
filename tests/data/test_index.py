import io
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regraft.cache import Cache
from regraft.data import index, index_workers
from regraft.data import read_images as read_module
from regraft.data.image_stats import examine_image
from regraft.data.index_workers import InProcessWorker, SubprocessWorker
from regraft.data.scan import scan
from regraft.errors import DataError


def test_an_interrupt_stops_the_pool(images, monkeypatch):
    root = images(*(f"{name}/{i:03d}.png" for name in ("cat", "dog") for i in range(60)))
    first = (root / "cat/000.png").read_bytes()
    read: list[bytes] = []
    stopped = threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            stopped.set()
            super().shutdown(wait=wait)

    def examine(data: bytes, **options: Any) -> tuple[int, int]:
        read.append(data)
        if data != first:
            stopped.wait(10)
        return examine_image(data, **options)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(index, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(index_workers, "examine_image", examine)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        scan(root, workers=2, progress=interrupt)
    assert len(read) <= 3
    assert threading.active_count() == before


def test_cached_images_are_not_decoded_again(images, tmp_path, monkeypatch):
    root = images("a/1.png", "b/2.png")
    (root / "b/bad.png").write_bytes(b"none")
    cache = Cache(tmp_path / "store")
    first = scan(root, cache=cache)
    examined: list[bytes] = []

    def examine(data: bytes, **options: Any) -> tuple[int, int]:
        examined.append(data)
        return examine_image(data, **options)

    monkeypatch.setattr(index_workers, "examine_image", examine)
    assert scan(root, cache=cache) == first
    assert examined == [b"none"]
    (root / "a/1.png").write_bytes((root / "a/1.png").read_bytes()[:40])  # other content is another image
    with pytest.raises(DataError, match="a"):
        scan(root, cache=cache)


def test_progress_counts_every_file(images):
    root = images("cat/1.png", "cat/2.png", "dog/1.png")
    (root / "dog/2.png").touch()
    calls: list[tuple[int, int]] = []
    scan(root, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_large_archive_members_are_not_in_memory_together(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for number in range(256):
            data = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(data, "PNG")
            archive.writestr(f"class{number % 2}/{number}.png", data.getvalue())
    held: list[int] = []

    class Counted(InProcessWorker):
        def __call__(self, files):
            held.append(sum(map(len, files)))
            return super().__call__(files)

    monkeypatch.setattr(index, "InProcessWorker", Counted)
    monkeypatch.setattr(index, "_MAX_BYTES", 1500)  # two of them
    assert len(scan(tmp_path / "data.zip", cache=Cache(tmp_path / "store"), workers=1)) == 256
    assert max(held) < 3000  # of the four of a task
    assert sum(size > 1500 for size in held) > 100


def test_scan_by_processes_equals_scan_by_threads(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for number in range(40):
        file = tmp_path / "data" / f"class{number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(file)
    (tmp_path / "data/class0/broken.png").write_bytes(b"none")
    expected = scan(tmp_path / "data", cache=Cache(tmp_path / "one"))
    asked: list[int] = []

    class Counted(SubprocessWorker):
        def __call__(self, files):
            asked.append(len(files))
            return super().__call__(files)

    monkeypatch.setattr(index, "_FILES_PER_PROCESS", 10)
    monkeypatch.setattr(index, "SubprocessWorker", Counted)
    cache = Cache(tmp_path / "two")
    assert scan(tmp_path / "data", cache=cache, workers=2) == expected
    assert sum(asked) == 41
    (broken,) = expected.bad
    assert broken.path == "class0/broken.png"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_scan_of_many_files_keeps_no_thumbnails_of_small_images(tmp_path, monkeypatch, processes):
    rng = np.random.default_rng(0)
    data = tmp_path / "data"
    for number in range(24):
        file = data / f"class{number % 2}" / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((48, 48), Image.Resampling.BICUBIC)
        (small.resize((96, 96)) if number < 4 else small).save(file)
    expected = scan(data, cache=Cache(tmp_path / "kept"))
    monkeypatch.setattr(read_module, "_KEPT_THUMBNAILS", 10)
    monkeypatch.setattr(index, "_FILES_PER_PROCESS", 5 if processes > 1 else 1000)
    cache = Cache(tmp_path / "passing")

    def thumbnails() -> list[int]:
        return [entry.rows for entry in cache.entries() if entry.kind == "thumbnails"]

    assert scan(data, cache=cache, workers=processes) == expected
    assert thumbnails() == [4], "those of the large images"
    with Image.open(data / "class0/10.png") as image:
        image.resize((44, 44), Image.Resampling.BICUBIC).save(data / "class1/copy.png")
    (pair,) = scan(data, cache=cache, workers=processes).pairs
    assert (pair.first, pair.second) == ("class0/10.png", "class1/copy.png")
    assert thumbnails() == [4]
    assert scan(data, cache=Cache(tmp_path / "kept")).pairs == (pair,), "from a cache that has the thumbnails"


def test_a_file_that_changed_since_its_thumbnail_is_an_error(images, tmp_path, monkeypatch):
    root = images("a/1.png", "b/2.png")
    monkeypatch.setattr(read_module, "_KEPT_THUMBNAILS", 0)
    real = index.ImageIndex.read

    def read(*arguments: Any, **options: Any) -> Any:
        samples = real(*arguments, **options)
        arguments[0].close()
        Image.new("RGB", (9, 9), "red").save(root / "a/1.png")
        return samples

    monkeypatch.setattr(index.ImageIndex, "read", read)
    with pytest.raises(DataError, match=r"a/1\.png changed while the data was read"):
        scan(root, cache=Cache(tmp_path / "store"))
