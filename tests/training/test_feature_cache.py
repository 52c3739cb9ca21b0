from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regraft import distributed
from regraft.cache import Cache
from regraft.data.augmentation_options import Augmentation
from regraft.data.dataset import Dataset
from regraft.data.pixel_cache import load_pixels
from regraft.models.classifier import Classifier, build
from regraft.models.taps import HeadStages
from regraft.training import feature_cache, row_sums
from regraft.training.activations import Activations, CachedTensor
from regraft.training.callbacks import NullReporter
from regraft.training.feature_cache import (
    as_batch,
    continue_cached,
    extract_features,
    predict_logits,
    row_bytes,
    run_prefix,
)
from regraft.training.prefix_backend import OpenVinoBackend, PrefixBackend, TorchBackend

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> Classifier:
    return build(classes=("a", "b"), image_size=32)


@pytest.fixture
def dataset() -> Dataset:
    return Dataset.from_arrays(IMAGES, ["a", "b", "a", "b", "a"])


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "store")


def run(
    model: Classifier,
    dataset: Dataset,
    cache: Cache,
    boundary: int,
    *,
    precision: torch.dtype = torch.float32,
    backend: PrefixBackend | None = None,
    **options: Any,
) -> Activations:
    pixels = load_pixels(dataset, model.preprocessing, cache)
    backend = backend or TorchBackend(model, boundary, precision)
    return run_prefix(model, dataset, pixels, backend, cache, reporter=NullReporter(), **options)


def values(activations: Activations) -> torch.Tensor:
    """Without the taps, (K, N, ...)."""
    return torch.stack([activations.batch(view, slice(None)).values for view in range(activations.views)])


@pytest.mark.parametrize("boundary", [0, 1, 9, 19])
def test_activations_are_the_prefixs(model: Classifier, dataset: Dataset, cache: Cache, boundary: int) -> None:
    cached = run(model, dataset, cache, boundary, batch_size=2)
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
        values(run(model, dataset, Cache(tmp_path / str(i)), 9, views=3, augmentation=Augmentation(), seed=seed))
        for i, seed in enumerate((0, 0, 1))
    ]
    plain = run(model, dataset, Cache(tmp_path / "plain"), 9)
    assert torch.equal(both[0][0], values(plain)[0])
    assert not torch.equal(both[0][1], both[0][0])
    assert not torch.equal(both[0][1], both[0][2])
    assert torch.equal(both[0], both[1])
    assert not torch.equal(both[0][1], both[2][1])


def test_drawn_views_depend_on_the_key_alone(model: Classifier, dataset: Dataset, cache: Cache) -> None:
    cached = run(model, dataset, cache, 9, views=4, augmentation=Augmentation())
    indices = np.array([3, 1, 4])
    assert torch.equal(cached.sample(indices, 7).values, cached.sample(indices, 7).values)
    seen = {tuple(cached.sample(indices, key).values[0].flatten()[:50].tolist()) for key in range(40)}
    assert len(seen) == 4
    in_memory = Activations(9, CachedTensor(values(cached)))
    assert torch.equal(cached.sample(indices, 7).values, in_memory.sample(indices, 7).values)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
def test_what_is_stored_is_not_computed_again(
    model: Classifier, dataset: Dataset, cache: Cache, monkeypatch: pytest.MonkeyPatch, precision: torch.dtype
) -> None:
    options: dict[str, Any] = {"views": 2, "augmentation": Augmentation(), "precision": precision}
    first = run(model, dataset, cache, 9, **options)
    assert first.batch(0, slice(1)).values.dtype == precision
    passed: list[int] = []
    call = TorchBackend.__call__

    def counting(backend: TorchBackend, batch: torch.Tensor) -> list[torch.Tensor]:
        passed.append(len(batch))
        return call(backend, batch)

    monkeypatch.setattr(TorchBackend, "__call__", counting)
    again = run(model, dataset, cache, 9, **options)
    assert passed == []
    assert torch.equal(values(first), values(again))
    # Another order, another seed, another boundary: only what is new is computed.
    turned = dataset.with_samples(dataset.samples[::-1])
    assert torch.equal(values(run(model, turned, cache, 9, **options)), values(first).flip(1))
    run(model, dataset, cache, 9, **{**options, "augmentation": Augmentation(mixup=0.2, cutmix=1.0)})
    assert passed == []
    run(model, dataset, cache, 9, **{**options, "seed": 1})
    run(model, dataset, cache, 5, precision=precision)
    assert passed == [5, 5]


@pytest.mark.parametrize("kind", [TorchBackend, OpenVinoBackend])
def test_a_row_does_not_depend_on_its_batch(
    model: Classifier, dataset: Dataset, tmp_path: Path, kind: type[TorchBackend]
) -> None:
    for boundary in (9, 19) if kind is TorchBackend else (19,):
        backend = kind(model, boundary, torch.float32)
        options: dict[str, Any] = {"views": 3, "augmentation": Augmentation(), "backend": backend}
        whole = run(model, dataset, Cache(tmp_path / "whole"), boundary, **options)
        one_by_one = Cache(tmp_path / "one by one")
        for sample in dataset.samples:
            run(model, dataset.with_samples([sample]), one_by_one, boundary, **options)
        assert torch.equal(values(whole), values(run(model, dataset, one_by_one, boundary, **options)))


def test_other_weights_are_another_table(dataset: Dataset, cache: Cache) -> None:
    model = build(classes=("a", "b"), image_size=32)
    before = run(model, dataset, cache, 9)
    old = values(before)
    with torch.no_grad():
        next(model.stages[3].parameters()).mul_(1.5)
    after = run(model, dataset, cache, 9)
    assert not torch.equal(values(after), old)
    with torch.no_grad():  # above the boundary nothing matters
        next(model.stages[12].parameters()).mul_(1.5)
    assert torch.equal(values(run(model, dataset, cache, 9)), values(after))


def test_a_damaged_row_is_computed_again(model: Classifier, dataset: Dataset, tmp_path: Path) -> None:
    first = run(model, dataset, Cache(tmp_path), 9)
    (folder,) = tmp_path.glob("activations-*")
    data = bytearray((folder / "rows.bin").read_bytes())
    data[row_bytes(model, 9, torch.float32) + 3] ^= 1
    (folder / "rows.bin").write_bytes(bytes(data))
    expected = values(first).clone()
    again = run(model, dataset, Cache(tmp_path), 9)
    assert torch.equal(values(again)[:, [0, 2, 3, 4]], expected[:, [0, 2, 3, 4]])
    with torch.inference_mode():
        expected = model.activations(as_batch(IMAGES), 9).values
        torch.testing.assert_close(values(again)[0], expected, rtol=1e-3, atol=1e-4)


def test_resizing_is_part_of_the_key(dataset: Dataset, cache: Cache) -> None:
    names = set()
    for resize in ("stretch", "crop"):
        model = build(classes=("a", "b"), image_size=32, resize=resize)
        run(model, replace(dataset), cache, 9)
        names |= {entry.folder.name for entry in cache.entries() if entry.kind == "activations"}
    assert len(names) == 2


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
def test_loaded_rows_are_the_same(
    model: Classifier, dataset: Dataset, cache: Cache, monkeypatch: pytest.MonkeyPatch, precision: torch.dtype
) -> None:
    cached = run(model, dataset, cache, 12, views=2, augmentation=Augmentation(), precision=precision)
    assert cached.taps is not None
    assert cached.rows.nbytes == 2 * 5 * int(np.prod(model.stages[11].shape)) * precision.itemsize
    cpu = torch.device("cpu")
    assert cached.loaded(cpu) is cached, "there is nothing to be moved to the CPU"
    monkeypatch.setattr("regraft.training.activations.has_room", lambda *_: True)
    loaded = cached.loaded(cpu)
    assert loaded.rows.nbytes == cached.rows.nbytes
    assert isinstance(loaded.rows.values, torch.Tensor)
    for chosen in (slice(1, 4), np.array([4, 0])):
        for ours, theirs in zip(loaded.batch(1, chosen), cached.batch(1, chosen), strict=True):
            assert torch.equal(ours, theirs)
            assert ours.stride() == theirs.stride()


@pytest.mark.parametrize("exchanged", [1, 8192])
def test_a_process_holds_the_features_of_its_own_rows(
    model: Classifier,
    monkeypatch: pytest.MonkeyPatch,
    run_ranks: Callable[..., list[Any]],
    exchanged: int,
) -> None:
    monkeypatch.setattr(row_sums, "IMAGES_PER_SHARD", 64)  # five shards, of which three and two belong to a process
    monkeypatch.setattr(feature_cache, "_BATCH", 48)
    monkeypatch.setattr(feature_cache, "_EXCHANGED", exchanged)
    end = len(model.stages)
    rows = torch.rand(2, 300, model.head.features - model.taps_below(end))
    taps = torch.rand(2, 300, model.taps_below(end))
    activations = Activations(end, CachedTensor(rows), CachedTensor(taps))

    def extract(own: bool) -> torch.Tensor:
        extracted = extract_features(model, activations, 2, torch.float32, NullReporter(), own=own)
        assert isinstance(extracted.values, torch.Tensor)
        return extracted.values

    expected = extract(False)
    assert torch.equal(expected, torch.cat([rows, taps], dim=2))
    for rank, (values, own) in enumerate(run_ranks(2, lambda: (extract(True), row_sums.own_rows(300)), distributed)):
        assert len(own) == row_sums.most_rows(300, 2) - 60 * rank
        assert torch.equal(values, expected[:, own])
    for values in run_ranks(2, lambda: extract(False), distributed):
        assert torch.equal(values, expected), "epochs draw from all rows"


def _continue(model: Classifier, dataset: Dataset, cache: Cache, precision: torch.dtype = torch.float32) -> list[int]:
    """Images that pass all stages after those with activations at stage 6 have passed the rest; also in `cache`."""
    end, passed = len(model.stages), list[int]()

    class Counting(TorchBackend):
        def __call__(self, pixels: torch.Tensor) -> list[torch.Tensor]:
            passed.append(len(pixels))
            return super().__call__(pixels)

    backend = Counting(model, end, precision)
    continue_cached(model, dataset, 6, backend, cache, reporter=NullReporter())
    run(model, dataset, cache, end, precision=precision, backend=backend)
    return passed


@pytest.mark.parametrize("head_stages", ["last", "upper", "all"])
def test_activations_of_a_fine_tuning_are_continued_with_the_same_numbers(
    head_stages: HeadStages, dataset: Dataset, cache: Cache, tmp_path: Path
) -> None:
    model, some = build(classes=("a", "b"), image_size=32, head_stages=head_stages), np.array([0, 2, 4])
    run(model, dataset.with_samples(dataset.table.take(some)), cache, 6)
    assert _continue(model, dataset, cache) == [2]
    assert _continue(model, dataset, cache) == []
    end = len(model.stages)
    continued, whole = run(model, dataset, cache, end), run(model, dataset, Cache(tmp_path / "other"), end)
    for ours, theirs in zip(continued.batch(0, slice(None)), whole.batch(0, slice(None)), strict=True):
        assert torch.equal(ours, theirs)


def test_other_weights_or_a_rounded_kind_of_number_are_not_continued(
    model: Classifier, dataset: Dataset, cache: Cache
) -> None:
    run(model, dataset, cache, 6, precision=torch.bfloat16)
    assert _continue(model, dataset, cache, torch.bfloat16) == [5], "bfloat16 is rounded where it is kept"
    run(model, dataset, cache, 6)
    other = build(classes=("a", "b"), image_size=32, weights="none")
    assert _continue(other, dataset, cache) == [5]


def test_a_copy_that_has_folded_other_layers_below_is_not_continued(
    model: Classifier, dataset: Dataset, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folded(original: Classifier, boundary: int) -> Classifier:
        """As if a norm above had been folded into the first convolution."""
        copied = copy.deepcopy(original)
        with torch.no_grad():
            next(copied.backbone.parameters()).mul_(2)
        return copied

    run(model, dataset, cache, 6)
    monkeypatch.setattr("regraft.training.prefix_backend.fold_inference", folded)
    assert _continue(model, dataset, cache) == [5]
