"""Each tracker gets what the run's own files say, and a training has the same results with and without it."""

from __future__ import annotations

import io
import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import regraft
from regraft.config import Config, load_config
from regraft.runs.resume import resume
from regraft.runs.train import train_from
from regraft.tracking.callback import tracking
from regraft.tracking.scalars import final_scalars
from regraft.tracking.wandb import WeightsAndBiases
from regraft.training.callbacks import Epoch, NullReporter

# MLflow's own mappings use a loader that SQLAlchemy will drop.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

ALL = ("tensorboard", "wandb", "mlflow")
PICTURES = {"confusion_matrix", "sample_predictions", "training_history", "reliability"}


@pytest.fixture(scope="module")
def tracked(
    squares_folder: Path, fast_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> regraft.Run:
    out = tmp_path_factory.mktemp("tracked") / "a run, ünnamed"
    return train_from(squares_folder, load_config(overrides=fast_settings | {"tracking.to": ALL}), out)


def numbers(run: regraft.Run) -> tuple[Any, ...]:
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in run.history]
    files = ("model.safetensors", "predictions.csv", "split.csv")
    return rows, *((run.path / file).read_bytes() for file in files)


def scalars_of(run: regraft.Run) -> dict[str, list[tuple[int, float]]]:
    """`phase/number` -> (epoch, value), from the history and the path of the head."""
    found: dict[str, list[tuple[int, float]]] = {}
    for step, fit in enumerate(run.head_path, start=1):
        for name, value in fit.items():
            if name != "chosen":
                found.setdefault(f"head/{name}", []).append((step, value))
    for row in run.history:
        for name, value in row.items():
            if name not in ("phase", "epoch", "kept") and value is not None:
                found.setdefault(f"{row['phase']}/{name}", []).append((row["epoch"], value))
    return found


def test_a_tracked_training_has_the_same_bits(squares_run: regraft.Run, tracked: regraft.Run) -> None:
    assert numbers(tracked) == numbers(squares_run)
    assert load_config(tracked.path / "config.toml").tracking.to == ALL
    assert not (squares_run.path / "tracking").exists()


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tracking" / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    return found.Reload()


def test_tensorboard_has_history_finals_settings_and_pictures(tracked: regraft.Run) -> None:
    found = events(tracked.path)
    expected = scalars_of(tracked)
    for name, points in expected.items():
        kept = [(event.step, event.value) for event in found.Scalars(name)]
        assert [step for step, _ in kept] == [step for step, _ in points], name
        np.testing.assert_allclose([v for _, v in kept], [v for _, v in points], rtol=1e-6)
    finals = final_scalars(tracked.metrics)
    assert {"test/accuracy_low", "test/macro_f1_high", "calibration/temperature", "test_f1/red"} <= set(finals)
    for name, value in finals.items():
        assert found.Scalars(name)[0].value == pytest.approx(value, rel=1e-6), name
    assert {tag for tag in found.Tags()["images"] if tag.startswith("plots/")} == {f"plots/{p}" for p in PICTURES}
    with (
        Image.open(tracked.path / "plots" / "confusion_matrix.png") as drawn,
        Image.open(io.BytesIO(found.Images("plots/confusion_matrix")[0].encoded_image_string)) as kept,
    ):
        np.testing.assert_array_equal(np.array(kept), np.array(drawn.convert("RGB")))
    texts = [found.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in found.Tags()["tensors"]]
    assert any("model.backbone = efficientnet_lite0" in text for text in texts)
    assert "finished" in texts
    assert "_hparams_/session_start_info" in found.summary_metadata


def wandb_records(folder: Path) -> Iterator[Any]:
    """The records of offline runs: a log of LevelDB's kind, in blocks of 32 KiB, after seven bytes."""
    from wandb.proto import wandb_internal_pb2

    for file in sorted((folder / "tracking" / "wandb").glob("offline-run-*/*.wandb"), key=lambda f: f.parent.name):
        data, at, parts = file.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            _, length, kind = struct.unpack("<IHB", data[at : at + 7])
            parts += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # whole, or the last part
                record = wandb_internal_pb2.Record()
                record.ParseFromString(parts)
                yield record
                parts = b""


def wandb_rows(folder: Path) -> list[dict[str, Any]]:
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in wandb_records(folder)
        if record.HasField("history")
    ]


def test_wandb_has_history_finals_settings_and_pictures(tracked: regraft.Run) -> None:
    rows = wandb_rows(tracked.path)
    for name, points in scalars_of(tracked).items():
        phase = name.partition("/")[0]
        assert [(row[f"{phase}/epoch"], row[name]) for row in rows if name in row] == points
    assert rows[-1][f"plots/{min(PICTURES)}/_type"] == "image-file"
    media = {file.name.rpartition("_")[0].rpartition("_")[0] for file in tracked.path.rglob("media/images/plots/*.png")}
    assert media == PICTURES
    runs = [record.run for record in wandb_records(tracked.path) if record.HasField("run")]
    assert runs[0].project == "regraft"
    assert runs[0].display_name == "a run_ ünnamed"
    assert "model.backbone" in str(runs[0].config)
    summary = {
        "/".join(item.nested_key) or item.key: json.loads(item.value_json)
        for record in wandb_records(tracked.path)
        if record.HasField("summary")
        for item in record.summary.update
    }
    assert summary["status"] == "finished"
    for name, value in final_scalars(tracked.metrics).items():
        assert summary[name] == value
    assert [r.exit.exit_code for r in wandb_records(tracked.path) if r.HasField("exit")] == [0]


@pytest.mark.parametrize("secret", [False, True])
def test_wandb_records_no_command_with_a_password(
    secret: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    word = "s3://me:hunter2@bucket/photos" if secret else "photos-hunter2"
    monkeypatch.setattr(sys, "argv", ["regraft", "train", word])
    tracker = WeightsAndBiases()
    tracker.start({"training.views": 2}, tmp_path, {})
    until = time.monotonic() + 60
    while not secret and not files_with(b"hunter2", tmp_path) and time.monotonic() < until:
        time.sleep(0.2)  # a run that ends before W&B has looked at the machine is without the command
    tracker.finish("finished", {}, {})
    assert bool(files_with(b"hunter2", tmp_path)) != secret


def files_with(text: bytes, folder: Path) -> list[Path]:
    files = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    return [file for file in files if text in file.read_bytes()]


def mlflow_run(folder: Path) -> tuple[Any, Any]:
    from mlflow import MlflowClient

    client = MlflowClient()
    return client, client.get_run(json.loads((folder / "tracking" / "mlflow.json").read_text())["known"]["id"])


def test_mlflow_has_history_finals_settings_and_pictures(tracked: regraft.Run) -> None:
    client, run = mlflow_run(tracked.path)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "a run_ ünnamed"
    for name, points in scalars_of(tracked).items():
        kept = sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, name))
        assert kept == points
    for name, value in final_scalars(tracked.metrics).items():
        assert run.data.metrics[name] == value
    assert run.data.params["model.backbone"] == "efficientnet_lite0"
    assert run.data.params["training.finetune_epochs"] == "1"
    kept = {Path(file.path).stem for file in client.list_artifacts(run.info.run_id, "plots")}
    assert kept == PICTURES


def test_a_resumed_run_sends_no_row_twice(
    squares_folder: Path, squares_run: regraft.Run, fast_settings: dict[str, Any], tmp_path: Path
) -> None:
    class CtrlC(NullReporter):
        def on_epoch_end(self, row: Epoch) -> None:
            if row.phase == "finetune":
                raise KeyboardInterrupt

    out = tmp_path / "run"
    config = load_config(overrides=fast_settings | {"tracking.to": "tensorboard"})
    stopped = train_from(squares_folder, config, out, reporter=CtrlC())
    assert stopped.metrics["training"]["stopped"] == "interrupted"
    assert b"interrupted" in b"".join(file.read_bytes() for file in out.rglob("events.*"))
    again = resume(out, track="tensorboard")
    assert numbers(again) == numbers(squares_run)
    found = events(out)
    for name, points in scalars_of(again).items():
        assert [event.step for event in found.Scalars(name)] == [step for step, _ in points], name
    assert load_config(out / "config.toml").tracking.to == ("tensorboard",)


def row(epoch: int) -> Epoch:
    return Epoch("finetune", epoch, 1.0 / epoch, 0.5, None, None, None, 1e-3, 1.0, 10.0)


def test_a_failed_run_is_closed_and_a_resumed_one_goes_on_in_the_same_place(tmp_path: Path) -> None:
    settings = Config().model_dump(mode="json")

    def fail() -> None:
        with tracking(ALL, settings, tmp_path, NullReporter()) as tracked:
            tracked.on_epoch_end(row(1))
            tracked.on_epoch_end(row(2))
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    client, run = mlflow_run(tmp_path)
    assert run.info.status == "FAILED"
    with tracking(ALL, settings, tmp_path, NullReporter()) as tracked:
        for number in (1, 2, 3):
            tracked.on_epoch_end(row(number))
        tracked.finish("finished", {"test": {"accuracy": 0.5}})
    again = mlflow_run(tmp_path)[1]
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")
    steps = [m.step for m in client.get_metric_history(run.info.run_id, "finetune/train_loss")]
    assert sorted(steps) == [1, 2, 3]
    assert [event.step for event in events(tmp_path).Scalars("finetune/train_loss")] == [1, 2, 3]
    assert [r["finetune/epoch"] for r in wandb_rows(tmp_path) if "finetune/epoch" in r] == [1, 2, 3]
    ids = {record.run.run_id for record in wandb_records(tmp_path) if record.HasField("run")}
    assert len(ids) == 1
    assert [r.exit.exit_code for r in wandb_records(tmp_path) if r.HasField("exit")] == [1, 0]
