from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regraft.data.augmentation import Augmentation
from regraft.data.dataset import Dataset
from regraft.data.pixels import load_pixels
from regraft.models.classifier import Classifier, build
from regraft.store import Store
from regraft.training.engine import Engine, OpenVinoEngine, TorchEngine
from regraft.training.loop import predict_logits
from regraft.training.prefix import Activations, Rows, as_batch, row_bytes, run_prefix
from regraft.training.progress import Silence

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> Classifier:
    return build(classes=("a", "b"), image_size=32)


@pytest.fixture
def dataset() -> Dataset:
    return Dataset.from_arrays(IMAGES, ["a", "b", "a", "b", "a"])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def run(
    model: Classifier,
    dataset: Dataset,
    store: Store,
    boundary: int,
    *,
    precision: torch.dtype = torch.float32,
    engine: Engine | None = None,
    **options: Any,
) -> Activations:
    pixels = load_pixels(dataset, model.preprocessing, store)
    engine = engine or TorchEngine(model, boundary, precision)
    return run_prefix(model, dataset, pixels, engine, store, listener=Silence(), **options)


def values(activations: Activations) -> torch.Tensor:
    """Without the taps, (K, N, ...)."""
    return torch.stack([activations.batch(view, slice(None)).values for view in range(activations.views)])


@pytest.mark.parametrize("boundary", [0, 1, 9, 19])
def test_activations_are_the_prefixs(model: Classifier, dataset: Dataset, store: Store, boundary: int) -> None:
    cached = run(model, dataset, store, boundary, batch_size=2)
    assert (cached.views, len(cached)) == (1, 5)
    with torch.inference_mode():
        for ours, expected in zip(
            cached.batch(0, slice(None)), model.activations(as_batch(IMAGES), boundary), strict=True
        ):
            torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            predict_logits(model, cached, torch.float32), model(as_batch(IMAGES)), rtol=1e-3, atol=1e-3
        )


def test_view_zero_is_plain_and_the_others_differ(model: Classifier, dataset: Dataset, tmp_path: Path) -> None:
    both = [
        values(run(model, dataset, Store(tmp_path / str(i)), 9, views=3, augmentation=Augmentation(), seed=seed))
        for i, seed in enumerate((0, 0, 1))
    ]
    plain = run(model, dataset, Store(tmp_path / "plain"), 9)
    assert torch.equal(both[0][0], values(plain)[0])
    assert not torch.equal(both[0][1], both[0][0])
    assert not torch.equal(both[0][1], both[0][2])
    assert torch.equal(both[0], both[1])
    assert not torch.equal(both[0][1], both[2][1])


def test_drawn_views_depend_on_the_key_alone(model: Classifier, dataset: Dataset, store: Store) -> None:
    cached = run(model, dataset, store, 9, views=4, augmentation=Augmentation())
    indices = np.array([3, 1, 4])
    assert torch.equal(cached.drawn(indices, 7).values, cached.drawn(indices, 7).values)
    seen = {tuple(cached.drawn(indices, key).values[0].flatten()[:50].tolist()) for key in range(40)}
    assert len(seen) == 4
    in_memory = Activations(9, Rows(values(cached)))
    assert torch.equal(cached.drawn(indices, 7).values, in_memory.drawn(indices, 7).values)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
def test_what_is_stored_is_not_computed_again(
    model: Classifier, dataset: Dataset, store: Store, monkeypatch: pytest.MonkeyPatch, precision: torch.dtype
) -> None:
    options: dict[str, Any] = {"views": 2, "augmentation": Augmentation(), "precision": precision}
    first = run(model, dataset, store, 9, **options)
    assert first.batch(0, slice(1)).values.dtype == precision
    passed: list[int] = []
    whole = TorchEngine.__call__

    def counted(engine: TorchEngine, batch: torch.Tensor) -> list[torch.Tensor]:
        passed.append(len(batch))
        return whole(engine, batch)

    monkeypatch.setattr(TorchEngine, "__call__", counted)
    again = run(model, dataset, store, 9, **options)
    assert passed == []
    assert torch.equal(values(first), values(again))
    # Another order, another seed, another boundary: only what is new is computed.
    turned = dataset.with_samples(dataset.samples[::-1])
    assert torch.equal(values(run(model, turned, store, 9, **options)), values(first).flip(1))
    assert passed == []
    run(model, dataset, store, 9, **{**options, "seed": 1})
    run(model, dataset, store, 5, precision=precision)
    assert passed == [5, 5]


@pytest.mark.parametrize("kind", [TorchEngine, OpenVinoEngine])
def test_a_row_does_not_depend_on_its_batch(
    model: Classifier, dataset: Dataset, tmp_path: Path, kind: type[TorchEngine]
) -> None:
    for boundary in (9, 19):
        engine = kind(model, boundary, torch.float32)
        options: dict[str, Any] = {"views": 3, "augmentation": Augmentation(), "engine": engine}
        whole = run(model, dataset, Store(tmp_path / "whole"), boundary, **options)
        apart = Store(tmp_path / "apart")
        for sample in dataset.samples:
            run(model, dataset.with_samples([sample]), apart, boundary, **options)
        assert torch.equal(values(whole), values(run(model, dataset, apart, boundary, **options)))


def test_other_weights_are_another_table(dataset: Dataset, store: Store) -> None:
    model = build(classes=("a", "b"), image_size=32)
    before = run(model, dataset, store, 9)
    old = values(before)
    with torch.no_grad():
        next(model.stages[3].parameters()).mul_(1.5)
    after = run(model, dataset, store, 9)
    assert not torch.equal(values(after), old)
    with torch.no_grad():  # above the boundary nothing matters
        next(model.stages[12].parameters()).mul_(1.5)
    assert torch.equal(values(run(model, dataset, store, 9)), values(after))


def test_a_damaged_row_is_computed_again(model: Classifier, dataset: Dataset, tmp_path: Path) -> None:
    first = run(model, dataset, Store(tmp_path), 9)
    (folder,) = tmp_path.glob("activations-*")
    data = bytearray((folder / "rows.bin").read_bytes())
    data[row_bytes(model, 9, torch.float32) + 3] ^= 1
    (folder / "rows.bin").write_bytes(bytes(data))
    expected = values(first).clone()
    again = run(model, dataset, Store(tmp_path), 9)
    assert torch.equal(values(again)[:, [0, 2, 3, 4]], expected[:, [0, 2, 3, 4]])
    with torch.inference_mode():
        expected = model.activations(as_batch(IMAGES), 9).values
        torch.testing.assert_close(values(again)[0], expected, rtol=1e-3, atol=1e-4)


def test_resizing_is_part_of_the_key(dataset: Dataset, store: Store) -> None:
    names = set()
    for resize in ("stretch", "crop"):
        model = build(classes=("a", "b"), image_size=32, resize=resize)
        run(model, replace(dataset), store, 9)
        names |= {entry.folder.name for entry in store.entries() if entry.kind == "activations"}
    assert len(names) == 2


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
def test_loaded_rows_are_the_same(
    model: Classifier, dataset: Dataset, store: Store, monkeypatch: pytest.MonkeyPatch, precision: torch.dtype
) -> None:
    cached = run(model, dataset, store, 12, views=2, augmentation=Augmentation(), precision=precision)
    assert cached.taps is not None
    assert cached.rows.nbytes == 2 * 5 * int(np.prod(model.stages[11].shape)) * precision.itemsize
    cpu = torch.device("cpu")
    assert cached.loaded(cpu) is cached, "there is nothing to be moved to the CPU"
    monkeypatch.setattr("regraft.training.prefix.has_room", lambda *_: True)
    held = cached.loaded(cpu)
    assert held.rows.nbytes == cached.rows.nbytes
    assert isinstance(held.rows.values, torch.Tensor)
    for chosen in (slice(1, 4), np.array([4, 0])):
        for ours, theirs in zip(held.batch(1, chosen), cached.batch(1, chosen), strict=True):
            assert torch.equal(ours, theirs)
            assert ours.stride() == theirs.stride()
