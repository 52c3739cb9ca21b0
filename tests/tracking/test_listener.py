"""A training neither waits for a tracker nor fails with it."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import regraft
from regraft.config import load_config
from regraft.data.dataset import Split
from regraft.errors import MissingExtraError, UnknownNameError, UsageError
from regraft.pipeline.train import train_from
from regraft.tracking import listener
from regraft.tracking.listener import tracking
from regraft.tracking.tracker import Status, make_tracker
from regraft.training.progress import Epoch


class Notes:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.epochs: list[int] = []

    def work(self, name: str, done: int, total: int, detail: str = "") -> None:
        pass

    def epoch(self, row: Epoch) -> None:
        self.epochs.append(row.epoch)

    def note(self, text: str) -> None:
        self.notes.append(text)


class Fake:
    """A tracker that remembers, and does `wrong` before each call of a method named in `when`."""

    title = "Fake"

    def __init__(self, wrong: Callable[[], Any] = lambda: None, *when: str) -> None:
        self.wrong, self.when = wrong, when
        self.told: list[Any] = []

    def _tell(self, name: str, *values: Any) -> None:
        if name in self.when:
            self.wrong()
        self.told.append((name, *values))

    def start(self, settings: Mapping[str, Any], folder: Path, known: dict[str, Any]) -> str:
        self._tell("start", dict(known))
        known["id"] = 7
        return "here"

    def epoch(self, phase: str, epoch: int, scalars: Mapping[str, float]) -> None:
        self._tell("epoch", epoch)

    def finish(self, status: Status, scalars: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        self._tell("finish", status)


def row(epoch: int) -> Epoch:
    return Epoch("finetune", epoch, 1.0, 0.5, None, None, None, 1e-3, None, 1.0, 10.0)


def run(fake: Fake, folder: Path, monkeypatch: pytest.MonkeyPatch, *, epochs: int = 3) -> Notes:
    monkeypatch.setattr(listener, "make_tracker", lambda name: fake)
    notes = Notes()
    with tracking(["fake"], {"model": {"backbone": "x"}}, folder, notes) as told:
        for epoch in range(1, epochs + 1):
            told.epoch(row(epoch))
        told.finish("finished")
    assert notes.epochs == list(range(1, epochs + 1))
    return notes


def broken() -> None:
    raise ConnectionError("no\nroute")


def test_all_is_told_in_order_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    assert run(fake, tmp_path, monkeypatch).notes == ["Fake: here"]
    epochs = [("epoch", 1), ("epoch", 2), ("epoch", 3)]
    assert fake.told == [("start", {}), *epochs, ("finish", "finished")]
    resumed = Fake()
    run(resumed, tmp_path, monkeypatch, epochs=4)
    assert resumed.told == [("start", {"id": 7}), ("epoch", 4), ("finish", "finished")]


@pytest.mark.parametrize("when", [("start",), ("epoch",), ("finish",), ("start", "epoch", "finish")])
def test_what_fails_is_named_once_and_the_training_goes_on(
    when: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = run(Fake(broken, *when), tmp_path, monkeypatch).notes
    assert [note for note in notes if "fail" in note] == ["Fake fails, the training goes on: no route"]


@pytest.mark.parametrize("method", ["start", "epoch"])
def test_what_works_again_gets_everything(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([1, 1])

    def at_first() -> None:
        if next(failures, None):
            raise OSError

    fake = Fake(at_first, method)
    run(fake, tmp_path, monkeypatch)
    assert [told for told in fake.told if told[0] != "start"] == [
        ("epoch", 1), ("epoch", 2), ("epoch", 3), ("finish", "finished"),
    ]  # fmt: skip


def test_nobody_waits_for_one_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_PATIENCE", 0.2)
    released = threading.Event()
    notes = run(Fake(released.wait, "epoch"), tmp_path, monkeypatch).notes
    assert notes[-1] == "Fake does not answer; the run is complete without it."
    released.set()


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "interrupted"), (ValueError, "failed")])
def test_it_is_closed_with_how_it_ended(
    error: type[BaseException], status: Status, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake()
    monkeypatch.setattr(listener, "make_tracker", lambda name: fake)

    def fail() -> None:
        with tracking(["fake"], {}, tmp_path, Notes()):
            raise error

    with pytest.raises(error):
        fail()
    assert fake.told[-1] == ("finish", status)


def test_a_disk_that_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tracking").write_text("in the way")
    notes = run(Fake(), tmp_path, monkeypatch).notes
    assert len([note for note in notes if "fails, the training goes on" in note]) == 1


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_said_before_any_work(
    name: str, squares_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None if package == name else real(package))
    expected = rf"pip install 'regraft\[{name}\]'"
    with pytest.raises(MissingExtraError, match=expected):
        train_from(tmp_path / "no data", load_config(None, [f"tracking.to={name}"]), tmp_path / "run")
    model = regraft.build(classes=squares_split.classes, image_size=32)
    with pytest.raises(MissingExtraError, match=expected):
        regraft.train(model, squares_split, out=tmp_path / "run", track=name)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_the_same_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    (tmp_path / "empty_one").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: real("empty_one" if name == "wandb" else name))
    with pytest.raises(MissingExtraError):
        make_tracker("wandb")


def test_wandb_asks_for_a_login_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "online")
    wandb.teardown()  # it remembers the settings of the first call in a process
    request.addfinalizer(wandb.teardown)
    with pytest.raises(UsageError, match="wandb login"):
        make_tracker("wandb")
    host = urlsplit(wandb.setup().settings.base_url).hostname
    (tmp_path / "netrc").write_text(f"machine {host}\n  login user\n  password {40 * '0'}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert make_tracker("wandb").title == "Weights & Biases"


def test_an_unknown_tracker_is_named(squares_split: Split, tmp_path: Path) -> None:
    model = regraft.build(classes=squares_split.classes, image_size=32)
    with pytest.raises(UnknownNameError, match="Did you mean wandb"):
        regraft.train(model, squares_split, out=tmp_path / "run", track="wanb")
