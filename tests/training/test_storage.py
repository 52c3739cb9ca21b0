"""What a training keeps, and that it does not change the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from regraft.cache import Cache
from regraft.data.augmentation_options import Augmentation
from regraft.data.dataset import Part, Split
from regraft.data.pixel_cache import StreamedPixels
from regraft.errors import UsageError
from regraft.models.classifier import Classifier
from regraft.training import data as training_data
from regraft.training import head_training
from regraft.training.activations import Activations, ActivationSource, CachedTensor
from regraft.training.callbacks import NullReporter
from regraft.training.device import choose_precision
from regraft.training.feature_rows import StoredRows, TensorRows
from regraft.training.options import TrainingOptions
from regraft.training.phase_plan import plan_phases
from regraft.training.storage import check_disk, free_disk, head_bytes, memory_limit, storage_needs
from regraft.training.trainer import train

MakeModel = Callable[..., Classifier]


def _equal(first: Classifier, second: Classifier) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def _kinds(root: Path) -> set[str]:
    return {entry.kind for entry in Cache(root).entries()}


def test_the_head_alone_keeps_features_and_no_pixels(
    make_model: MakeModel, squares_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streamed, stored = make_model(), make_model()
    train(streamed, squares_split, cache=Cache(tmp_path / "streamed"), finetune_epochs=0)
    assert _kinds(tmp_path / "streamed") == {"activations", "taps"}
    monkeypatch.setattr(training_data.TrainingData, "pixels", _stored_pixels)
    train(stored, squares_split, cache=Cache(tmp_path / "stored"), finetune_epochs=0)
    assert _kinds(tmp_path / "stored") == {"activations", "taps", "pixels"}
    assert _equal(streamed, stored)


def _stored_pixels(data: Any, part: Any) -> Any:
    return training_data.load_pixels(data._images[part], data._model.preprocessing, data._cache)


@pytest.mark.parametrize(
    "options", [{"finetune_epochs": 0}, {"finetune_epochs": 0, "views": 2}, {"finetune_epochs": 1}]
)
def test_a_small_memory_limit_reads_the_features_in_chunks_to_the_same_head(
    make_model: MakeModel,
    squares_split: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    used: list[type] = []
    for kind in (TensorRows, StoredRows):
        plain = kind.standardized

        def recording(rows: Any, *values: Any, plain: Any = plain, kind: type = kind, **named: Any) -> Any:
            used.append(kind)
            return plain(rows, *values, **named)

        monkeypatch.setattr(kind, "standardized", recording)
    results, models = [], []
    for limit in (0, 1e-9):
        models.append(make_model())
        results.append(
            train(
                models[-1], squares_split, cache=Cache(tmp_path / str(limit)), memory_gb=limit, batch_size=8, **options
            )
        )
        assert StoredRows in used if limit else set(used) == {TensorRows}
    paths = [[(fit.l2, fit.train_loss, fit.val_loss) for fit in result.head_path] for result in results]
    for (l2, train_loss, val_loss), expected in zip(*paths, strict=True):
        assert l2 == expected[0]
        assert (train_loss, val_loss) == pytest.approx(expected[1:], abs=1e-4 + 0.02 * options["finetune_epochs"])


@pytest.mark.parametrize("options", [{"finetune_epochs": 0}, {"finetune_epochs": 1, "views": 2, "batch_size": 8}])
def test_memory_gives_the_result_of_the_disk_and_writes_no_features(
    make_model: MakeModel, squares_split: Split, tmp_path: Path, options: dict[str, Any]
) -> None:
    on_disk, in_memory = make_model(), make_model()
    first = train(on_disk, squares_split, cache=Cache(tmp_path / "a"), feature_cache="disk", **options)
    second = train(in_memory, squares_split, cache=Cache(tmp_path / "b"), feature_cache="memory", **options)
    assert _equal(on_disk, in_memory)
    assert first.train_accuracy == second.train_accuracy
    assert "activations" in _kinds(tmp_path / "a")
    assert _kinds(tmp_path / "b") <= {"pixels"}


@pytest.mark.parametrize("gigabytes", [10.0, 1e-6])
@pytest.mark.parametrize("memory_gb", [0, 1e-9])
def test_without_cached_features_every_step_has_new_views(
    make_model: MakeModel, squares_split: Split, tmp_path: Path, gigabytes: float, memory_gb: float
) -> None:
    model, scratch = make_model(), tmp_path / "scratch"
    cache = Cache(tmp_path / "cache", limit=int(gigabytes * 1e9))
    result = train(
        model, squares_split, cache=cache, cache_gb=gigabytes, memory_gb=memory_gb, scratch=scratch,
        feature_cache="none", finetune_epochs=3, batch_size=8,
    )  # fmt: skip
    assert [row.phase for row in result.history] == ["finetune"] * 3
    assert result.train_accuracy is not None
    assert result.train_accuracy > 0.9
    assert _kinds(tmp_path / "cache") == ({"pixels"} if gigabytes > 1 else set())
    assert list(scratch.iterdir()) == []
    assert not result.cache_too_small


def test_the_head_alone_without_kept_features(make_model: MakeModel, squares_split: Split, tmp_path: Path) -> None:
    plain, model = make_model(), make_model()
    train(plain, squares_split, cache=Cache(tmp_path / "a"), finetune_epochs=0)
    train(model, squares_split, cache=Cache(tmp_path / "b"), finetune_epochs=0, feature_cache="none")
    assert _kinds(tmp_path / "b") == set()
    assert _equal(plain, model)


def test_a_whole_network_is_trained_on_pixels_that_nobody_stores(
    make_model: MakeModel, squares_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "finetune_from": "all",
        "finetune_epochs": 1,
        "batch_size": 8,
        "keep_finetuned": "always",
    }
    stored, streamed = make_model(), make_model()
    train(stored, squares_split, cache=Cache(tmp_path / "a"), **options)
    opened: list[int] = []

    class Counting(StreamedPixels):
        def __getitem__(self, chosen: Any) -> Any:
            opened.append(1)
            return super().__getitem__(chosen)

    monkeypatch.setattr(training_data, "StreamedPixels", Counting)
    precision = choose_precision("auto", torch.device("cpu"))
    size = storage_needs(stored, {"train": 24, "val": 12}, plan_phases(stored, TrainingOptions(**options)), precision)
    train(streamed, squares_split, cache=Cache(tmp_path / "b", limit=size.activations + 10_000), **options)
    assert _kinds(tmp_path / "b") == {"activations", "taps"}
    assert opened
    assert _equal(stored, streamed)


def test_what_has_no_room_is_refused(
    make_model: MakeModel, squares_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"feature_cache = memory needs .* GB .*memory_gb allows 1e-09\. Use"):
        train(make_model(), squares_split, feature_cache="memory", memory_gb=1e-9)
    with pytest.raises(
        UsageError, match=r"training\.memory_gb = 1e\+06 is more than the .* GB of memory that this proc"
    ):
        train(make_model(), squares_split, memory_gb=1e6)
    assert free_disk(tmp_path / "not" / "yet") > 0
    with pytest.raises(UsageError, match=r"feature_cache = disk needs 1e\+06 GB .* has .* GB free\."):
        check_disk(10**15, tmp_path / "not" / "yet")
    monkeypatch.setattr("regraft.training.storage.usable_memory", lambda: 8 * 10**9)
    assert memory_limit(0) == 4 * 10**9
    assert memory_limit(3) == 3 * 10**9
    monkeypatch.setattr("regraft.training.storage.usable_memory", lambda: None)
    assert memory_limit(0) == memory_limit(4)


def test_features_without_room_on_a_gpu_are_read_in_chunks(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = make_model(), list[int]()

    def has_room(device: torch.device, size: int) -> bool:
        asked.append(size)
        return False

    monkeypatch.setattr(head_training, "has_room", has_room)
    values = torch.rand(1, 50, model.head.features)
    inputs = Activations(len(model.stages), CachedTensor(values))
    gpu, cpu = (
        head_training._as_rows(SimpleNamespace(model=model, device=torch.device(name)), inputs, 50)  # type: ignore[arg-type]
        for name in ("cuda", "cpu")
    )
    assert isinstance(gpu, StoredRows)
    assert gpu.device.type == "cuda"
    assert isinstance(cpu, TensorRows)
    assert asked == [2 * values.nbytes]
    ((_, there),), ((_, here),) = replace(gpu, device=torch.device("cpu")).chunks(0), cpu.chunks(0)
    assert torch.equal(there, here)


def test_memory_of_the_head_is_divided_among_processes(make_model: MakeModel) -> None:
    model = make_model()
    features, classes = model.head.features, len(model.classes)
    fitted = partial(head_bytes, model, fitted=True)
    assert fitted(100, 10, views=1, processes=1) == 100 * (12 * features + 4 * classes) + 10 * 4 * features
    whole, half = (fitted(160_000, 0, views=2, processes=count) for count in (1, 2))
    assert whole == 2 * half
    assert fitted(100, 10, views=1, processes=8) == fitted(100, 10, views=1, processes=1), (
        "rows of one shard belong to one process"
    )


def test_a_head_that_trains_in_epochs_needs_no_copies(make_model: MakeModel) -> None:
    counts, precision = {"train": 100, "val": 10}, torch.float32
    needed = {}
    for kind in ("linear", "mlp"):
        model = make_model(head=kind, head_stages="last")
        phases = plan_phases(model, TrainingOptions(finetune_epochs=0, views=3))
        needed[kind] = storage_needs(model, counts, phases, precision).features
    values = (3 * 100 + 10) * 4 * model.head.features
    assert needed["mlp"] == values + 100 * 4 * len(model.classes)
    assert needed["linear"] == values + 3 * 100 * (8 * model.head.features + 4 * len(model.classes))


def test_features_stay_in_memory_only_if_every_process_has_room(
    make_model: MakeModel, squares_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, cpu = make_model(head_stages="last"), torch.device("cpu")
    data = training_data.TrainingData(
        model, {"train": squares_split.train, "val": squares_split.val}, options=TrainingOptions(),
        augmentation=Augmentation(), cache=Cache(tmp_path), scratch=Cache(tmp_path), device=cpu,
        precision=torch.float32, reporter=NullReporter(),
    )  # fmt: skip
    activations: dict[Part, ActivationSource] = {
        "train": Activations(len(model.stages), CachedTensor(torch.rand(1, 24, model.head.features)))
    }
    for room_of_the_other in (True, False):

        def all_gather(mine: bool, other: bool = room_of_the_other) -> list[bool]:
            return [mine, other]

        monkeypatch.setattr(training_data.distributed, "all_gather", all_gather)
        rows = data.head_inputs(activations, 1, fitted=True)["train"].rows
        assert (rows.values is activations["train"].rows.values) is not room_of_the_other
