"""Options that several verbs share."""

from __future__ import annotations

import pytest
import typer
from terminal import regraft
from typer.main import get_command

from regraft import cli
from regraft.cli.options import RENAMED_FLAGS, TRAINING_FLAGS, Command, hide_types_of_flags
from regraft.config import load_config


def test_flags_of_the_version_before_name_the_new_ones() -> None:
    for verb, old in (("train", "--on-bad"), ("predict", "--sure"), ("predict", "--cover"), ("serve", "--unknown")):
        for words in ((old, "0.9"), (f"{old}=0.9",)):
            done = regraft(verb, "x", *words)
            assert done.returncode == 2
            assert f"{old} is now called {RENAMED_FLAGS[old]}." in done.stderr
    assert "is now called" not in regraft("train", "--", "--on-bad").stderr


def test_new_names_are_flags_of_a_verb() -> None:
    verbs = get_command(cli.app).commands.values()  # type: ignore[attr-defined]  # a group
    flags = {flag for verb in verbs for parameter in verb.params for flag in parameter.opts}
    assert set(RENAMED_FLAGS.values()) <= flags
    assert not set(RENAMED_FLAGS) & flags


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "x", "--learning-rate", "1"), "--learning-rate; did you mean --lr or --head-lr?"),
        (("compare", "x", "--bs", "8"), "--bs; did you mean --batch-size?"),
        (("predict", "x", "y", "--bs=8"), "--bs; did you mean --batch-size?"),
        (("train", "x", "--imgsz", "64"), "--imgsz; did you mean --image-size?"),
        (("train", "x", "--wd", "0"), "--wd; did you mean --set training.weight_decay=...?"),
        (("train", "x", "--head-epoch", "3"), "--head-epoch; did you mean --head-epochs?"),
        (("crossval", "x", "--dropout", "0.2"), "--dropout; `regraft crossval --help` lists them."),
        (("crossval", "x", "--finetune-epochs", "0"), "--finetune-epochs; `regraft crossval --help` lists them."),
        (("report", "x", "--zzz"), "--zzz; `regraft report --help` lists them."),
    ],
)
def test_unknown_flags_get_those_that_mean_the_same(words: tuple[str, ...], message: str) -> None:
    done = regraft(*words)
    assert done.returncode == 2
    assert f"No such option: {message}" in done.stderr


@pytest.mark.parametrize("name", ["train", "compare", "tune"])
def test_flags_of_the_training_reach_the_settings(name: str) -> None:
    verb = get_command(cli.app).commands[name]  # type: ignore[attr-defined]  # a group
    words = {
        "--epochs": "3", "--head-epochs": "4", "--batch-size": "5", "--lr": "0.1", "--head-lr": "0.2",
        "--optimizer": "SGD", "--dropout": "0.5", "--label-smoothing": "0.2", "--patience": "6",
        "--class-weights": "0=1,1=3",
    }  # fmt: skip
    context = verb.make_context(name, [word for pair in words.items() for word in pair])
    config = load_config(None, [], {flag.setting: context.params[flag.name] for flag in TRAINING_FLAGS})
    training = config.training
    assert (training.finetune_epochs, training.head_epochs, training.batch_size) == (3, 4, 5)
    assert (training.finetune_lr, training.head_lr, training.optimizer) == (0.1, 0.2, "sgd")
    assert (config.model.dropout, training.label_smoothing, training.early_stopping) == (0.5, 0.2, 6)
    assert training.class_weights == {"0": 1, "1": 3}
    assert verb.make_context(name, ["--finetune-epochs", "2"]).params["epochs"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--head-epochs", "3"), "--head-epochs 3 has no effect: a linear head without dropout is fitted"),
        (("--finetune-from", "none", "--epochs", "3"), "--epochs 3 has no effect: nothing is fine-tuned"),
        (("--epochs", "0", "--lr", "1e-3"), "--lr 0.001 has no effect: nothing is fine-tuned"),
        (("--head-epochs", "3", "--dropout", "0.2"), "nowhere does not exist"),
        (("--head-epochs", "3", "--preset", "keras"), "nowhere does not exist"),
        (("--head-epochs", "3", "--set", "model.pooling=attention"), "nowhere does not exist"),
    ],
)
def test_flags_without_effect_are_refused(words: tuple[str, ...], message: str) -> None:
    done = regraft("train", "nowhere", *words)
    assert done.returncode == 2
    assert message in done.stderr


def test_flags_show_no_type_and_other_options_keep_theirs() -> None:
    app = typer.Typer()

    @app.command(cls=Command)
    def verb(flag: bool = False, count: int = 0) -> None: ...

    command = get_command(app)
    shown = {p.name: p.metavar for p in hide_types_of_flags(list(command.params))}
    assert shown["flag"] == ""
    assert shown["count"] != ""
