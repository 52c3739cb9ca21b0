"""A CPU runs few images at once, because their activations fill the memory, with the same bits as all together."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from regraft.attribution.cam import explain_pixels
from regraft.models import passes
from regraft.models.answering import AnsweringNetwork
from regraft.models.classifier import Classifier
from regraft.models.inference import predict_batch
from regraft.models.passes import images_per_pass, is_same_on_one_thread, run_passes, split_into_passes
from regraft.models.staged import StageOutput
from regraft.training.activations import Activations, CachedTensor
from regraft.training.feature_cache import predict_logits
from regraft.training.prefix_backend import TorchBackend

Maker = Callable[..., Classifier]
CPU = torch.device("cpu")


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of the fewest images, as for large ones."""
    monkeypatch.setattr(passes, "_BYTES", 1)


@pytest.fixture
def sizes(few: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each run through a stage."""
    seen, run = list[int](), Classifier.run_stages

    def counted(self: Classifier, inputs: StageOutput, first: int, last: int) -> StageOutput:
        seen.append(len(inputs.values))
        return run(self, inputs, first, last)

    monkeypatch.setattr(Classifier, "run_stages", counted)
    return seen


def test_larger_images_are_fewer_at_once() -> None:
    assert images_per_pass(3 * 224 * 224) == 8
    counts = [images_per_pass(3 * side**2) for side in (1, 32, 64, 160, 224, 384, 1024, 4096)]
    assert counts == sorted(counts, reverse=True)
    assert min(counts) == 4


def test_half_the_precision_is_twice_the_images() -> None:
    assert images_per_pass(3 * 224 * 224, torch.bfloat16) == 16
    images = torch.zeros(64, 3 * 224 * 224, dtype=torch.uint8)  # what enters is no measure of what the network has
    assert [len(part) for (part,) in split_into_passes(CPU, images, precision=torch.bfloat16)] == [16] * 4


@pytest.mark.parametrize("side", [8, 160, 224, 500])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33, 100])
def test_passes_are_all_images_in_order(count: int, side: int) -> None:
    numbers, taps = torch.arange(count), torch.arange(2 * count).view(count, 2)
    images = numbers[:, None].expand(count, 3 * side * side)
    parts, parts_of_taps = zip(*split_into_passes(CPU, images, taps), strict=True)
    assert torch.equal(torch.cat([part[:, 0] for part in parts]), numbers)
    assert torch.equal(torch.cat(parts_of_taps), taps)
    assert list(map(len, parts)) == list(map(len, parts_of_taps))
    assert max(map(len, parts)) <= images_per_pass(3 * side * side)
    assert count < 2 or min(map(len, parts)) > 1  # an image by itself runs other kernels


def test_a_gpu_runs_all_at_once(few: None) -> None:
    images = torch.zeros(100, 2)
    ((one,),) = split_into_passes(torch.device("cuda"), images)
    assert torch.equal(one, images)


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of eight images, on two threads of four each."""
    monkeypatch.setattr(passes, "images_per_pass", lambda values, precision: 8)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [8, 9, 10, 15, 16, 17, 33, 100])
@pytest.mark.parametrize("cpus", [2, 3, 5])
def test_passes_side_by_side_are_all_images_in_order(count: int, cpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "images_per_pass", lambda values, precision: 4 * cpus)
    images = torch.arange(count)[:, None]
    parts = [part for (part,) in split_into_passes(CPU, images, side_by_side=cpus)]
    assert torch.equal(torch.cat(parts), images)
    assert len(parts) % cpus == 0
    assert count < 4 * cpus or min(map(len, parts)) > 1
    assert max(map(len, parts)) <= 4


def test_passes_run_side_by_side_on_one_thread_each(two_threads: None, eight: None) -> None:
    together, seen = threading.Barrier(2, timeout=60), list[tuple[str, int]]()

    def run(part: torch.Tensor) -> torch.Tensor:
        together.wait()  # fails unless two passes run at once
        seen.append((threading.current_thread().name, torch.get_num_threads()))
        return part + 1

    images = torch.arange(16)[:, None]
    assert torch.equal(torch.cat(run_passes(run, CPU, images, on_one_thread=True)), images + 1)
    assert {name.rpartition("_")[0] for name, _ in seen} == {"regraft-pass"}
    assert {threads for _, threads in seen} == {1}
    later = list[int]()
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert (torch.get_num_threads(), later) == (2, [2])


@pytest.mark.parametrize(("count", "wanted", "at_once"), [(7, True, 8), (16, False, 8), (16, True, 7)])
def test_few_images_share_the_threads(
    count: int, wanted: bool, at_once: int, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "images_per_pass", lambda values, precision: at_once)
    names = run_passes(lambda _: threading.current_thread().name, CPU, torch.zeros(count, 1), on_one_thread=wanted)
    assert set(names) == {threading.current_thread().name}


def test_an_error_of_a_pass_is_raised(two_threads: None, eight: None) -> None:
    def run(part: torch.Tensor) -> None:
        raise ValueError(f"{len(part)} images")

    with pytest.raises(ValueError, match="4 images"):
        run_passes(run, CPU, torch.zeros(16, 1), on_one_thread=True)
    began = list[int]()

    def first_fails(part: torch.Tensor) -> None:
        began.append(int(part[0]))
        if part[0] == 0:
            raise ValueError("first")
        time.sleep(0.05)

    with pytest.raises(ValueError, match="first"):
        run_passes(first_fails, CPU, torch.arange(4000)[:, None], on_one_thread=True)
    count = len(began)
    assert count < 1000  # the others were cancelled
    time.sleep(0.2)
    assert len(began) == count


def test_passes_share_threads_where_no_others_can_start(
    two_threads: None, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started = threading.Thread.start, list[threading.Thread]()

    def limited(thread: threading.Thread) -> None:
        if len(started) == 1:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    passes._workers.cache_clear()
    monkeypatch.setattr(threading.Thread, "start", limited)
    here = threading.current_thread().name
    names = run_passes(lambda _: threading.current_thread().name, CPU, torch.zeros(16, 1), on_one_thread=True)
    assert set(names) == {here}
    assert not is_same_on_one_thread(lambda: [torch.ones(3)])
    started[0].join(60)
    assert not started[0].is_alive()
    assert torch.get_num_threads() == 2
    monkeypatch.undo()
    names = run_passes(lambda _: threading.current_thread().name, CPU, torch.zeros(16, 1), on_one_thread=True)
    assert here not in names


def test_other_bits_on_one_thread_are_seen(two_threads: None) -> None:
    assert is_same_on_one_thread(lambda: [torch.ones(3)])
    assert not is_same_on_one_thread(lambda: [torch.tensor(float(torch.get_num_threads()))])
    torch.set_num_threads(1)
    assert not is_same_on_one_thread(lambda: [torch.ones(3)])  # nothing would run side by side


def test_answers_come_from_few_images_at_once(with_statistics: Maker, pixels: torch.Tensor, sizes: list[int]) -> None:
    model = with_statistics("resnet18", 32)
    answers, _ = predict_batch(model, pixels)
    assert max(sizes) <= 4
    pairs = [predict_batch(model, pixels[i : i + 2])[0] for i in range(0, 8, 2)]
    assert np.array_equal(answers[:8], np.concatenate(pairs))
    with torch.inference_mode():
        assert AnsweringNetwork.of(model).features(pixels[:0]).shape == (0, model.features)


def test_answers_have_the_same_bits_side_by_side(
    with_statistics: Maker, eight: None, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, run = set[str](), Classifier.run_stages

    def named(self: Classifier, inputs: StageOutput, first: int, last: int) -> StageOutput:
        names.add(threading.current_thread().name.rpartition("_")[0])
        return run(self, inputs, first, last)

    model = with_statistics("mobilenet_v2", 32)
    pixels = torch.randint(0, 256, (19, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    network = dataclasses.replace(AnsweringNetwork.of(model), on_one_thread=True)
    alone = torch.cat([network.features(image[None]) for image in pixels])
    monkeypatch.setattr(Classifier, "run_stages", named)
    together = network.features(pixels)
    assert names == {"regraft-pass"}
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert torch.equal(together, alone) or not AnsweringNetwork.of(model).on_one_thread


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_prefix_runs_few_images_at_once(
    with_statistics: Maker, pixels: torch.Tensor, sizes: list[int], precision: torch.dtype
) -> None:
    backend = TorchBackend(with_statistics("mobilenet_v2", 32), 6, precision)
    outputs = backend(pixels)
    assert max(sizes) <= 4
    assert [len(part) for part in outputs] == [len(pixels)] * len(outputs)
    others = [backend(pixels[i : i + 3]) for i in range(0, len(pixels), 3)]
    assert all(map(torch.equal, outputs, map(torch.cat, zip(*others, strict=True))))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_prefix_has_the_same_bits_side_by_side(
    with_statistics: Maker, eight: None, two_threads: None, precision: torch.dtype
) -> None:
    pixels = torch.randint(0, 256, (19, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model = with_statistics("mobilenet_v2", 32)
    shared, own = TorchBackend(model, 6, precision), TorchBackend(model, 6, precision)
    shared.on_one_thread = False
    assert all(map(torch.equal, own(pixels), shared(pixels)))


def test_the_tail_runs_few_images_at_once(with_statistics: Maker, pixels: torch.Tensor, sizes: list[int]) -> None:
    model = with_statistics("resnet18", 32)
    with torch.inference_mode():
        stored = Activations(4, *(CachedTensor(part[None]) for part in model.activations(pixels, 4)))
        expected = model(pixels)
    sizes.clear()
    logits = predict_logits(model, stored, torch.float32)
    assert sizes
    assert max(sizes) <= 4
    torch.testing.assert_close(logits, expected)


def test_heat_maps_come_from_few_images_at_once(with_statistics: Maker, pixels: torch.Tensor, sizes: list[int]) -> None:
    maps = explain_pixels(with_statistics("resnet18", 32), pixels, torch.zeros(9, dtype=torch.int64), method="gradcam")
    assert maps.shape == (9, 32, 32)
    assert max(sizes) <= 4
