"""What a server has answered is counted, written into a log and compared with validation."""

from __future__ import annotations

import io
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from served import Server, in_thread

import regraft
from regraft.errors import DataError
from regraft.serving.answer_log import read_answers
from regraft.serving.limits import Limits
from regraft.serving.recorder import Recording


def noise(number: int) -> bytes:
    """A PNG file of noise."""
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def folders(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """The log and the samples of a server that has answered, and its metrics."""
    place = tmp_path_factory.mktemp("watched")
    recording = Recording(place / "log", place / "samples")
    export = run / "exports" / "onnx"
    with in_thread(run, f"export={export}", limits=Limits(samples=8), recording=recording) as server:
        send(server)
        metrics = server.client.get("/metrics").text
    return place / "log", place / "samples", metrics


def send(server: Server) -> None:
    for start in range(0, 24, 6):
        files = [("image", (f"secret{i}.png", noise(i), "image/png")) for i in range(start, start + 6)]
        assert server.client.post("/predict", files=files).status_code == 200
    again = {"image": ("secret0.png", noise(0), "image/png")}
    assert server.client.post("/predict", files=again).status_code == 200
    assert server.client.post("/predict?model=export", files=again).status_code == 200
    assert server.client.post("/predict", content=b"no image", headers={"Content-Type": "image/png"}).status_code == 422


def test_metrics_show_answers_beside_validation(folders: tuple[Path, Path, str]) -> None:
    metrics = folders[2]
    assert 'regraft_window_answers{model="squares"} 25.0' in metrics
    assert 'regraft_validation_confidence{model="squares"}' in metrics
    assert 'regraft_window_strange_share{model="squares"}' in metrics
    assert 'regraft_window_strange_share{model="export"}' not in metrics  # exports have no distances
    assert "regraft_answers_not_recorded_total 0.0" in metrics


def test_the_log_has_the_numbers_of_predict_and_no_names(run: Path, folders: tuple[Path, Path, str]) -> None:
    log = folders[0]
    (file,) = log.iterdir()
    assert "secret" not in file.read_text()
    opened = regraft.load(run)
    answers = read_answers(log, opened.description["sha256"]["model.safetensors"])
    assert (len(answers.times), answers.others) == (25, 1)  # the export is of the same run, and has fewer
    expected = opened.predict([noise(0)])[0]
    assert expected.confidence in answers.observations.confidence  # the same bits
    assert answers.observations.said.sum() == 25


def test_drift_is_found_in_the_log(run: Path, folders: tuple[Path, Path, str], tmp_path: Path) -> None:
    log, samples, _ = folders
    found = regraft.drift(run, log)
    assert found.changes.is_drift
    assert "Answers from " in found.notes[0]
    named = {Path(one.name) for one in found.label_next}
    assert named
    assert named <= set(samples.resolve().glob("*/*"))
    files = found.write(tmp_path)
    assert [one.name for one in files] == ["drift.json", "label_next.csv", "strangest.png"]
    with pytest.raises(DataError, match="has no answers of this run since 2100"):
        regraft.drift(run, log, since=datetime(2100, 1, 1))


def test_kept_pictures_are_those_that_were_sent(folders: tuple[Path, Path, str]) -> None:
    sent = {noise(i) for i in range(24)}
    for kind in ("strange", "random"):
        contents = {file.read_bytes() for file in (folders[1] / kind).iterdir()}
        assert len(contents) == 4
        assert contents <= sent
