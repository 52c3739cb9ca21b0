import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from regraft.data import dataset
from regraft.data.dataset import Dataset, Sample
from regraft.data.quality.findings import Finding, Inspection
from regraft.studies.inspect import gallery
from regraft.studies.inspect.gallery import ClassSamples, choose_evidence, read_pictures


@pytest.fixture
def data() -> Dataset:
    arrays = {str(i): np.full((6, 9, 3), 8 * i, np.uint8) for i in range(30)}
    samples = tuple(Sample(path, "ab"[i % 2], path) for i, path in enumerate(arrays))
    return Dataset(Path("/data/set"), samples, ("a", "b"), _arrays=arrays)


def test_each_image_is_read_once(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, lock, progress = Counter[int](), threading.Lock(), list[tuple[int, int]]()
    decode = dataset.decode_picture

    def counting(source: np.ndarray, **more: int) -> np.ndarray:
        with lock:
            reads[id(source)] += 1
        return decode(source, **more)

    monkeypatch.setattr(dataset, "decode_picture", counting)
    classes = ClassSamples.draw(data, 0)
    pictures = read_pictures(data, ["0", "1", "0"], classes, lambda *numbers: progress.append(numbers))
    assert set(reads.values()) == {1}
    assert progress == [(i, 30) for i in range(1, 31)]
    assert {name: number for name, (_, number) in pictures.means.items()} == {"a": 15, "b": 15}


def test_an_unexpected_error_is_raised(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(source: np.ndarray, **more: int) -> np.ndarray:
        raise ZeroDivisionError

    monkeypatch.setattr(dataset, "decode_picture", failing)
    with pytest.raises(ZeroDivisionError):
        read_pictures(data, [], ClassSamples.draw(data, 0), None)


def test_a_set_shows_images_of_different_labels_first(data: Dataset) -> None:
    paths = tuple(str(i) for i in (0, 2, 4, 6, 8, 10, 12, 14, 16, 1))  # the last one alone has label b
    finding = Finding("conflict", "error", "t", "a", (paths, ("missing",)), ("near duplicates", "gone"))
    (evidence,) = choose_evidence(Inspection(data, (finding,)))
    (entry,) = evidence.pictured
    assert entry.shown[:2] == ("0", "1")
    assert len(entry.shown) == gallery.PER_SET
    assert [entry.paths for entry in evidence.named] == [("missing",)]
