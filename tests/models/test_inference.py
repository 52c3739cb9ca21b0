from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from regraft.errors import UsageError
from regraft.models.classifier import Classifier, build
from regraft.models.image_sources import iter_sources
from regraft.models.inference import predict_batch, predict_images


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


def test_predictions_are_in_order_and_a_bad_file_gives_an_error(model: Classifier, files: list[Path]) -> None:
    predictions = list(predict_images(model, files, batch_size=3))
    assert [a.source for a in predictions] == [str(f) for f in files]
    assert [a.error is not None for a in predictions] == [f.name == "broken.jpg" for f in files]
    bad = predictions[3]
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
    predictions = list(predict_images(model, [path, str(path), path.read_bytes(), array]))
    for prediction in predictions:
        np.testing.assert_allclose(prediction.probabilities, predictions[0].probabilities, atol=1e-7)
    assert [a.source for a in predictions] == [str(path), str(path), "", ""]


def test_a_given_image_is_not_repeated_from_its_folder(files: list[Path], tmp_path: Path) -> None:
    assert list(iter_sources([files[1], tmp_path, tmp_path])) == [files[1], files[0], *files[2:3], *files[4:], files[3]]
    assert list(iter_sources([files[0], files[0]])) == [files[0], files[0]], "a repeated source is predicted again"


def test_other_files_of_a_folder_are_said(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "IMG_1").write_bytes(files[0].read_bytes())
    (tmp_path / "._a.png").touch()
    ignored: list[str] = []
    images = list(iter_sources(tmp_path, ignored.extend))
    assert ignored == [str(tmp_path / "IMG_1"), str(tmp_path / "._a.png")]
    with pytest.warns(UserWarning, match="ignored") as warned:
        assert list(iter_sources(tmp_path)) == images
    assert [str(w.message).partition(":")[0] for w in warned] == ["No extension", "Hidden and system files"]
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "scan.psd").touch()
    with pytest.raises(UsageError, match=r"has no image.\n\.psd: 1 file ignored"):
        list(iter_sources(tmp_path / "alone"))


def test_sources_are_read_as_a_stream(model: Classifier, files: list[Path]) -> None:
    read = 0

    def infinite() -> Iterator[Path]:
        nonlocal read
        while True:
            read += 1
            yield files[0]

    stream = predict_images(model, infinite(), batch_size=2, workers=1)
    for _ in range(10):
        next(stream)
    stream.close()  # type: ignore[attr-defined]  # a generator, though declared as an iterator
    assert read < 30


def test_top_classes_come_best_first(model: Classifier, files: list[Path]) -> None:
    prediction = next(predict_images(model, files))
    top = prediction.top(2)
    assert len(top) == 2
    assert top[0] == (prediction.label, prediction.confidence)
    assert top[0][1] >= top[1][1]
    assert sum(p for _, p in prediction.top(99)) == pytest.approx(1)


def test_mode_is_restored(model: Classifier) -> None:
    model.train()
    predict_batch(model, torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert model.training
    model.eval()


def test_no_sources_give_no_predictions(model: Classifier) -> None:
    assert list(predict_images(model, [])) == []


def test_bytes_in_memory(model: Classifier) -> None:
    buffer = io.BytesIO()
    Image.new("L", (9, 9), 128).save(buffer, "BMP")
    assert next(predict_images(model, [buffer.getvalue()])).error is None


def test_images_of_every_kind_are_the_same(model: Classifier, files: list[Path], tmp_path: Path) -> None:
    path, data = files[0], files[0].read_bytes()
    image = Image.open(path)
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    written = io.BytesIO()
    image.save(written, "PNG")  # its position is the end
    (expected,) = predict_images(model, iter_sources(path))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "a.png")
    with path.open("rb") as file, zipfile.ZipFile(tmp_path / "a.zip") as archive, archive.open("a.png") as member:
        sources = [
            image, Image.open(path), data, bytearray(data), memoryview(data), io.BytesIO(data), written, file, member,
            array, array / 255, array.astype(np.float32), np.dstack([array, np.full(array.shape[:2], 255, np.uint8)]),
            tensor, tensor / 255, tensor.float(), (tensor.float() / 255).requires_grad_(), os.fspath(path),
            np.str_(path),
        ]  # fmt: skip
        for source in sources:
            for given in (source, [source], (one for one in [source, source])):
                for prediction in predict_images(model, iter_sources(given)):
                    np.testing.assert_allclose(prediction.probabilities, expected.probabilities, atol=1e-6)
                    assert prediction.source in ("", str(path))
        assert len(list(iter_sources(sources))) == len(sources)
    assert len(list(iter_sources(tensor[None].repeat(3, 1, 1, 1)))) == len(list(iter_sources([array] * 3))) == 3
    assert list(iter_sources(np.array([str(path)] * 2))) == [str(path)] * 2


def test_a_dark_image_of_a_batch_has_the_range_of_the_batch() -> None:
    batch = np.stack([np.full((8, 8, 3), value, np.float32) for value in (0.75, 200.25)])
    for given in (batch, torch.from_numpy(batch).permute(0, 3, 1, 2)):
        dark, light = iter_sources(given)
        assert (np.asarray(dark).max(), np.asarray(light).min()) == (1, 200)


def test_gray_and_turned_images_are_read_as_their_files(model: Classifier, tmp_path: Path) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
    image, exif = Image.fromarray(gray), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    for source, like in (
        (torch.from_numpy(gray), image),
        (torch.from_numpy(gray)[None], image),
        (gray[..., None], image),
        (Image.open(tmp_path / "turned.png"), tmp_path / "turned.png"),
        (image.convert("P"), image.convert("P").convert("RGB")),
    ):
        one, other = predict_images(model, iter_sources([source, like]))
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-7)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "NoneType; expected a path, bytes"),
        (7, "builtins.int; expected"),
        ([[Image.new("RGB", (8, 8))]], "builtins.list; expected"),
        ({"a.jpg": 1}, "builtins.dict; expected"),
        ("", "An image is ''; expected a path"),
        (io.StringIO("text"), "StringIO; expected"),
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\); expected \(H, W\)"),
        (np.zeros((8, 8), np.int64), "int64; expected uint8"),
        (np.full((8, 8, 3), 1.5), "unclear whether 1 or 255 is white"),
        (np.full((2, 8, 8, 3), 1.5), "The images are a float array .* unclear"),
        (torch.randn(3, 8, 8), r"expected 0\.\.1 or 0\.\.255"),
        (torch.zeros(8, 8, 3), r"tensor of shape \(8, 8, 3\); expected \(C, H, W\)"),
        (torch.zeros(2, 1, 3, 8, 8), "tensor of shape"),
        (torch.zeros(3, 8, 8, device="meta"), "no values in memory"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_image_is_refused_with_its_type_or_shape(source: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        list(iter_sources(source))


def test_a_closed_file_is_refused_and_a_damaged_image_is_an_error_of_its_own(
    model: Classifier, files: list[Path]
) -> None:
    with files[0].open("rb") as file:
        pass
    with pytest.raises(UsageError, match=r"cannot be read: .*closed"):
        list(iter_sources(file))
    damaged = Image.open(io.BytesIO(files[0].read_bytes()[:500]))
    good, bad = predict_images(model, iter_sources([files[0], damaged]))
    assert good.error is None
    assert "truncated" in (bad.error or "")
