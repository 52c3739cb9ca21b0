from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import regraft
from regraft.models.torch_defaults import torch_defaults


@contextmanager
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


#: What a caller may have set around a call.
SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": double,
    "meta": lambda: torch.device("meta"),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "deterministic": deterministic,
}


def settings_of_torch() -> tuple[Any, ...]:
    return (
        torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), torch.get_num_threads(),
        torch.get_rng_state().tolist(),
    )  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_predictions_and_heat_maps_are_the_same_and_the_setting_stays(
    name: str, squares_run: regraft.Run, squares_folder: Path
) -> None:
    file = squares_folder / "red" / "01.png"

    def work() -> list[Any]:
        run = regraft.load(squares_run.path)
        prediction, explanation = run.predict(file)[0], regraft.explain(run, file)[0]
        return [prediction.probabilities.tolist(), prediction.ood_p_value, explanation.heat.sum()]

    expected = work()
    with SETTINGS[name]():
        before = settings_of_torch()
        assert work() == expected
        assert settings_of_torch() == before


def test_training_under_all_settings_at_once_gives_the_same_numbers(
    squares_split: regraft.Split, tmp_path: Path
) -> None:
    def work(out: str) -> list[Any]:
        model = regraft.build(classes=squares_split.classes, image_size=32)
        run = regraft.train(model, squares_split, out=tmp_path / out, finetune_epochs=1, views=2, batch_size=8)
        return [run.metrics["test"], [row["train_loss"] for row in run.history]]

    expected = work("plain")
    with ExitStack() as stack:
        for setting in SETTINGS.values():
            stack.enter_context(setting())
        before = settings_of_torch()
        assert work("changed") == expected
        assert settings_of_torch() == before


def test_the_default_type_is_the_caller_s_again_when_the_last_thread_leaves() -> None:
    inside, leave = threading.Event(), threading.Event()

    @torch_defaults()
    def wait() -> None:
        inside.set()
        leave.wait(10)

    with double():
        thread = threading.Thread(target=wait)
        thread.start()
        inside.wait(10)
        with torch_defaults():
            assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.float32
        leave.set()
        thread.join()
        assert torch.get_default_dtype() == torch.float64
