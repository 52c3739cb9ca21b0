"""A training does not fail with a tracker."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import regraft
from regraft.config import load_config
from regraft.data.dataset import Split
from regraft.errors import MissingExtraError, UnknownNameError, UsageError
from regraft.runs.train import train_from
from regraft.tracking import callback
from regraft.tracking.callback import tracking
from regraft.tracking.tracker import Status, make_tracker
from regraft.training.callbacks import Epoch


class Messages:
    """A reporter that stores messages and epochs."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.epochs: list[int] = []

    def on_progress(self, name: str, done: int, total: int, detail: str = "") -> None:
        pass

    def on_epoch_end(self, row: Epoch) -> None:
        self.epochs.append(row.epoch)

    def on_message(self, text: str) -> None:
        self.messages.append(text)


class Fake:
    """A tracker that stores its calls, and calls `act` before each method in `when`."""

    title = "Fake"

    def __init__(self, act: Callable[[], Any] = lambda: None, *when: str) -> None:
        self.act, self.when = act, when
        self.calls: list[Any] = []

    def _record(self, name: str, *values: Any) -> None:
        if name in self.when:
            self.act()
        self.calls.append((name, *values))

    def start(self, settings: Mapping[str, Any], folder: Path, known: dict[str, Any]) -> str:
        self._record("start", dict(known))
        known["id"] = 7
        return "here"

    def epoch(self, phase: str, epoch: int, scalars: Mapping[str, float]) -> None:
        self._record("epoch", epoch)

    def finish(self, status: Status, scalars: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        self._record("finish", status)


def row(epoch: int) -> Epoch:
    return Epoch("finetune", epoch, 1.0, 0.5, None, None, None, 1e-3, 1.0, 10.0)


def run(fake: Fake, folder: Path, monkeypatch: pytest.MonkeyPatch, *, epochs: int = 3) -> Messages:
    monkeypatch.setattr(callback, "make_tracker", lambda name: fake)
    reporter = Messages()
    with tracking(["fake"], {"model": {"backbone": "x"}}, folder, reporter) as tracked:
        for epoch in range(1, epochs + 1):
            tracked.on_epoch_end(row(epoch))
        tracked.finish("finished")
    assert reporter.epochs == list(range(1, epochs + 1))
    return reporter


def broken() -> None:
    raise ConnectionError("no\nroute")


def test_each_row_is_sent_once_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    assert run(fake, tmp_path, monkeypatch).messages == ["Fake: here"]
    epochs = [("epoch", 1), ("epoch", 2), ("epoch", 3)]
    assert fake.calls == [("start", {}), *epochs, ("finish", "finished")]
    resumed = Fake()
    run(resumed, tmp_path, monkeypatch, epochs=4)
    assert resumed.calls == [("start", {"id": 7}), ("epoch", 4), ("finish", "finished")]


@pytest.mark.parametrize("when", [("start",), ("epoch",), ("finish",), ("start", "epoch", "finish")])
def test_a_failure_is_reported_once_and_training_continues(
    when: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = run(Fake(broken, *when), tmp_path, monkeypatch).messages
    assert [message for message in messages if "fail" in message] == ["Fake failed; training continues: no route"]


@pytest.mark.parametrize("method", ["start", "epoch"])
def test_a_recovered_tracker_gets_every_row(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([1, 1])

    def at_first() -> None:
        if next(failures, None):
            raise OSError

    fake = Fake(at_first, method)
    run(fake, tmp_path, monkeypatch)
    assert [call for call in fake.calls if call[0] != "start"] == [
        ("epoch", 1), ("epoch", 2), ("epoch", 3), ("finish", "finished"),
    ]  # fmt: skip


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "interrupted"), (ValueError, "failed")])
def test_the_tracker_is_closed_with_the_status(
    error: type[BaseException], status: Status, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake()
    monkeypatch.setattr(callback, "make_tracker", lambda name: fake)

    def fail() -> None:
        with tracking(["fake"], {}, tmp_path, Messages()):
            raise error

    with pytest.raises(error):
        fail()
    assert fake.calls[-1] == ("finish", status)


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tracking").write_text("in the way")
    messages = run(Fake(), tmp_path, monkeypatch).messages
    assert len([message for message in messages if "failed; training continues" in message]) == 1


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_reported_before_any_work(
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


def test_wandb_needs_a_login_before_any_work(
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
