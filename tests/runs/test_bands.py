"""Images of five bands, of which one shows the class, from the scan to the report."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from terminal import regraft

from regraft.config import load_config
from regraft.data.augmentation_options import Augmentation
from regraft.data.dataset import Dataset
from regraft.data.scan import scan
from regraft.data.split import split
from regraft.errors import DataError, UsageError
from regraft.models.classifier import build
from regraft.runs.evaluate import evaluate
from regraft.runs.explain import explain
from regraft.runs.predict import predict
from regraft.runs.prepare import build_for
from regraft.runs.run import Run
from regraft.runs.train import train, train_from
from regraft.studies.inspect.inspect import inspect
from regraft.training.callbacks import NullReporter


def field(label: int, rng: np.random.Generator) -> np.ndarray:
    """uint16 (24, 20, 5), whose last band is dark or bright."""
    values = rng.integers(800, 1200, (24, 20, 5)).astype(np.uint16)
    values[..., 4] = rng.integers(*((200, 900), (2300, 3000))[label], (24, 20))
    return values


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("fields") / "fields", np.random.default_rng(0)
    for number, label in enumerate(("dry", "wet")):
        (root / label).mkdir(parents=True)
        for i in range(16):
            values = field(number, rng)
            np.save(root / label / f"{i:02d}.npy", values.transpose(2, 0, 1) if i % 2 else values)
    return root


class Messages(NullReporter):
    """What a training says."""

    def __init__(self) -> None:
        self.all: list[str] = []

    def on_message(self, message: str) -> None:
        self.all.append(message)


@pytest.fixture(scope="module")
def said() -> Messages:
    return Messages()


@pytest.fixture(scope="module")
def run(folder: Path, fast_settings: dict[str, Any], said: Messages, tmp_path_factory: pytest.TempPathFactory) -> Run:
    settings = fast_settings | {"augmentation.rotation": 10.0, "training.keep_finetuned": "if_better"}
    return train_from(folder, load_config(overrides=settings), tmp_path_factory.mktemp("bands") / "run", reporter=said)


def test_all_bands_are_channels_with_values_of_their_own(run: Run, said: Messages, folder: Path) -> None:
    bands = run.classifier.preprocessing.bands
    assert bands is not None
    assert bands.numbers == (1, 2, 3, 4, 5)
    assert bands.ranges[0] == pytest.approx((801, 1199), abs=3)
    assert bands.ranges[4] == pytest.approx((200, 3000), abs=3)
    assert run.classifier.stages[0].modules[0][1].weight.shape[1] == 5  # type: ignore[union-attr,index]
    assert run.evaluate().accuracy > 0.8
    assert evaluate(run, folder).accuracy > 0.8
    messages = "\n".join(said.all)
    assert "The channels are the bands 1 (80" in messages
    assert "Pictures show the bands 1, 2 and 3 as red, green and blue." in messages
    assert "brightness and contrast alone" in messages


def test_files_bytes_and_arrays_predict_the_same(run: Run, folder: Path) -> None:
    file = folder / "wet" / "01.npy"
    values = np.load(file).transpose(1, 2, 0)
    (one,) = predict(run, file)
    for source in (file.read_bytes(), values, [values], np.stack([values])):
        np.testing.assert_array_equal(predict(run, source)[0].probabilities, one.probabilities)
    few = io.BytesIO()
    np.save(few, values[..., :4])
    assert "4 bands of 16-bit integers; expected at least 5" in str(predict(run, few.getvalue())[0].error)
    with pytest.raises(UsageError, match="expected at least 5"):
        predict(run, values[..., :4])


def test_heat_maps_and_reports_show_false_colors(run: Run, folder: Path) -> None:
    (explanation,) = explain(run, folder / "wet" / "00.npy")
    assert explanation.image.shape == (24, 20, 3)
    assert explanation.heat.shape == (1, 24, 20)
    page = (run.path / "report.html").read_text()
    assert page.count("data:image/jpeg") >= 8
    assert ">unreadable<" not in page


def test_three_chosen_bands_are_red_green_and_blue(folder: Path, tmp_path: Path) -> None:
    quick = ("--image-size", 32, "--epochs", 0, "--set", "training.views=1", "--set", "data.val=0.25")
    done = regraft("train", folder, "--bands", "5,1,2", "--out", tmp_path / "run", *quick)
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / "run")
    preprocessing = run.classifier.preprocessing
    assert preprocessing.bands is not None
    assert preprocessing.bands.numbers == (5, 1, 2)
    assert preprocessing.mean == (0.5, 0.5, 0.5), "that of the backbone"
    assert run.evaluate().accuracy > 0.8
    config = load_config(overrides={"run.from_run": str(run.path)})
    few = scan(folder, bands=config.data.bands, near_duplicates=False).table.take(np.array([0, 20]))
    other = scan(folder, bands=config.data.bands, near_duplicates=False).with_samples(few)
    assert other.bands != preprocessing.bands, "of two images alone"
    assert build_for(config, other).preprocessing.bands == preprocessing.bands, "a run that starts from it keeps them"
    refused = regraft("train", folder, "--from", run.path, "--bands", "all", "--out", tmp_path / "grown")
    assert refused.returncode == 2
    assert "The model takes the bands 5,1,2 of an image, and of this data the bands 1-5 are used" in refused.stderr
    wrong = regraft("train", folder, "--bands", "red")
    assert wrong.returncode == 2
    assert "data.bands = 'red': expected all, or numbers of bands from 1" in wrong.stderr


def test_a_split_without_bands_is_refused_with_what_to_do(folder: Path) -> None:
    parts = split(scan(folder, near_duplicates=False), train=0.5, val=0.25, test=0.25)
    model = build("cnn", classes=parts.classes, weights="none", image_size=32)
    with pytest.raises(UsageError, match=r"takes gray or colors.*bands=split\.dataset\.bands"):
        train(model, parts)
    with pytest.raises(UsageError, match="takes gray or colors"):
        evaluate(model, parts)
    fits = build("cnn", classes=parts.classes, weights="none", image_size=32, bands=parts.dataset.bands)
    with pytest.raises(UsageError, match=r"policy = trivialaugment changes red, green and blue.*5 channels"):
        train(fits, parts, augmentation=Augmentation(policy="trivialaugment"))


def test_mixed_data_is_a_finding_and_an_error(folder: Path, tmp_path: Path) -> None:
    for label in ("dry", "wet"):
        shutil.copytree(folder / label, tmp_path / "mixed" / label)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "mixed" / "dry" / "colors.png")
    with pytest.raises(DataError, match=r"32 with 5 bands, such as .*npy; 1 with 3 bands of gray or colors, such as"):
        scan(tmp_path / "mixed")
    inspection = inspect(tmp_path / "mixed", labels=False)
    assert any("differ in their bands" in finding.title + finding.advice for finding in inspection.findings)
    assert inspect(folder).findings == ()


def test_arrays_in_memory() -> None:
    rng = np.random.default_rng(0)
    images, labels = [field(i % 2, rng) for i in range(24)], ["dry", "wet"] * 12
    dataset = Dataset.from_arrays(np.stack(images), labels)
    assert dataset.band_numbers == (1, 2, 3, 4, 5)
    assert dataset.channels == 5
    chosen = Dataset.from_arrays(images, labels, bands="5,1")
    assert chosen.bands is not None
    assert chosen.bands.ranges[0] == pytest.approx((200, 3000), abs=3)
    assert Dataset.from_arrays([image[..., :3].astype(np.uint8) for image in images], labels).channels == 3
    with pytest.raises(DataError, match=r"differ in their bands: .*such as images\[0\]"):
        Dataset.from_arrays([images[0], images[1][..., :2]], labels[:2])
    assert inspect(chosen, labels=False).dataset is chosen
