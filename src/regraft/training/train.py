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
from regraft.data.dataset import Split
from regraft.data.pixels import Pixels, load_pixels
from regraft.data.split import bundle_ids
from regraft.errors import DataError, RunError, TrainingError, UsageError
from regraft.models.checkpoint import versions
from regraft.models.classifier import Classifier
from regraft.store import Store
from regraft.training.hardware import choose_device, choose_precision
from regraft.training.loop import Batches, LiveViews, Phase, PhaseLoop, predict_logits
from regraft.training.objective import Objective, Scores, balanced_weights, score
from regraft.training.options import TrainingOptions
from regraft.training.prefix import Activations, Rows, row_bytes, run_prefix
from regraft.training.progress import Epoch, Listener, Silence
from regraft.training.solver import (
    STRENGTHS,
    Solution,
    best_by_validation,
    solve_path,
    strength_by_cross_validation,
)
from regraft.training.standing import read_standing, under, write_standing

#: Of each training image, while the prefix is frozen and the tail trains.
_VIEWS = 8


@dataclass
class Training:
    """How a training went.

    Attributes:
        history: One row an epoch.
        seconds: Wall-clock time by step: `decode`, `prefix`, `head`, `finetune`, `total`.
        boundary: Name of the first stage that was fine-tuned, or `head`.
        finetuned: Whether the model handed on is the fine-tuned one.
        train_accuracy: On the plain training images, 0..1; None where training ended before it was measured.
        device: That it ran on.
        precision: Of the arithmetic in training.
        stopped: Why it ended early, or None.
        notes: What a person should know, in sentences.
    """

    history: list[Epoch] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    boundary: str = "head"
    finetuned: bool = False
    train_accuracy: float | None = None
    device: str = "cpu"
    precision: str = "float32"
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
        self.store, self.scratch, self.listener, self.on_better = store, scratch, listener, on_better
        self.deadline = deadline
        self.device = choose_device(options.device)
        self.precision = choose_precision(options.precision, self.device)
        self.result = Training(device=str(self.device), precision=str(self.precision).removeprefix("torch."))
        self.labels = torch.from_numpy(split.train.labels)
        self.val_labels = torch.from_numpy(split.val.labels)
        balanced = options.class_weights == "balanced"
        weights = balanced_weights(split.train.labels, len(split.classes), balanced=balanced)
        self.objective = Objective(options.loss, options.label_smoothing, weights)
        self.best: dict[str, torch.Tensor] | None = None
        self.best_row = -1
        self.best_scores: Scores | None = None
        # Of the phase that is going on: the scores before it, and the best within it.
        self.before: Scores | None = None
        self.phase_best: Scores | None = None
        self.file, self.spent = standing, 0.0
        self.found = read_standing(standing) if standing and standing.exists() else None

    def run(self) -> Training:
        self.started = time.perf_counter()
        model, options = self.model, self.options
        model.to(self.device)
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
        if self.found:
            self._take_up(*self.found)
        try:
            self._run_phases(boundary, finetunes)
        except KeyboardInterrupt:
            if self.best is None:
                raise
            self.result.stopped = "interrupted"
        except TrainingError as error:
            if self.best is None:
                raise
            self.result.stopped = str(error)
        self._restore()
        model.freeze(boundary)
        model.eval()
        if self.best_row >= 0:
            history = self.result.history
            history[self.best_row] = replace(history[self.best_row], kept=True)
            self.result.finetuned = history[self.best_row].phase == "finetune"
        if finetunes and not self.result.finetuned and self.result.stopped is None:
            self._note("Fine-tuning did not improve validation; the model with only its head trained is kept.")
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
        if not len(self.split.val) and (options.early_stopping or options.reduce_on_plateau):
            self._note("There is no val part: the last epoch is kept, and early stopping has nothing to go by.")

    def _run_phases(self, boundary: int, finetunes: bool) -> None:
        model, options = self.model, self.options
        # With everything to be fine-tuned there is no prefix; the head still gets features.
        end, tail_begun = len(model.stages), bool(self.found and self.found[1]["phase"] == "finetune")
        cuts = [boundary] * (0 < boundary < end) + [end] * (not tail_begun)
        views = views_of(options, finetunes=finetunes) if self.augmentation.changes_views else 1
        self._make_room(cuts, views)
        with self._timed("decode"):
            pixels = {part: self._pixels(part) for part in ("train", "val") if len(self.split[part])}
        with self._timed("prefix"):
            cached = {part: self._prefix(part, pixels[part], cuts, views if part == "train" else 1) for part in pixels}
        with self._timed("head"):
            if options.head_epochs and not tail_begun:
                self._head(cached["train"][-1], cached["val"][-1] if "val" in cached else None)
        if finetunes:
            with self._timed("finetune"):
                batches: Batches = LiveViews(pixels["train"], self.augmentation)
                if boundary == 0 and "val" in pixels:
                    cached["val"] = self._prefix("val", pixels["val"], [0])
                if boundary:
                    batches = cached["train"][0]
                if not tail_begun:
                    self._restore()
                model.freeze(boundary)
                self._phase(
                    "finetune",
                    options.finetune_epochs,
                    options.finetune_lr,
                    options.optimizer,
                    batches,
                    cached["val"][0] if "val" in cached else None,
                )
        self._restore()
        if boundary == 0:
            cached["train"] = self._prefix("train", pixels["train"], [end])  # with the weights that it has now
        plain = predict_logits(model, cached["train"][0], self.precision)
        self.result.train_accuracy = score(self.objective, plain, self.labels).accuracy

    def _make_room(self, cuts: list[int], views: int) -> None:
        """Work in the scratch folder where the limit of the store leaves no room for this training."""
        model, count = self.model, len(self.split.train) * views + len(self.split.val)
        size = sum(row_bytes(model, cut, self.precision) for cut in cuts) * count
        size += 3 * model.preprocessing.size**2 * (len(self.split.train) + len(self.split.val))
        if not self.options.cache_gb:
            self.store = self.scratch
        elif not self.store.make_room(size):
            self._note(
                f"The cache keeps {self.store.limit / 1e9:g} GB (training.cache_gb) and this training may need "
                f"{size / 1e9:.1f} GB: it works in a folder that is removed at its end."
            )
            self.store = self.scratch

    def _pixels(self, part: Any) -> Pixels:
        def tell(done: int, total: int) -> None:
            self.listener.work("decode", done, total, f"{part} images")

        return load_pixels(self.split[part], self.model.preprocessing, self.store, progress=tell)

    def _prefix(self, part: Any, pixels: Pixels, cuts: list[int], views: int = 1) -> list[Activations]:
        if not cuts:
            return []
        # Normalised pixels, and what a tuned backbone made of them, nobody needs again.
        tuned = any(row.phase == "finetune" for row in self.result.history)
        kept = cuts != [0] and not (tuned and max(cuts) > self.boundary)
        return run_prefix(
            self.model,
            self.split[part],
            pixels,
            cuts,
            self.store if kept else self.scratch,
            precision=self.precision,
            views=views,
            augmentation=self.augmentation,
            seed=self.options.seed,
            listener=self.listener,
            name=f"backbone, {part} images",
        )

    def _head(self, train: Activations, val: Activations | None) -> None:
        model, options = self.model, self.options
        model.freeze(len(model.stages))
        features, val_features = self._features(train), None if val is None else self._features(val)[0]
        if options.head_optimizer == "lbfgs" and not model.head.widths:
            if not self.found:
                self._solve(features, val_features)
                self._write_standing("head", None)
            return
        optimizer = "adamw" if options.head_optimizer == "lbfgs" else options.head_optimizer
        end = len(model.stages)
        held = None if val_features is None else Activations(end, Rows(val_features[None]))
        self._phase("head", options.head_epochs, options.head_lr, optimizer, Activations(end, Rows(features)), held)

    def _features(self, activations: Activations) -> torch.Tensor:
        """What the head reads of every view, float32 (K, N, F), in memory."""
        features = torch.empty(activations.views, len(activations), self.model.head.features)
        for view in range(activations.views):
            for start in range(0, len(activations), 1024):
                batch = activations.batch(view, slice(start, start + 1024))
                features[view, start : start + 1024] = self.model.features_from(batch, activations.boundary)
        return features

    def _solve(self, features: torch.Tensor, val_features: torch.Tensor | None) -> None:
        """Find the strength on the plain images, then solve once more on all views."""
        views, count, _ = features.shape
        rows, labels = features[0].to(self.device), self.labels.to(self.device)
        val = None if val_features is None else (val_features.to(self.device), self.val_labels.to(self.device))
        strengths = STRENGTHS
        if val is None:
            strength = strength_by_cross_validation(
                rows,
                labels,
                self.objective,
                bundles=bundle_ids(self.split.train.samples),
                seed=self.options.seed,
            )
            strengths = STRENGTHS[: STRENGTHS.index(strength) + 1]
        solutions: list[Solution] = []
        for solution in solve_path(rows, labels, self.objective, val=val, strengths=strengths):
            solutions.append(solution)
            self._record_solution(solution, len(solutions), count)
            self.listener.work("head", len(solutions), len(strengths) + 1, f"strength {solution.strength:.2g}")
            # The loss along the path has one valley; past it, weaker penalties only cost time.
            if val is not None and len(solutions) - 1 - solutions.index(best_by_validation(solutions)) > 1:
                break
        # Without validation the path ends at the strength that cross-validation chose.
        best = solutions[-1] if val is None else best_by_validation(solutions)
        if views > 1:
            rows, labels = features.flatten(0, 1).to(self.device), labels.repeat(views)
            # More views bear a weaker penalty, if another.
            plain = len(solutions)
            weaker = [best.strength] if val is None else [s for s in STRENGTHS if s <= best.strength]
            for solution in solve_path(rows, labels, self.objective, val=val, strengths=weaker, start=best):
                solutions.append(solution)
                self._record_solution(solution, len(solutions), views * count)
                if len(solutions) > 1 + plain and best_by_validation(solutions[-2:]) is not solution:
                    break
            best = solutions[-1] if val is None else best_by_validation(solutions)
        self.listener.work("head", 1, 1)
        with torch.no_grad():
            self.model.head.classifier.weight.copy_(best.weight)
            self.model.head.classifier.bias.copy_(best.bias)
        self._keep(solutions.index(best), best.val)

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

    def _phase(
        self, name: str, epochs: int, lr: float, optimizer: Any, batches: Batches, val: Activations | None
    ) -> None:
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
        loop = PhaseLoop(
            self.model,
            phase,
            batches,
            self.labels,
            self.objective,
            val=None if val is None else (val, self.val_labels),
            # A head reads vectors, out of which CutMix could cut nothing.
            augmentation=replace(self.augmentation, cutmix=0.0) if name == "head" else self.augmentation,
            precision=self.precision,
            seed=options.seed,
            listener=self.listener,
        )
        if self.found and self.found[1]["phase"] == name:
            loop.restore(under("loop.", self.found[0]), self.found[1]["loop"])
            self.found = None
        else:
            self.before, self.phase_best = self.best_scores, None

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
                self._judge(name, scores)
            self._write_standing(name, loop)
        if loop.epoch < epochs:
            self._note(
                f"No better {options.monitor} for {loop.stale} epochs: the {name} phase ended after {loop.epoch}."
            )

    def _judge(self, name: str, scores: Scores | None) -> None:
        """Keep the weights if they are the best so far."""
        options, best = self.options, self.phase_best
        if scores is None:
            self._keep(len(self.result.history) - 1, None)
            return
        improves = best is None or scores.value(options.monitor) > best.value(options.monitor)
        # An annealed later epoch is preferred to an earlier one that is better only within the noise.
        settles = (
            options.schedule == "cosine"
            and best is not None
            and (scores.value(options.monitor) >= best.value(options.monitor) - best.noise(options.monitor))
        )
        before = self.before
        pays = (
            name == "head"
            or before is None
            or options.keep_finetuned == "always"
            or (scores.value(options.monitor), -scores.loss) > (before.value(options.monitor), -before.loss)
        )
        if (improves or settles) and pays:
            self._keep(len(self.result.history) - 1, scores)
        self.phase_best = scores if improves else best

    def _write_standing(self, name: str, loop: PhaseLoop | None) -> None:
        if self.file is None:
            return
        tensors, values = ({}, None) if loop is None else loop.state()
        tensors = {f"loop.{key}": tensor for key, tensor in tensors.items()}
        weights = self.model.state_dict()
        tensors |= {f"model.{key}": weights[key] for key in self.changing}
        if self.best is not None:
            tensors |= {f"best.{key}": self.best[key] for key in self.changing}
        state = {
            "of": self._identity(),
            "phase": name,
            "loop": values,
            "history": [asdict(row) for row in self.result.history],
            "notes": self.result.notes,
            "best_row": self.best_row,
            "scores": {
                key: None if scores is None else asdict(scores)
                for key, scores in (("best", self.best_scores), ("before", self.before), ("phase", self.phase_best))
            },
            "seconds": {**self.result.seconds, "total": time.perf_counter() - self.started + self.spent},
        }
        write_standing(self.file, tensors, state)

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a training to go on, as JSON gives it back."""
        identity = {
            "options": asdict(self.options),
            "augmentation": asdict(self.augmentation),
            "model": {name: value for name, value in self.model.description().items() if name != "boundary"},
            "images": [len(self.split[part]) for part in self.split],
            "versions": versions(),
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
        if best := under("best.", tensors):
            self.best = {name: best.get(name, tensor).clone().to(tensor.device) for name, tensor in weights.items()}
        self.model.load_state_dict({**weights, **under("model.", tensors)})
        self.best_row = values["best_row"]
        scores = {key: None if value is None else Scores(**value) for key, value in values["scores"].items()}
        self.best_scores, self.before, self.phase_best = scores["best"], scores["before"], scores["phase"]
        self.result.history = [Epoch(**row) for row in values["history"]]
        done = (values["loop"] or {"epoch": "its end"})["epoch"]
        self.listener.note(f"Going on after epoch {done} of the {values['phase']} phase. Until then:")
        for row in self.result.history:
            self.listener.epoch(row)
        self.result.notes = list(values["notes"])
        seconds = dict(values["seconds"])
        self.spent = float(seconds.pop("total"))
        self.result.seconds = seconds

    def _record(self, row: Epoch) -> None:
        self.result.history.append(row)
        self.listener.epoch(row)

    def _keep(self, row: int, scores: Scores | None) -> None:
        self.best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.best_row, self.best_scores = row, scores
        if self.on_better:
            self.on_better(self.model)

    def _restore(self) -> None:
        if self.best is not None:
            self.model.load_state_dict(self.best)

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
