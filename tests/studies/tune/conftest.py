"""A small search that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import regraft
from regraft.config import Config, load_config
from regraft.data.dataset import Dataset, Sample
from regraft.studies.tune.search import Search

SETTINGS = [
    "model.image_size=32",
    "data.val=0.25",
    "data.test=0.2",
    "training.views=1",
    "training.finetune_epochs=4",
    "training.finetune_from=last",
    "training.prefix_backend=torch",
    "training.precision=off",
]


@pytest.fixture(scope="session")
def settings() -> list[str]:
    """Settings that are fixed in the search."""
    return SETTINGS


@pytest.fixture(scope="session")
def fixed() -> list[str]:
    """Names of these settings."""
    return [setting.partition("=")[0] for setting in SETTINGS]


@pytest.fixture(scope="session")
def base() -> Config:
    """The base configuration of the search."""
    return load_config(None, [*SETTINGS, "training.head_epochs=3"])


@contextmanager
def one_thread() -> Iterator[None]:
    """The images are so small that threads only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="session")
def tuned(
    squares_folder: Path, base: Config, fixed: list[str], tmp_path_factory: pytest.TempPathFactory
) -> regraft.TuneResult:
    """A whole search; reading a test image before the winner is evaluated fails."""
    is_over = False
    source, train_winner = Dataset.source, Search._train_winner

    def guarded_source(self: Dataset, sample: Sample) -> Any:
        assert sample.part != "test" or is_over, f"{sample.path} is a test image"
        return source(self, sample)

    def last_step(self: Any, best: Any) -> Any:
        nonlocal is_over
        is_over = True
        return train_winner(self, best)

    out = tmp_path_factory.mktemp("tune") / "search"
    with pytest.MonkeyPatch.context() as patch, one_thread():
        patch.setattr(Dataset, "source", guarded_source)
        patch.setattr(Search, "_train_winner", last_step)
        return regraft.tune(squares_folder, trials=4, finalists=1, config=base, fixed=fixed, out=out)
