"""A model and options with which a training takes about a second."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from regraft.data.dataset import Split
from regraft.models.classifier import Classifier, build
from regraft.training import row_sums


@pytest.fixture
def make_model(squares_split: Split, small_network: dict[str, Any]) -> Callable[..., Classifier]:
    """Build a model for the classes of the squares, always with the same initial weights.

    Unless another `backbone` is given, it is the small network, which trains as a large one, in a fraction of the time.
    """
    small = {name.removeprefix("model."): value for name, value in small_network.items()}

    def make(**options: Any) -> Classifier:
        network = {} if "backbone" in options else small
        return build(**{"classes": squares_split.classes, "image_size": 32, **network, **options})

    return make


@pytest.fixture(scope="session")
def fast() -> dict[str, Any]:
    """Options of a short fine-tuning."""
    return {"finetune_epochs": 2, "views": 2, "batch_size": 8}


@pytest.fixture
def run_ranks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Run a function as every rank of so many processes, here threads; returns what each of them returned.

    Modules beside `row_sums` also take them for processes.
    """

    def run(count: int, function: Callable[[], Any], *modules: ModuleType) -> list[Any]:
        mine, barrier = threading.local(), threading.Barrier(count)
        shared: list[torch.Tensor | None] = [None] * count
        results: list[Any] = [None] * count

        def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
            shared[mine.rank] = tensor.clone()
            barrier.wait(60)
            total = torch.zeros_like(tensor)
            for part in shared:
                assert part is not None
                total += part
            barrier.wait(60)
            return tensor.copy_(total)

        def work(rank: int) -> None:
            mine.rank = rank
            results[rank] = function()

        for module in (row_sums, *modules):
            monkeypatch.setattr(module, "rank", lambda: mine.rank)
            monkeypatch.setattr(module, "world_size", lambda: count)
            monkeypatch.setattr(module, "all_reduce_sum", all_reduce_sum)
        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    return run
