from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regraft.cache import Cache
from regraft.data.augmentation_options import Augmentation
from regraft.data.dataset import Dataset, Split
from regraft.data.split import split
from regraft.errors import ConfigError, TrainingError, UsageError
from regraft.models.classifier import Classifier
from regraft.models.inference import predict_images
from regraft.training import epochs
from regraft.training.callbacks import Epoch, HeadFit, NullReporter
from regraft.training.epochs import LR_CANDIDATES
from regraft.training.losses import EpochMetrics
from regraft.training.phase import PhaseTrainer
from regraft.training.prefix_backend import TorchBackend
from regraft.training.trainer import train

MakeModel = Callable[..., Classifier]


def _state(model: Classifier) -> dict[str, torch.Tensor]:
    """A copy of all weights that compute the logits."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith("ood.")}


def _accuracy(model: Classifier, data: Dataset) -> float:
    answers = predict_images(model, [data.source(s) for s in data.samples])
    return float(np.mean([a.label == s.label for a, s in zip(answers, data.samples, strict=True)]))


class _Recorder(NullReporter):
    def __init__(self) -> None:
        self.epochs: list[Epoch] = []
        self.head_path: Sequence[HeadFit] = ()
        self.steps: list[tuple[str, int, int]] = []

    def on_progress(self, name: str, done: int, total: int, detail: str = "") -> None:
        self.steps.append((name, done, total))

    def on_head_path(self, path: Sequence[HeadFit]) -> None:
        self.head_path = path

    def on_epoch_end(self, row: Epoch) -> None:
        self.epochs.append(row)


def test_learns_and_reports_every_step(make_model: MakeModel, squares_split: Split, tmp_path: Path) -> None:
    model, recorder = make_model(backbone="efficientnet_lite0"), _Recorder()
    options: dict[str, Any] = {"finetune_epochs": 3, "views": 3, "batch_size": 8}
    result = train(model, squares_split, reporter=recorder, cache=Cache(tmp_path), **options)
    assert _accuracy(model, squares_split.test) >= 0.8
    assert [(row.phase, row.epoch) for row in result.history] == [("finetune", n) for n in (1, 2, 3)]
    assert [row.kept for row in result.history].count(True) == result.finetuned
    assert [row.epoch for row in recorder.epochs] == [1, 2, 3]
    assert recorder.head_path == result.head_path
    assert {"decode", "prefix", "head", "finetune", "total"} == set(result.seconds)
    for name in ("decode", "backbone, train images", "head", "finetune"):
        done = [(d, t) for n, d, t in recorder.steps if n == name]
        assert done, name
        assert all(0 < d <= t for d, t in done)
    assert not model.training


def test_the_chosen_head_has_the_lowest_validation_loss(make_model: MakeModel, squares_split: Split) -> None:
    result = train(make_model(), squares_split, finetune_from="none")
    assert (result.history, result.finetuned, result.boundary) == ([], False, "head")
    losses = [fit.val_loss for fit in result.head_path]
    assert [fit.chosen for fit in result.head_path] == [loss == min(losses) for loss in losses]
    assert [fit.l2 for fit in result.head_path] == sorted((fit.l2 for fit in result.head_path), reverse=True)


def test_same_seed_gives_the_same_weights(make_model: MakeModel, squares_split: Split, fast: dict[str, Any]) -> None:
    states = []
    for seed in (0, 0, 1):
        model = make_model()
        torch.manual_seed(seed + 17 * len(states))  # the caller's random state must not matter
        before = torch.get_rng_state()
        train(model, squares_split, seed=seed, keep_finetuned="always", **fast)
        assert torch.equal(torch.get_rng_state(), before)
        states.append(_state(model))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_head_only_leaves_the_backbone_unchanged(make_model: MakeModel, squares_split: Split) -> None:
    model = make_model()
    before = _state(model)
    train(model, squares_split, finetune_from="none", views=2)
    for name, tensor in _state(model).items():
        assert torch.equal(tensor, before[name]) == name.startswith("backbone.") or name.startswith("head."), name


def test_only_weights_above_the_boundary_change(
    make_model: MakeModel, squares_split: Split, fast: dict[str, Any]
) -> None:
    model = make_model()
    before = _state(model)
    train(model, squares_split, finetune_from="blocks.4", keep_finetuned="always", precision="off", **fast)
    boundary = model.resolve("blocks.4")
    below = {f"backbone.{n}.{k}" for s in model.stages[:boundary] for n, m in s.modules for k in m.state_dict()}
    for name, tensor in _state(model).items():
        if name in below or name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.equal(tensor, before[name]), name
        else:
            assert not torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adam", "schedule": "constant", "warmup": 0.0},
        {"optimizer": "rmsprop", "monitor": "val_loss"},
        {"optimizer": "sgd", "finetune_lr": 0.01, "precision": "bf16"},
        {"head_optimizer": "adamw", "head_epochs": 3, "precision": "off"},
        {"head_optimizer": "sgd", "head_epochs": 3, "head_lr": 0.1, "finetune_from": "-20"},
        {"label_smoothing": 0.1, "class_weights": "balanced", "monitor": "val_macro_f1"},
        {"loss": "binary_cross_entropy", "finetune_from": 30},
        {"finetune_from": "all"},
        {"head_epochs": 0, "keep_finetuned": "always"},
    ],
    ids=str,
)
def test_every_option_trains(
    make_model: MakeModel, squares_split: Split, fast: dict[str, Any], options: dict[str, Any]
) -> None:
    # A head that is not fitted learns little from random features.
    model = make_model(**({"backbone": "efficientnet_lite0"} if any("head_" in name for name in options) else {}))
    result = train(model, squares_split, **{**fast, **options})
    assert all(math.isfinite(row.train_loss) for row in result.history)
    assert any(row.kept for row in result.history) or any(fit.chosen for fit in result.head_path)
    assert _accuracy(model, squares_split.train) > 0.4
    assert model.head.activation == ("sigmoid" if options.get("loss") == "binary_cross_entropy" else "softmax")


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation.none(),
        Augmentation(rotation=20, vertical_flip=0.5),
        Augmentation(policy="trivialaugment"),
        Augmentation(policy="randaugment"),
        Augmentation(mixup=0.2, cutmix=1.0),
    ],
    ids=["none", "rotation", "trivialaugment", "randaugment", "mixup and cutmix"],
)
@pytest.mark.parametrize("finetune_from", ["auto", "all"])
def test_every_augmentation_trains(
    make_model: MakeModel, squares_split: Split, augmentation: Augmentation, finetune_from: str
) -> None:
    options: dict[str, Any] = {"finetune_from": finetune_from, "finetune_epochs": 1, "views": 2, "batch_size": 12}
    result = train(make_model(), squares_split, augmentation=augmentation, **options)
    assert all(math.isfinite(row.train_loss) for row in result.history)


@pytest.mark.parametrize(
    "head",
    [
        {"head": "mlp", "head_widths": (16,)},
        {"pooling": "flatten"},
        {"head": "mlp", "pooling": "flatten", "head_widths": (16, 8)},
    ],
    ids=["mlp", "flatten", "mlp on flatten"],
)
def test_every_head_trains(
    make_model: MakeModel, squares_split: Split, fast: dict[str, Any], head: dict[str, Any]
) -> None:
    model = make_model(backbone="efficientnet_lite0", **head)
    cutmix = Augmentation(cutmix=1.0)  # it cuts maps, and leaves the features of the head alone
    train(model, squares_split, augmentation=cutmix, head_epochs=15, head_lr=3e-3, **fast)
    assert _accuracy(model, squares_split.train) > 0.5


def test_a_transformer_trains(make_model: MakeModel, squares_split: Split, fast: dict[str, Any]) -> None:
    result = train(make_model(backbone="vit_tiny_patch16_224", weights="none"), squares_split, **fast)
    assert all(math.isfinite(row.train_loss) for row in result.history)


def test_random_weights_train_from_scratch_with_the_statistics_of_their_batches(
    make_model: MakeModel, squares_split: Split, fast: dict[str, Any], tmp_path: Path
) -> None:
    model = make_model(weights="none")
    before = _state(model)
    checkpoint = tmp_path / "state.safetensors"
    result = train(model, squares_split, checkpoint=checkpoint, keep_finetuned="if_better", **fast)
    after = _state(model)
    assert not any(
        torch.equal(after[name], before[name]) for name in after if name.endswith(("weight", "running_mean"))
    )
    assert [row.phase for row in result.history] == ["finetune"] * 2
    assert not result.head_path
    assert result.finetuned
    assert any("has random weights, so all of it trains, from scratch" in note for note in result.notes)
    again = make_model(weights="none")  # from the checkpoint after the last epoch
    train(again, squares_split, checkpoint=checkpoint, keep_finetuned="if_better", **fast)
    resumed = _state(again)
    assert all(torch.equal(resumed[name], after[name]) for name in after if "num_batches" not in name)


def test_without_validation_cross_validation_chooses_the_l2_strength(make_model: MakeModel, squares: Dataset) -> None:
    parts = split(squares, train=0.75, val=0.0, test=0.25)
    model = make_model()
    result = train(model, parts, finetune_from="none", views=2, early_stopping=1)
    assert all(fit.val_loss is None for fit in result.head_path)
    assert result.head_path[-1].chosen
    assert _accuracy(model, parts.test) > 0.6
    assert any("There is no val part" in note for note in result.notes)


def test_fine_tuning_is_kept_only_if_it_pays(make_model: MakeModel, squares_split: Split, fast: dict[str, Any]) -> None:
    result = train(
        make_model(backbone="efficientnet_lite0"), squares_split, finetune_lr=0.1, optimizer="sgd", ema_epochs=0, **fast
    )
    assert not result.finetuned
    assert not any(row.kept for row in result.history)
    assert any("did not lower the validation loss" in note for note in result.notes)
    kept = {}
    for keep in ("if_clear", "always"):  # a learning rate of a billionth improves nothing clearly
        options = {**fast, "finetune_lr": 1e-9, "keep_finetuned": keep, "ema_epochs": 0}
        kept[keep] = train(make_model(backbone="efficientnet_lite0"), squares_split, **options).finetuned
    assert kept == {"if_clear": False, "always": True}


def test_a_plateau_reduces_the_learning_rate_and_then_ends_the_phase(
    make_model: MakeModel, squares_split: Split
) -> None:
    result = train(
        make_model(), squares_split, finetune_epochs=30, finetune_lr=1e-9, schedule="constant", warmup=0.0,
        reduce_on_plateau=2, plateau_factor=10.0, early_stopping=3, views=1, batch_size=8,
    )  # fmt: skip
    rates = [row.lr for row in result.history]
    assert len(rates) < 10
    assert rates[0] == pytest.approx(1e-9)
    assert rates[-1] == pytest.approx(1e-10)
    assert any("ended after" in note for note in result.notes)


def test_a_loss_that_is_nan_names_the_step_and_keeps_the_last_good_model(
    make_model: MakeModel, squares_split: Split, fast: dict[str, Any]
) -> None:
    model = make_model()
    saved: list[dict[str, torch.Tensor]] = []
    result = train(
        model, squares_split, finetune_lr=1e30, optimizer="sgd", precision="off",
        on_better=lambda better: saved.append(_state(better)), **fast,
    )  # fmt: skip
    assert result.error is not None
    assert "NaN or infinite at step" in result.error
    assert "Try a tenth of the learning rate" in result.error
    assert all(torch.equal(tensor, saved[-1][name]) for name, tensor in _state(model).items())
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_a_loss_that_is_nan_before_there_is_a_model_is_an_error(make_model: MakeModel, squares_split: Split) -> None:
    options: dict[str, Any] = {"head_optimizer": "sgd", "head_lr": 1e38, "head_epochs": 3, "batch_size": 4}
    with pytest.raises(TrainingError, match="head phase"):
        train(make_model(), squares_split, precision="off", **options)


def test_ctrl_c_keeps_the_best_model(
    make_model: MakeModel, squares_split: Split, tmp_path: Path, fast: dict[str, Any]
) -> None:
    class Impatient(NullReporter):
        def on_epoch_end(self, row: Epoch) -> None:
            raise KeyboardInterrupt

    model = make_model()
    result = train(model, squares_split, reporter=Impatient(), scratch=tmp_path, **fast)
    assert (result.interrupted, result.error, result.train_accuracy) == (True, None, None)
    assert _accuracy(model, squares_split.train) > 0.6
    assert list(tmp_path.iterdir()) == []


def test_a_later_epoch_is_preferred_within_the_noise(
    make_model: MakeModel, squares_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 12 validation images, one more correct image is noise: the last of the best epochs is kept."""
    values = iter([0.75, 0.92, 0.85])

    class Scripted(PhaseTrainer):
        def run_epoch(self, *, deadline: float | None = None) -> Any:
            row, _ = super().run_epoch()
            return row, EpochMetrics(
                loss=0.5, accuracy=next(values), macro_f1=0.5, count=12, calibrated_losses=(0.5,) * 12
            )

    monkeypatch.setattr(epochs, "PhaseTrainer", Scripted)
    options: dict[str, Any] = {"finetune_epochs": 3, "keep_finetuned": "always", "views": 1, "batch_size": 8}
    result = train(make_model(), squares_split, **options)
    assert [row.kept for row in result.history] == [False, False, True]


def test_unknown_options_are_refused(make_model: MakeModel, squares_split: Split) -> None:
    with pytest.raises(ConfigError, match="optimizer"):
        train(make_model(), squares_split, optimizer="adamax")
    with pytest.raises(ConfigError, match="epochs"):
        train(make_model(), squares_split, epochs=3)


def test_a_second_training_finds_pixels_and_activations_in_the_cache(
    make_model: MakeModel, squares_split: Split, tmp_path: Path, fast: dict[str, Any]
) -> None:
    first, again, other = make_model(), make_model(), make_model()
    train(first, squares_split, cache=Cache(tmp_path), **fast)
    recorder = _Recorder()
    train(again, squares_split, cache=Cache(tmp_path), reporter=recorder, **fast)
    train(other, squares_split, cache=Cache(tmp_path), reporter=recorder, **{**fast, "finetune_lr": 1e-4})
    assert not {name for name, _, _ in recorder.steps if name == "decode" or name.startswith("backbone")}
    assert all(torch.equal(tensor, _state(again)[name]) for name, tensor in _state(first).items())


@pytest.mark.parametrize(("gigabytes", "too_small"), [(0.0, False), (1e-6, True)])
def test_what_is_not_cached_leaves_nothing(
    make_model: MakeModel,
    squares_split: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gigabytes: float,
    too_small: bool,
) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    scratch = tmp_path / "scratch"
    result = train(make_model(), squares_split, scratch=scratch, cache_gb=gigabytes, finetune_epochs=0)
    assert any("training.cache_gb" in note for note in result.notes) is result.cache_too_small is too_small
    assert Cache().entries() == []
    assert list(scratch.iterdir()) == []


def test_only_fine_tuning_needs_several_views(make_model: MakeModel, squares_split: Split, tmp_path: Path) -> None:
    def images(folder: str, **options: Any) -> int:
        recorder = _Recorder()
        train(make_model(), squares_split, reporter=recorder, cache=Cache(tmp_path / folder), **options)
        return max(total for name, _, total in recorder.steps if name == "backbone, train images")

    assert images("head", finetune_epochs=0) == len(squares_split.train)
    assert images("tail", finetune_epochs=1, finetune_from="blocks.4", batch_size=8) == 8 * len(squares_split.train)


def test_averaged_weights_are_between_those_of_the_steps(
    make_model: MakeModel, squares_split: Split, fast: dict[str, Any]
) -> None:
    """A long average stays near the start; the training itself is the same."""
    states, losses = [], []
    for ema_epochs in (0.0, 1.0, 1000.0):
        model = make_model()
        one = fast | {"finetune_epochs": 1}  # otherwise different epochs may be kept
        result = train(model, squares_split, ema_epochs=ema_epochs, keep_finetuned="always", **one)
        states.append(model.state_dict()["backbone.conv_head.weight"].clone())
        losses.append([row.train_loss for row in result.history])
    assert losses[0] == losses[1] == losses[2]
    start = make_model().state_dict()["backbone.conv_head.weight"]
    distances = [float((state - start).norm()) for state in states]
    assert 0 < distances[2] < distances[1] < distances[0]


def test_lower_stages_learn_more_slowly(make_model: MakeModel, squares_split: Split, fast: dict[str, Any]) -> None:
    model = make_model(backbone="efficientnet_lite0")
    start = _state(model)
    train(
        model, squares_split, layer_decay=0.1, ema_epochs=0, keep_finetuned="always", finetune_from="blocks.5", **fast
    )
    end = _state(model)

    def moved(name: str) -> float:
        return float((end[name] - start[name]).abs().max())

    steps = ["backbone.blocks.5.0.conv_pw.weight", "backbone.blocks.6.0.conv_pw.weight", "backbone.conv_head.weight"]
    lowest, middle, highest = map(moved, steps)
    assert 0 < lowest < middle / 10 < highest / 50


def test_the_search_for_a_learning_rate_stops_at_the_deadline(
    make_model: MakeModel, squares_split: Split, fast: dict[str, Any]
) -> None:
    options = {**fast, "finetune_lr": 0, "keep_finetuned": "always"}
    result = train(make_model(), squares_split, deadline=time.monotonic(), **options)
    assert not [note for note in result.notes if note.startswith("Learning rate ")]
    assert not result.finetuned


def test_no_epoch_starts_that_would_end_after_the_deadline(
    make_model: MakeModel, squares_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("regraft.training.epochs.time.monotonic", lambda: now[0])

    class TenSeconds(NullReporter):
        def on_epoch_end(self, row: Epoch) -> None:
            now[0] += 10

        def on_progress(self, name: str, done: int, total: int, detail: str = "") -> None:
            now[0] += 10 * (name == "finetune" and done % 24 == 0)

    options: dict[str, Any] = {"finetune_epochs": 50, "views": 1, "batch_size": 12, "finetune_from": "blocks.4"}
    result = train(make_model(), squares_split, reporter=TenSeconds(), deadline=75, **options)
    assert 1 <= len(result.history) <= 7
    assert any("The time is up" in note for note in result.notes)


def test_the_best_learning_rate_is_used(make_model: MakeModel, squares_split: Split, fast: dict[str, Any]) -> None:
    result = train(make_model(), squares_split, **{**fast, "finetune_lr": 0, "keep_finetuned": "always"})
    (note,) = [note for note in result.notes if note.startswith("Learning rate ")]
    assert all(f"{lr:g}:" in note for lr in LR_CANDIDATES)
    chosen = float(note.split()[2])
    assert chosen in LR_CANDIDATES
    assert len(result.history) == fast["finetune_epochs"], "the search leaves no epochs behind"
    assert max(row.lr for row in result.history) <= chosen


@pytest.mark.gpu
@pytest.mark.parametrize("start", ["auto", "all", "none"])
def test_a_gpu_learns_the_same(make_model: MakeModel, squares_split: Split, start: str) -> None:
    model = make_model(image_size=64)
    result = train(model, squares_split, device="cuda", finetune_from=start, finetune_epochs=3, batch_size=8)
    assert result.device.startswith("cuda")
    assert result.prefix_backend == "torch"
    assert result.train_accuracy is not None
    assert result.train_accuracy > 0.9


def test_a_callback_ends_the_training(make_model: MakeModel, squares_split: Split, fast: dict[str, Any]) -> None:
    result = train(make_model(), squares_split, **fast, callbacks=[lambda epoch, metrics: epoch == 1])
    assert [row.epoch for row in result.history] == [1]
    assert "A callback ended the training after epoch 1 of the finetune phase." in result.notes


def test_an_epoch_has_as_many_steps_as_wanted(make_model: MakeModel, squares_split: Split) -> None:
    options: dict[str, Any] = {"finetune_epochs": 3, "views": 1, "batch_size": 8, "cache_gb": 0}
    for steps, images in ((2, 16), (4, 32)):  # 24 training images make three steps
        recorder = _Recorder()
        train(make_model(), squares_split, steps_per_epoch=steps, reporter=recorder, **options)
        totals = {total for name, _, total in recorder.steps if name == "finetune"}
        assert totals == {3 * images}
    seen: list[np.ndarray] = []

    class Recording(PhaseTrainer):
        def _order(self, epoch: int) -> list[np.ndarray]:
            seen.extend(order := super()._order(epoch))
            return order

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epochs, "PhaseTrainer", Recording)
        train(make_model(), squares_split, steps_per_epoch=2, **options)
    for number in range(2):  # three epochs of two steps are two passes over the images
        assert sorted(np.concatenate(seen[3 * number : 3 * number + 3])) == list(range(24))


def test_a_loss_of_ones_own(make_model: MakeModel, squares_split: Split, fast: dict[str, Any]) -> None:
    def same(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, targets)

    named = {"custom_loss": "mine.same", "head_epochs": 1, **fast}
    own = train(make_model(), squares_split, loss_function=same, **named)
    assert [row.phase for row in own.history] == ["head", "finetune", "finetune"]
    assert own.head_path == []
    plain = train(make_model(), squares_split, head_optimizer="adamw", label_smoothing=0, head_epochs=1, **fast)
    assert own.history[0].train_loss == pytest.approx(plain.history[0].train_loss, abs=1e-5)
    with pytest.raises(UsageError, match=r"no function was given.*regraft\.resume"):
        train(make_model(), squares_split, **named)
    with pytest.raises(UsageError, match="class_weights = 'balanced' has no effect on the loss"):
        train(make_model(), squares_split, loss_function=same, class_weights="balanced", **named)


def test_a_head_alone_finds_what_a_fine_tuning_has_left(
    make_model: MakeModel, squares_split: Split, tmp_path: Path, fast: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"finetune_epochs": 0, "precision": "off"}
    anew = train(make_model(), squares_split, cache=Cache(tmp_path / "other"), **options)
    cache = Cache(tmp_path / "cache")
    train(make_model(), squares_split, cache=cache, **{**fast, "finetune_epochs": 1, "precision": "off"})

    def refuse(backend: TorchBackend, pixels: torch.Tensor) -> list[torch.Tensor]:
        raise AssertionError(f"{len(pixels)} images pass all layers again")

    monkeypatch.setattr(TorchBackend, "__call__", refuse)
    found = train(make_model(), squares_split, cache=cache, **options)
    assert found.val_logits is not None
    assert anew.val_logits is not None
    assert torch.equal(found.val_logits, anew.val_logits)
