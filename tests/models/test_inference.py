from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from regraft.models.classifier import Classifier, build
from regraft.models.inference import infer, one_or_many, predict_images


@pytest.fixture(scope="module")
def model() -> Classifier:
    model = build(classes=("a", "b", "c"), image_size=64)
    torch.nn.init.normal_(model.head.classifier.weight, generator=torch.Generator().manual_seed(0))
    return model


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = []
    for i in range(7):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    paths.insert(3, tmp_path / "broken.jpg")
    return paths


def test_order_is_kept_and_a_bad_file_is_an_answer(model: Classifier, files: list[Path]) -> None:
    answers = list(predict_images(model, files, batch_size=3))
    assert [a.source for a in answers] == [str(f) for f in files]
    assert [a.error is not None for a in answers] == [f.name == "broken.jpg" for f in files]
    bad = answers[3]
    assert (bad.label, bad.confidence, bad.top()) == ("", 0.0, [])
    assert "not an image" in (bad.error or "")


def test_batches_equal_one_by_one(model: Classifier, files: list[Path]) -> None:
    together = [a.probabilities for a in predict_images(model, files, batch_size=8)]
    alone = [a.probabilities for a in predict_images(model, files, batch_size=1)]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_paths_bytes_and_arrays_are_the_same(model: Classifier, files: list[Path]) -> None:
    path = files[0]
    array = np.asarray(Image.open(path))
    answers = list(predict_images(model, [path, str(path), path.read_bytes(), array]))
    for answer in answers:
        np.testing.assert_allclose(answer.probabilities, answers[0].probabilities, atol=1e-7)
    assert [a.source for a in answers] == [str(path), str(path), "", ""]


def test_an_image_that_was_given_is_not_found_in_its_folder_again(files: list[Path], tmp_path: Path) -> None:
    assert list(one_or_many([files[1], tmp_path, tmp_path])) == [files[1], files[0], *files[2:3], *files[4:], files[3]]
    assert list(one_or_many([files[0], files[0]])) == [files[0], files[0]], "who asks twice is answered twice"


def test_sources_are_read_as_a_stream(model: Classifier, files: list[Path]) -> None:
    asked = 0

    def endless() -> Iterator[Path]:
        nonlocal asked
        while True:
            asked += 1
            yield files[0]

    stream = predict_images(model, endless(), batch_size=2, workers=1)
    for _ in range(10):
        next(stream)
    stream.close()  # type: ignore[attr-defined]  # a generator, though declared as an iterator
    assert asked < 30


def test_top_classes_come_best_first(model: Classifier, files: list[Path]) -> None:
    answer = next(predict_images(model, files))
    top = answer.top(2)
    assert len(top) == 2
    assert top[0] == (answer.label, answer.confidence)
    assert top[0][1] >= top[1][1]
    assert sum(p for _, p in answer.top(99)) == pytest.approx(1)


def test_mode_is_restored(model: Classifier) -> None:
    model.train()
    infer(model, torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert model.training
    model.eval()


def test_no_sources_no_answers(model: Classifier) -> None:
    assert list(predict_images(model, [])) == []


def test_bytes_in_memory(model: Classifier) -> None:
    buffer = io.BytesIO()
    Image.new("L", (9, 9), 128).save(buffer, "BMP")
    assert next(predict_images(model, [buffer.getvalue()])).error is None
