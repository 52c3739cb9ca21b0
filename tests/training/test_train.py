from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from regraft.data.augmentation import Augmentation
from regraft.data.dataset import Dataset, Split
from regraft.data.split import split
from regraft.errors import DataError, RunError, TrainingError, UsageError
from regraft.models.classifier import Classifier, build
from regraft.models.inference import predict_images
from regraft.store import Store
from regraft.training import train as train_module
from regraft.training.loop import PhaseLoop
from regraft.training.objective import Scores
from regraft.training.progress import Epoch, Silence
from regraft.training.train import SWEEP, train

SIZE = 32
FAST: dict[str, Any] = {"finetune_epochs": 2, "views": 2, "batch_size": 8}


def _model(split: Split, **options: Any) -> Classifier:
    return build(classes=split.classes, image_size=SIZE, **options)


def _state(model: Classifier) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _accuracy(model: Classifier, data: Dataset) -> float:
    answers = predict_images(model, [data.source(s) for s in data.samples])
    return float(np.mean([a.label == s.label for a, s in zip(answers, data.samples, strict=True)]))


class _Log(Silence):
    def __init__(self) -> None:
        self.rows: list[Epoch] = []
        self.notes: list[str] = []
        self.works: list[tuple[str, int, int]] = []

    def work(self, name: str, done: int, total: int, detail: str = "") -> None:
        self.works.append((name, done, total))

    def epoch(self, row: Epoch) -> None:
        self.rows.append(row)

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_learns_what_can_be_learnt(squares_split: Split, tmp_path: Path) -> None:
    model, log = _model(squares_split), _Log()
    options: dict[str, Any] = {"finetune_epochs": 3, "views": 3, "batch_size": 8}
    result = train(model, squares_split, listener=log, store=Store(tmp_path), **options)
    assert _accuracy(model, squares_split.test) >= 0.8
    assert {row.phase for row in result.history} == {"head", "finetune"}
    assert [row.kept for row in result.history].count(True) == 1
    assert [row.phase for row in log.rows] == [row.phase for row in result.history]
    assert {"decode", "prefix", "head", "finetune", "total"} == set(result.seconds)
    for name in ("decode", "backbone, train images", "head", "finetune"):
        done = [(d, t) for n, d, t in log.works if n == name]
        assert done, name
        assert all(0 < d <= t for d, t in done)
    assert not model.training


def test_same_seed_same_weights_and_another_seed_others(squares_split: Split) -> None:
    states = []
    for seed in (0, 0, 1):
        model = _model(squares_split)
        torch.manual_seed(seed + 17 * len(states))  # the caller's random state must not matter
        train(model, squares_split, seed=seed, keep_finetuned="always", **FAST)
        states.append(_state(model))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_training_leaves_the_callers_random_state_alone(squares_split: Split) -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    train(_model(squares_split), squares_split, **FAST)
    assert torch.equal(torch.rand(1), expected)


def _learned(model: Classifier) -> list[tuple[str, torch.Tensor]]:
    """All that computes the logits."""
    return [(name, tensor) for name, tensor in model.state_dict().items() if not name.startswith("familiarity.")]


def test_head_only_leaves_the_backbone_as_it_was(squares_split: Split) -> None:
    model = _model(squares_split)
    before = _state(model)
    result = train(model, squares_split, finetune_from="none", views=2)
    assert result.boundary == "head"
    assert not result.finetuned
    assert {row.phase for row in result.history} == {"head"}
    for name, tensor in _learned(model):
        assert torch.equal(tensor, before[name]) == name.startswith("backbone.") or name.startswith("head."), name


def test_below_the_boundary_nothing_changes_and_above_it_everything_does(squares_split: Split) -> None:
    model = _model(squares_split)
    before = _state(model)
    train(model, squares_split, finetune_from="blocks.6", keep_finetuned="always", precision="off", **FAST)
    boundary = model.resolve("blocks.6")
    below = {f"backbone.{n}.{k}" for s in model.stages[:boundary] for n, m in s.modules for k in m.state_dict()}
    for name, tensor in _learned(model):
        if name in below or name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.equal(tensor, before[name]), name
        else:
            assert not torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adam"},
        {"optimizer": "rmsprop"},
        {"optimizer": "sgd", "finetune_lr": 0.01},
        {"head_optimizer": "adamw", "head_epochs": 3},
        {"head_optimizer": "sgd", "head_epochs": 3, "head_lr": 0.1},
        {"label_smoothing": 0.1, "class_weights": "balanced"},
        {"loss": "binary_cross_entropy"},
        {"schedule": "constant", "warmup": 0.0},
        {"precision": "bf16"},
        {"precision": "off"},
        {"finetune_from": "all"},
        {"finetune_from": 100},
        {"finetune_from": "-20"},
        {"monitor": "val_loss"},
        {"monitor": "val_macro_f1"},
        {"head_epochs": 0, "keep_finetuned": "always"},
    ],
    ids=str,
)
def test_every_option_trains(squares_split: Split, options: dict[str, Any]) -> None:
    model = _model(squares_split)
    result = train(model, squares_split, **{**FAST, **options})
    assert all(math.isfinite(row.train_loss) for row in result.history)
    assert any(row.kept for row in result.history)
    assert _accuracy(model, squares_split.train) > 0.4
    assert model.head.activation == ("sigmoid" if options.get("loss") == "binary_cross_entropy" else "softmax")


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation.none(),
        Augmentation(rotation=20, vertical_flip=0.5),
        Augmentation(policy="trivialaugment"),
        Augmentation(policy="randaugment"),
        Augmentation(mixup=0.2),
        Augmentation(cutmix=1.0),
        Augmentation(mixup=0.2, cutmix=1.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("finetune_from", ["auto", "all"])
def test_every_augmentation_trains(squares_split: Split, augmentation: Augmentation, finetune_from: str) -> None:
    result = train(_model(squares_split), squares_split, augmentation=augmentation, finetune_from=finetune_from, **FAST)
    assert all(math.isfinite(row.train_loss) for row in result.history)


@pytest.mark.parametrize(
    "head",
    [
        {"head": "mlp", "head_widths": (16,)},
        {"pooling": "flatten"},
        {"head": "mlp", "pooling": "flatten", "head_widths": (16, 8)},
    ],
)
def test_every_head_trains(squares_split: Split, head: dict[str, Any]) -> None:
    model = _model(squares_split, **head)
    train(model, squares_split, head_epochs=15, head_lr=3e-3, **FAST)
    assert _accuracy(model, squares_split.train) > 0.5


def test_a_transformer_trains_and_refuses_cutmix_in_words(squares_split: Split) -> None:
    model = _model(squares_split, backbone="vit_s16", weights="none")
    train(model, squares_split, **FAST)
    with pytest.raises(UsageError, match="use mixup"):
        train(
            _model(squares_split, backbone="vit_s16", weights="none"),
            squares_split,
            augmentation=Augmentation(cutmix=1.0),
            **FAST,
        )


def test_without_validation_cross_validation_chooses_the_strength(squares: Dataset) -> None:
    parts = split(squares, train=0.75, val=0.0, test=0.25)
    model = build(classes=parts.classes, image_size=SIZE)
    result = train(model, parts, finetune_from="none", views=2)
    assert all(row.val_loss is None for row in result.history)
    assert result.history[-1].kept
    assert _accuracy(model, parts.test) > 0.6


def test_fine_tuning_that_does_not_pay_is_not_kept(squares_split: Split) -> None:
    model = _model(squares_split)
    result = train(model, squares_split, finetune_lr=0.1, optimizer="sgd", averaging=0, **FAST)
    assert not result.finetuned
    kept = next(row for row in result.history if row.kept)
    assert kept.phase == "head"
    assert any("did not improve validation" in note for note in result.notes)


def test_early_stopping_ends_a_phase(squares_split: Split) -> None:
    result = train(
        _model(squares_split),
        squares_split,
        finetune_epochs=30,
        finetune_lr=1e-9,
        early_stopping=2,
        views=1,
        batch_size=8,
    )
    assert len([row for row in result.history if row.phase == "finetune"]) < 10
    assert any("ended after" in note for note in result.notes)


def test_the_rate_is_reduced_on_a_plateau(squares_split: Split) -> None:
    result = train(
        _model(squares_split), squares_split, finetune_epochs=6, finetune_lr=1e-9, schedule="constant", warmup=0.0,
        reduce_on_plateau=2, plateau_factor=10.0, views=1, batch_size=8,
    )  # fmt: skip
    rates = [row.lr for row in result.history if row.phase == "finetune" and row.lr is not None]
    assert rates[0] == pytest.approx(1e-9)
    assert rates[-1] == pytest.approx(1e-11)


def _compile_by(backend: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let torch's compiler end in a backend that needs no C++; returns what was compiled."""
    compiled: list[Any] = []
    compile_with = torch.compile
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", lambda what: compiled.append(what) or compile_with(what, backend=backend))
    return compiled


@pytest.mark.parametrize("start", ["last", "all"])
def test_compiled_steps_train_the_same(squares_split: Split, monkeypatch: pytest.MonkeyPatch, start: str) -> None:
    plain = train(_model(squares_split), squares_split, finetune_from=start, precision="off", **FAST)
    graphs: list[Any] = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = _compile_by(counting, monkeypatch)
    result = train(_model(squares_split), squares_split, finetune_from=start, precision="off", compile=True, **FAST)
    assert len(compiled) == 1
    assert graphs
    losses = [[row.train_loss for row in run.history if row.phase == "finetune"] for run in (plain, result)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_where_nothing_can_be_compiled_the_head_is_kept(squares_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler\nand a long trace")

    _compile_by(fails, monkeypatch)
    result = train(_model(squares_split), squares_split, compile=True, **FAST)
    assert result.stopped is not None
    assert "no compiler). Train with training.compile = false." in result.stopped
    assert {row.phase for row in result.history} == {"head"}


def test_a_loss_that_is_no_number_names_the_step_and_keeps_the_last_good_model(squares_split: Split) -> None:
    model = _model(squares_split)
    saved: list[dict[str, torch.Tensor]] = []
    result = train(
        model, squares_split, finetune_lr=1e30, optimizer="sgd", precision="off",
        on_better=lambda better: saved.append(_state(better)), **FAST,
    )  # fmt: skip
    assert result.stopped is not None
    assert "no longer a number at step" in result.stopped
    assert "Try a tenth of the learning rate" in result.stopped
    assert all(torch.equal(tensor, saved[-1][name]) for name, tensor in model.state_dict().items())
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_a_loss_that_is_no_number_before_any_model_is_an_error(squares_split: Split) -> None:
    with pytest.raises(TrainingError, match="head phase"):
        train(
            _model(squares_split),
            squares_split,
            head_optimizer="sgd",
            head_lr=1e38,
            head_epochs=3,
            batch_size=4,
            precision="off",
        )


def test_ctrl_c_keeps_the_best_model(squares_split: Split, tmp_path: Path) -> None:
    class Impatient(Silence):
        def epoch(self, row: Epoch) -> None:
            if row.phase == "finetune":
                raise KeyboardInterrupt

    model = _model(squares_split)
    result = train(model, squares_split, listener=Impatient(), scratch=tmp_path, **FAST)
    assert result.stopped == "interrupted"
    assert _accuracy(model, squares_split.train) > 0.6
    assert list(tmp_path.iterdir()) == []


def test_an_annealed_epoch_is_preferred_within_the_noise(squares_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 12 validation images one image more or less is noise: the last of the near-best epochs is kept."""
    values = iter([0.75, 0.92, 0.85])

    class Scripted(PhaseLoop):
        def run_epoch(self) -> Any:
            row, _ = super().run_epoch()
            return row, Scores(loss=0.5, accuracy=next(values), macro_f1=0.5, count=12, refined=(0.5,) * 12)

    monkeypatch.setattr(train_module, "PhaseLoop", Scripted)
    result = train(
        _model(squares_split),
        squares_split,
        finetune_epochs=3,
        keep_finetuned="always",
        views=1,
        batch_size=8,
    )
    assert [row.kept for row in result.history if row.phase == "finetune"] == [False, False, True]


def test_wrong_use_is_refused(squares_split: Split) -> None:
    with pytest.raises(UsageError, match="build it with the data's"):
        train(build(classes=("x", "y"), image_size=SIZE), squares_split)
    with pytest.raises(ValidationError, match="optimizer"):
        train(_model(squares_split), squares_split, optimizer="adamax")
    with pytest.raises(ValidationError, match="epochs"):
        train(_model(squares_split), squares_split, epochs=3)
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        train(_model(squares_split), squares_split, precision="fp16", device="cpu")
    empty = Split(squares_split.dataset.with_samples([s for s in squares_split.dataset.samples if s.part != "train"]))
    with pytest.raises(DataError, match="no image"):
        train(_model(squares_split), empty)


def test_what_could_only_fail_later_is_refused_at_once(squares_split: Split) -> None:
    with pytest.raises(UsageError, match="nothing would be trained"):
        train(_model(squares_split), squares_split, head_epochs=0, finetune_epochs=0)
    vit = build("vit_s16", classes=squares_split.classes, weights="none", image_size=32)
    with pytest.raises(UsageError, match="CutMix cuts maps"):
        train(vit, squares_split, augmentation=Augmentation(cutmix=1.0), finetune_from=-20)


def test_cutmix_goes_with_an_mlp_head(squares_split: Split) -> None:
    model = _model(squares_split, head="mlp")
    result = train(
        model, squares_split, augmentation=Augmentation(cutmix=1.0), head_epochs=1, finetune_epochs=1, batch_size=8
    )
    assert [row.phase for row in result.history] == ["head", "finetune"]


def test_an_interrupted_training_does_not_invent_an_accuracy(squares_split: Split) -> None:
    class Impatient(Silence):
        def epoch(self, row: Epoch) -> None:
            if row.phase == "finetune":
                raise KeyboardInterrupt

    result = train(_model(squares_split), squares_split, finetune_epochs=2, views=1, listener=Impatient())
    assert (result.stopped, result.train_accuracy) == ("interrupted", None)


def test_a_second_training_decodes_nothing_and_runs_no_prefix(
    squares_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    first = _model(squares_split)
    train(first, squares_split, store=store, **FAST)
    work: list[str] = []

    class Watching(Silence):
        def work(self, name: str, done: int, total: int, detail: str = "") -> None:
            work.append(name)

    again, other = _model(squares_split), _model(squares_split)
    train(again, squares_split, store=Store(tmp_path / "store"), listener=Watching(), **FAST)
    assert not {name for name in work if name == "decode" or name.startswith("backbone")}
    assert all(torch.equal(one, _state(again)[name]) for name, one in _state(first).items())
    train(other, squares_split, store=Store(tmp_path / "store"), listener=Watching(), **{**FAST, "finetune_lr": 1e-4})
    assert not {name for name in work if name == "decode" or name.startswith("backbone")}


@pytest.mark.parametrize(("gigabytes", "noted"), [(0.0, False), (1e-6, True)])
def test_what_must_not_stay_leaves_nothing(
    squares_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gigabytes: float, noted: bool
) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    scratch = tmp_path / "scratch"
    result = train(_model(squares_split), squares_split, scratch=scratch, cache_gb=gigabytes, **FAST)
    assert any("training.cache_gb" in note for note in result.notes) is noted
    assert Store().entries() == []
    assert list(scratch.iterdir()) == []


def test_only_the_head_needs_one_view_and_fine_tuning_several(squares_split: Split, tmp_path: Path) -> None:
    def images(folder: str, **options: Any) -> int:
        log = _Log()
        train(_model(squares_split), squares_split, listener=log, store=Store(tmp_path / folder), **options)
        return max(total for name, _, total in log.works if name == "backbone, train images")

    assert images("head", finetune_epochs=0) == len(squares_split.train)
    assert images("tail", finetune_epochs=1, finetune_from="blocks.6", batch_size=8) == 8 * len(squares_split.train)


def test_averaged_weights_are_between_those_of_the_steps(squares_split: Split) -> None:
    """With a long reach they stay near the start; the training itself is the same."""
    states, losses = [], []
    for averaging in (0.0, 1.0, 1000.0):
        model = _model(squares_split)
        one = FAST | {"finetune_epochs": 1}  # or else another epoch may be kept
        result = train(model, squares_split, averaging=averaging, keep_finetuned="always", **one)
        states.append(model.state_dict()["backbone.conv_head.weight"].clone())
        losses.append([row.train_loss for row in result.history])
    assert losses[0] == losses[1] == losses[2]
    start = _model(squares_split).state_dict()["backbone.conv_head.weight"]
    distances = [float((state - start).norm()) for state in states]
    assert 0 < distances[2] < distances[1] < distances[0]


def test_lower_stages_learn_more_slowly(squares_split: Split) -> None:
    model = _model(squares_split)
    start = _state(model)
    train(model, squares_split, layer_decay=0.1, averaging=0, keep_finetuned="always", finetune_from="blocks.5", **FAST)
    end = _state(model)

    def moved(name: str) -> float:
        return float((end[name] - start[name]).abs().max())

    steps = ["backbone.blocks.5.0.conv_pw.weight", "backbone.blocks.6.0.conv_pw.weight", "backbone.conv_head.weight"]
    lowest, middle, highest = map(moved, steps)
    assert 0 < lowest < middle / 10 < highest / 50


class _Stop(Exception):
    """Stands for a kill."""


class _Killer(_Log):
    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def epoch(self, row: Epoch) -> None:
        super().epoch(row)
        if len(self.rows) == self.after:
            raise _Stop


@pytest.mark.parametrize(
    "options",
    [
        FAST,
        {**FAST, "finetune_from": "all"},
        {**FAST, "head_optimizer": "sgd", "head_epochs": 3, "optimizer": "sgd", "reduce_on_plateau": 1},
        {**FAST, "finetune_epochs": 0, "head_optimizer": "adamw", "head_epochs": 4},
        {**FAST, "finetune_epochs": 6, "early_stopping": 1, "optimizer": "rmsprop", "averaging": 0},
        # Dense kernels, whose moments lie in memory otherwise than a file keeps them.
        {**FAST, "finetune_from": "all", "finetune_epochs": 4, "keep_finetuned": "always"},
    ],
)
def test_a_stopped_training_goes_on_as_if_nothing_had_happened(
    squares_split: Split, tmp_path: Path, options: dict[str, Any]
) -> None:
    whole = _model(squares_split)
    expected = train(whole, squares_split, **options)
    phases = [row.phase for row in expected.history]
    for after in {2, phases.count("head") + 1, len(phases) - 1}:
        file, results = tmp_path / f"{after}.safetensors", []
        for listener in (_Killer(after), _Log()):
            model = _model(squares_split)
            try:
                results.append(train(model, squares_split, standing=file, listener=listener, **options))
            except _Stop:
                assert isinstance(listener, _Killer)
        assert [_timeless(row) for row in results[-1].history] == [_timeless(row) for row in expected.history]
        assert results[-1].notes == expected.notes
        assert results[-1].train_accuracy == expected.train_accuracy
        ours, theirs = _state(model), _state(whole)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_state_of_another_training_is_refused(squares_split: Split, tmp_path: Path) -> None:
    file = tmp_path / "last.safetensors"
    train(_model(squares_split), squares_split, standing=file, **FAST)
    for change in ({"finetune_from": "blocks.6"}, {"finetune_lr": 1e-3}):
        with pytest.raises(RunError, match="of another model, other options"):
            train(_model(squares_split), squares_split, standing=file, **FAST, **change)
    file.write_bytes(b"no safetensors")
    with pytest.raises(RunError, match="is damaged"):
        train(_model(squares_split), squares_split, standing=file, **FAST)


def _timeless(row: Epoch) -> dict[str, Any]:
    return {name: value for name, value in row.to_row().items() if name not in ("seconds", "images_per_second")}


def test_fine_tuning_may_have_to_be_clearly_better(squares_split: Split) -> None:
    kept = {}
    for keep in ("if_better", "if_clear", "always"):
        model = _model(squares_split)
        options = {**FAST, "finetune_lr": 1e-9, "keep_finetuned": keep, "averaging": 0}
        kept[keep] = train(model, squares_split, **options).finetuned
    # What changes by a billionth is not clearly better.
    assert not kept["if_clear"]
    assert kept["always"]


def test_the_learning_rate_is_looked_for_and_kept_when_resumed(squares_split: Split, tmp_path: Path) -> None:
    options: dict[str, Any] = {**FAST, "finetune_lr": 0, "keep_finetuned": "always"}
    whole = _model(squares_split)
    expected = train(whole, squares_split, **options)
    (note,) = [note for note in expected.notes if note.startswith("Learning rate ")]
    assert all(f"{lr:g}:" in note for lr in SWEEP)
    chosen = float(note.split()[2].rstrip(","))
    assert chosen in SWEEP
    phases = [row.phase for row in expected.history]
    assert phases.count("finetune") == FAST["finetune_epochs"], "the search leaves no epochs behind"
    assert max(row.lr or 0 for row in expected.history if row.phase == "finetune") <= chosen
    file = tmp_path / "last.safetensors"
    with pytest.raises(_Stop):
        train(
            _model(squares_split), squares_split, standing=file, listener=_Killer(phases.count("head") + 1), **options
        )
    again = _model(squares_split)
    assert train(again, squares_split, standing=file, **options).notes == expected.notes
    ours, theirs = _state(again), _state(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_no_rate_is_looked_for_without_validation(squares: Dataset) -> None:
    parts = split(squares, train=0.7, val=0, test=0.3)
    with pytest.raises(UsageError, match=r"finetune_lr = 0 .* no val part"):
        train(_model(parts), parts, **{**FAST, "finetune_lr": 0})


def test_the_search_for_a_rate_heeds_the_deadline(squares_split: Split) -> None:
    model = _model(squares_split)
    options = {**FAST, "finetune_lr": 0, "keep_finetuned": "always"}
    result = train(model, squares_split, deadline=time.monotonic(), **options)
    assert not [note for note in result.notes if note.startswith("Learning rate ")]
    assert not result.finetuned
