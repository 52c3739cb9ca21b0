"""Train a classifier: the prefix once, the head, then fine-tuning from the solved head.

Enters: a `Classifier` and a `Split`. Leaves: the same `Classifier`, trained, and a `Training` that says how it went.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from regraft.data.augmentation import Augmentation
from regraft.data.dataset import Part, Split
from regraft.data.split import bundle_ids
from regraft.errors import DataError, RunError, TrainingError, UsageError
from regraft.models.checkpoint import versions
from regraft.models.classifier import Classifier
from regraft.models.familiarity import MOST_IMAGES, Familiarity, fit_familiarity
from regraft.models.fusing import FusedTraining
from regraft.store import Store
from regraft.training.engine import EngineName, openvino_version
from regraft.training.hardware import choose_device, choose_precision
from regraft.training.inputs import Inputs
from regraft.training.keeping import Keeper
from regraft.training.loop import Batches, LiveViews, Phase, PhaseLoop, predict_logits, predict_with_features
from regraft.training.objective import Objective, balanced_weights, score
from regraft.training.options import TrainingOptions
from regraft.training.prefix import Activations, Rows, read_features
from regraft.training.progress import Epoch, Listener, Silence
from regraft.training.solver import Solution, solve_head
from regraft.training.standing import read_standing, under, write_standing

#: Of each training image, while the prefix is frozen and the tail trains.
_VIEWS = 8
#: Learning rates that `finetune_lr = 0` tries.
SWEEP = (1e-4, 3e-4, 1e-3, 3e-3)


@dataclass
class Training:
    """How a training went.

    Attributes:
        history: One row an epoch.
        seconds: Wall-clock time by step: `decode`, `prefix`, `head`, `finetune`, `total`.
        boundary: Name of the first stage that was fine-tuned, or `head`.
        finetuned: Whether the model handed on is the fine-tuned one.
        val_logits: float32 (N, C) of the validation images; None where there are none, or training ended before.
        train_accuracy: On the plain training images, 0..1; None where training ended before it was measured.
        device: That it ran on.
        precision: Of the arithmetic in training.
        engine: What ran the frozen prefix.
        stopped: Why it ended early, or None.
        notes: What a person should know, in sentences.
    """

    history: list[Epoch] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    boundary: str = "head"
    finetuned: bool = False
    val_logits: torch.Tensor | None = field(default=None, repr=False)
    train_accuracy: float | None = None
    device: str = "cpu"
    precision: str = "float32"
    engine: EngineName = "torch"
    stopped: str | None = None
    notes: list[str] = field(default_factory=list)


def train(
    model: Classifier,
    split: Split,
    *,
    augmentation: Augmentation | None = None,
    store: Store | None = None,
    scratch: Path | None = None,
    standing: Path | None = None,
    listener: Listener | None = None,
    on_better: Callable[[Classifier], None] | None = None,
    deadline: float | None = None,
    **options: Any,
) -> Training:
    """Train the head on features that are computed once, then fine-tune from the freeze boundary.

    Args:
        model: From `build`; it is trained in place and ends with the best weights.
        split: With a train part; the val part, where there is one, chooses strength, epoch and whether
            fine-tuning is kept.
        augmentation: Of the training images; default: flips, crops and colours.
        store: Where decoded pixels and activations are found and kept; default: this machine's. What does not fit
            into its limit goes into `scratch`.
        scratch: Folder for what is not kept, removed afterwards; default: the system's.
        standing: File in which the state is kept after each epoch. If it is there, training goes on from it, and
            ends with the same numbers as if it had never been stopped; model, split and options must be the same.
        listener: Told how far the work is.
        on_better: Called with the model whenever it is better than before, so that it can be saved.
        deadline: Moment of `time.monotonic` after which no epoch ends; default: none.
        **options: Fields of `TrainingOptions`.

    Returns:
        How it went. After Ctrl-C or a loss that is no number the best model until then is kept and `stopped` says so.

    Raises:
        UsageError: The classes of model and split differ, or an option does not fit.
        DataError: There is no training image.
        TrainingError: Training went wrong before there was any model to keep.
    """
    chosen = TrainingOptions(**options)
    if model.classes != split.classes:
        raise UsageError(
            f"The model's classes are {model.classes} and the data's {split.classes}; build it with the data's."
        )
    if not len(split.train):
        raise DataError("The train part has no image.")
    if scratch is not None:
        scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="regraft-", dir=scratch) as folder:
        return _Trainer(
            model,
            split,
            chosen,
            augmentation or Augmentation(),
            store or Store(limit=int(chosen.cache_gb * 1e9)),
            Store(Path(folder)),
            standing,
            listener or Silence(),
            on_better,
            deadline,
        ).run()


def views_of(options: TrainingOptions, *, finetunes: bool) -> int:
    """K, views of each training image."""
    return options.views or (_VIEWS if finetunes else 1)


class _Trainer:
    """The state of one call of `train`."""

    def __init__(
        self,
        model: Classifier,
        split: Split,
        options: TrainingOptions,
        augmentation: Augmentation,
        store: Store,
        scratch: Store,
        standing: Path | None,
        listener: Listener,
        on_better: Callable[[Classifier], None] | None,
        deadline: float | None,
    ) -> None:
        self.model, self.split, self.options, self.augmentation = model, split, options, augmentation
        self.listener, self.deadline = listener, deadline
        self.device = choose_device(options.device)
        self.precision = choose_precision(options.precision, self.device)
        self.inputs = Inputs(model, split, options, augmentation, store, scratch, self.device, self.precision, listener)
        self.result = Training(device=str(self.device), precision=str(self.precision).removeprefix("torch."))
        self.labels = torch.from_numpy(split.train.labels)
        self.val_labels = torch.from_numpy(split.val.labels)
        balanced = options.class_weights == "balanced"
        weights = balanced_weights(split.train.labels, len(split.classes), balanced=balanced)
        self.objective = Objective(options.loss, options.label_smoothing, weights)
        self.keeper = Keeper(model, options, on_better)
        self.lr = 0.0  # of fine-tuning, once it is known
        self.familiarity: Familiarity | None = None
        self.file, self.spent = standing, 0.0
        self.found = read_standing(standing) if standing and standing.exists() else None

    def run(self) -> Training:
        self.started = time.perf_counter()
        model, options = self.model, self.options
        model.to(self.device)
        # Those of an earlier training.
        model.head.temperature, model.familiarity = 1.0, None
        model.head.activation = "sigmoid" if options.loss == "binary_cross_entropy" else "softmax"
        boundary = model.resolve(options.finetune_from)
        finetunes = boundary < len(model.stages) and options.finetune_epochs > 0
        if not finetunes:
            boundary = len(model.stages)
        self._check(boundary, finetunes)
        self.result.boundary = model.stages[boundary].name if finetunes else "head"
        model.freeze(boundary)
        self.boundary = boundary
        self.changing = {name for name, _ in model.trainable()}
        self.fused = FusedTraining(model, boundary, self.precision)
        if self.found:
            self._take_up(*self.found)
        try:
            self._run_phases(boundary, finetunes)
        except KeyboardInterrupt:
            if self.keeper.weights is None:
                raise
            self.result.stopped = "interrupted"
        except TrainingError as error:
            if self.keeper.weights is None:
                raise
            self.result.stopped = str(error)
        self.keeper.restore()
        model.familiarity = self.familiarity.to(self.device) if self.familiarity else None
        model.freeze(boundary)
        model.eval()
        if (best := self.keeper.row) >= 0:
            history = self.result.history
            history[best] = replace(history[best], kept=True)
            self.result.finetuned = history[best].phase == "finetune"
        if finetunes and self.result.stopped is None and (verdict := self.keeper.verdict(self.result.finetuned)):
            self._note(verdict)
        self.result.seconds["total"] = time.perf_counter() - self.started + self.spent
        return self.result

    def _check(self, boundary: int, finetunes: bool) -> None:
        """Refuse before any work what could only fail later, and say what an option will not do."""
        model, options = self.model, self.options
        if not finetunes and not options.head_epochs:
            raise UsageError("head_epochs = 0 and no fine-tuning: nothing would be trained.")
        if self.augmentation.cutmix and finetunes and boundary and len(model.stages[boundary - 1].shape) != 3:
            raise UsageError(
                f"CutMix cuts maps, and before {model.stages[boundary].name} {model.spec.name} has tokens; use mixup, "
                "or finetune_from = all."
            )
        if finetunes and not options.finetune_lr and not len(self.split.val):
            raise UsageError("finetune_lr = 0 looks for the rate by validation, and there is no val part. Give a rate.")
        if not len(self.split.val) and (options.early_stopping or options.reduce_on_plateau):
            self._note("There is no val part: the last epoch is kept, and early stopping has nothing to go by.")

    def _run_phases(self, boundary: int, finetunes: bool) -> None:
        model, options = self.model, self.options
        end, tail_begun = len(model.stages), bool(self.found and self.found[1]["phase"] == "finetune")
        # With everything to be fine-tuned there is no prefix; the head still gets features.
        cut = boundary if finetunes and boundary else end
        views = views_of(options, finetunes=finetunes) if self.augmentation.changes_views and cut == boundary else 1
        for note in self.inputs.prepare(cut, views, chosen=self.result.engine if self.found else None):
            self._note(note)
        self.result.engine = self.inputs.engine
        with self._timed("decode"):
            parts: tuple[Part, ...] = ("train", "val")
            pixels = {part: self.inputs.pixels(part) for part in parts if len(self.split[part])}
        cached: dict[Part, Activations] = {}
        if boundary or not tail_begun:
            with self._timed("prefix"):
                cached = self.inputs.activations(pixels, cut, views)
        with self._timed("head"):
            if options.head_epochs and not tail_begun:
                self._head(cached["train"], cached.get("val"), finetunes)
        if finetunes:
            with self._timed("finetune"):
                batches: Batches
                if boundary:
                    batches = self.inputs.mirrored(cached["train"].loaded(self.device))
                else:
                    batches = LiveViews.of(pixels["train"], self.augmentation, self.device)
                    cached = self.inputs.activations({part: pixels[part] for part in pixels if part != "train"}, 0)
                if not tail_begun:
                    self.keeper.restore()
                model.freeze(boundary)
                self.lr = self.lr or options.finetune_lr or self._sweep(batches, cached.get("val"))
                self._phase("finetune", options.finetune_epochs, self.lr, options.optimizer, batches, cached.get("val"))
        self.keeper.restore()
        if boundary == 0:
            # With the weights that it has now, which nobody needs again.
            cached = self.inputs.activations(pixels, end, kept=not self._is_tuned)
        with self.fused:
            if "val" in cached:
                self.result.val_logits = predict_logits(model, cached["val"], self.precision)
            plain, rows, features = predict_with_features(model, cached["train"], self.precision, most=MOST_IMAGES)
        self.result.train_accuracy = score(self.objective, plain, self.labels).accuracy
        self.familiarity = fit_familiarity(features, self.labels[rows])

    @property
    def _is_tuned(self) -> bool:
        return any(row.phase == "finetune" for row in self.result.history)

    def _is_solved(self) -> bool:
        return self.options.head_optimizer == "lbfgs" and not self.model.head.widths

    def _head(self, train: Activations, val: Activations | None, finetunes: bool) -> None:
        model, options = self.model, self.options
        model.freeze(len(model.stages))
        # Before fine-tuning the head is solved on the plain images: more views cost time and gain it nothing
        # (docs/architecture.md).
        features = self._features(train, 1 if finetunes and self._is_solved() else train.views)
        val_features = None if val is None else self._features(val, 1)[0]
        if self._is_solved():
            if not self.found:
                self._solve(features, val_features)
                self._write_standing("head", None)
            return
        optimizer = "adamw" if options.head_optimizer == "lbfgs" else options.head_optimizer
        end = len(model.stages)
        held = None if val_features is None else Activations(end, Rows(val_features[None]))
        self._phase("head", options.head_epochs, options.head_lr, optimizer, Activations(end, Rows(features)), held)

    def _features(self, activations: Activations, views: int) -> torch.Tensor:
        with self.fused:
            return read_features(self.model, activations, views, self.precision, self.listener)

    def _solve(self, features: torch.Tensor, val_features: torch.Tensor | None) -> None:
        solutions: list[Solution] = []

        def tell(solution: Solution, images: int, strengths: int) -> None:
            solutions.append(solution)
            self._record_solution(solution, len(solutions), images)
            self.listener.work(
                "head", min(len(solutions), strengths), strengths + 1, f"strength {solution.strength:.2g}"
            )

        best = solve_head(
            features.to(self.device),
            self.labels.to(self.device),
            self.objective,
            val=None if val_features is None else (val_features.to(self.device), self.val_labels.to(self.device)),
            bundles=bundle_ids(self.split.train.samples),
            seed=self.options.seed,
            tell=tell,
        )
        self.listener.work("head", 1, 1)
        with torch.no_grad():
            self.model.head.classifier.weight.copy_(best.weight)
            self.model.head.classifier.bias.copy_(best.bias)
        self.keeper.keep(solutions.index(best), best.val)

    def _record_solution(self, solution: Solution, number: int, images: int) -> None:
        val = solution.val
        self._record(
            Epoch(
                phase="head",
                epoch=number,
                train_loss=solution.train_loss,
                train_accuracy=solution.train_accuracy,
                val_loss=None if val is None else val.loss,
                val_accuracy=None if val is None else val.accuracy,
                val_macro_f1=None if val is None else val.macro_f1,
                lr=None,
                strength=solution.strength,
                seconds=solution.seconds,
                images_per_second=images / max(solution.seconds, 1e-9),
            )
        )

    def _sweep(self, batches: Batches, val: Activations | None) -> float:
        """The learning rate whose one epoch from the solved head leaves the least validation loss."""
        assert val is not None  # `_check` saw to it
        losses: dict[float, float] = {}
        before = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        longest = 0.0
        for lr in SWEEP:
            # One epoch for the rate and one with it.
            if self.deadline is not None and time.monotonic() + 2 * longest > self.deadline:
                break
            started = time.monotonic()
            loop = self._loop("finetune", 1, lr, self.options.optimizer, batches, val)
            try:
                _, scores = loop.run_epoch()
                losses[lr] = float("inf") if scores is None else sum(scores.refined) / len(scores.refined)
            except TrainingError:  # far too high
                losses[lr] = float("inf")
            self.model.load_state_dict(before)
            longest = max(longest, time.monotonic() - started)
        if not losses:
            return TrainingOptions().finetune_lr
        best = min(losses, key=lambda lr: losses[lr])
        tried = ", ".join(f"{lr:g}: {loss:.3f}" for lr, loss in losses.items())
        self._note(f"Learning rate {best:g}, by one epoch each (loss of a validation image at {tried}).")
        return best

    def _loop(
        self, name: str, epochs: int, lr: float, optimizer: Any, batches: Batches, val: Activations | None
    ) -> PhaseLoop:
        options = self.options
        phase = Phase(
            name=name,
            epochs=epochs,
            lr=lr,
            optimizer=optimizer,
            weight_decay=options.weight_decay,
            batch_size=options.batch_size,
            schedule=options.schedule,
            warmup=options.warmup,
            reduce_on_plateau=options.reduce_on_plateau,
            plateau_factor=options.plateau_factor,
            monitor=options.monitor,
            layer_decay=options.layer_decay,
            averaging=options.averaging if name == "finetune" else 0.0,
        )
        return PhaseLoop(
            self.model,
            phase,
            batches,
            self.labels,
            self.objective,
            val=None if val is None else (val, self.val_labels),
            fused=self.fused,
            # A head reads vectors, out of which CutMix could cut nothing.
            augmentation=replace(self.augmentation, cutmix=0.0) if name == "head" else self.augmentation,
            precision=self.precision,
            compiled=options.compile and name == "finetune",
            seed=options.seed,
            listener=self.listener,
        )

    def _phase(
        self, name: str, epochs: int, lr: float, optimizer: Any, batches: Batches, val: Activations | None
    ) -> None:
        options, loop = self.options, self._loop(name, epochs, lr, optimizer, batches, val)
        if self.found and self.found[1]["phase"] == name:
            loop.restore(under("loop.", self.found[0]), self.found[1]["loop"])
            self.found = None
        else:
            self.keeper.begin_phase()

        def is_over() -> bool:
            stale = options.early_stopping and loop.stale >= options.early_stopping
            return bool(loop.epoch >= epochs or (stale and self.val_labels.numel()))

        longest = 0.0
        while not is_over():
            if self.deadline is not None and time.monotonic() + longest > self.deadline:
                self._note(f"The time is up: the {name} phase ended after {loop.epoch} of {epochs} epochs.")
                return
            started = time.monotonic()
            row, scores = loop.run_epoch()
            longest = max(longest, time.monotonic() - started)
            self._record(row)
            with loop.averaged():
                self.keeper.judge(name, len(self.result.history) - 1, scores)
            self._write_standing(name, loop)
        if loop.epoch < epochs:
            self._note(
                f"No better {options.monitor} for {loop.stale} epochs: the {name} phase ended after {loop.epoch}."
            )

    def _write_standing(self, name: str, loop: PhaseLoop | None) -> None:
        if self.file is None:
            return
        tensors, values = ({}, None) if loop is None else loop.state()
        tensors = {f"loop.{key}": tensor for key, tensor in tensors.items()}
        weights = self.model.state_dict()
        tensors |= {f"model.{key}": weights[key] for key in self.changing}
        best, kept = self.keeper.state(self.changing)
        tensors |= best
        state = {
            "of": self._identity(),
            "phase": name,
            "lr": self.lr,
            "engine": self.result.engine,
            "loop": values,
            "history": [asdict(row) for row in self.result.history],
            "notes": self.result.notes,
            "kept": kept,
            "seconds": {**self.result.seconds, "total": time.perf_counter() - self.started + self.spent},
        }
        write_standing(self.file, tensors, state)

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a training to go on, as JSON gives it back."""
        identity = {
            "options": asdict(self.options),
            "augmentation": asdict(self.augmentation),
            "model": {name: value for name, value in self.model.description().items() if name != "boundary"},
            "images": [len(self.split.train), len(self.split.val)],
            "versions": versions() | {"openvino": openvino_version()},
        }
        return dict(json.loads(json.dumps(identity)))

    def _take_up(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Set everything but the loop as it was."""
        weights = self.model.state_dict()
        if values["of"] != self._identity():
            raise RunError(
                f"{self.file} is of another model, other options or other versions of what computes. "
                "Remove it to train from the start."
            )
        self.keeper.take_up(tensors, values["kept"])
        self.model.load_state_dict({**weights, **under("model.", tensors)})
        self.result.history = [Epoch(**row) for row in values["history"]]
        done = (values["loop"] or {"epoch": "its end"})["epoch"]
        self.listener.note(f"Going on after epoch {done} of the {values['phase']} phase. Until then:")
        for row in self.result.history:
            self.listener.epoch(row)
        self.result.notes, self.lr = list(values["notes"]), values["lr"]
        self.result.engine = values["engine"]
        seconds = dict(values["seconds"])
        self.spent = float(seconds.pop("total"))
        self.result.seconds = seconds

    def _record(self, row: Epoch) -> None:
        self.result.history.append(row)
        self.listener.epoch(row)

    def _note(self, text: str) -> None:
        if text not in self.result.notes:
            self.result.notes.append(text)
        self.listener.note(text)

    def _timed(self, name: str) -> _Timer:
        return _Timer(self.result.seconds, name)


class _Timer:
    """Adds the time of a block to a table, also when the block ends by an exception."""

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self.seconds, self.name = seconds, name

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.name] = self.seconds.get(self.name, 0.0) + time.perf_counter() - self.started
