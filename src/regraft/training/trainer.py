"""Train a classifier: cache the frozen prefix, fit the head, fine-tune from it, and keep the best model.

Input: a `Classifier` and a `Split`. Output: the same `Classifier`, trained, and a `Training` that says how it went.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from regraft import distributed
from regraft.cache import Cache
from regraft.data.augmentation_options import Augmentation
from regraft.data.dataset import Part, Split
from regraft.data.pixel_cache import PixelSource
from regraft.errors import TrainingError
from regraft.models.classifier import Classifier
from regraft.models.ood import MAX_FIT_IMAGES, fit_ood
from regraft.models.torch_defaults import torch_defaults
from regraft.text import pluralize
from regraft.training.activations import Activations, ActivationSource, CachedTensor
from regraft.training.callbacks import Callback, NullReporter, ProgressReporter, Training, known
from regraft.training.checkpoint import TrainingState, continue_training, start_or_resume
from regraft.training.data import Batches, OnlineAugmentation
from regraft.training.epochs import find_lr, fitting_epochs, train_phase
from regraft.training.feature_cache import extract_features, predict_logits, score_with_features
from regraft.training.head_training import train_head
from regraft.training.int8_prefix import quantize_prefix
from regraft.training.lora import merged, merged_finally
from regraft.training.losses import LossFunction
from regraft.training.options import TrainingOptions
from regraft.training.phase import Phase
from regraft.training.pooling import accuracy_of_groups, logits_of_groups
from regraft.training.refit import LinearWeights
from regraft.training.setup import TrainingSetup, set_up
from regraft.training.soft_targets import SoftTargets

_NO_FURTHER_GAIN = "No further epoch has a lower validation loss: the model from before them is kept."


@torch_defaults()
def train(
    model: Classifier,
    split: Split,
    *,
    augmentation: Augmentation | None = None,
    cache: Cache | None = None,
    scratch: Path | None = None,
    checkpoint: Path | None = None,
    reporter: ProgressReporter | None = None,
    on_better: Callable[[Classifier], None] | None = None,
    deadline: float | None = None,
    planned: Mapping[str, float] | None = None,
    earlier: Training | None = None,
    callbacks: Sequence[Callback] = (),
    loss_function: LossFunction | None = None,
    trained_heads: Sequence[LinearWeights] = (),
    soft_targets: SoftTargets | None = None,
    **options: Any,
) -> Training:
    """Train the head on features that are computed once, then fine-tune from the freeze boundary.

    Args:
        model: A model from `build`; it is trained in place and ends with the best weights.
        split: A split with a train part; the val part, if any, chooses the L2 strength, the epoch and whether
            fine-tuning is kept.
        augmentation: Random changes of the training images; default: flips, crops and colors.
        cache: Cache of decoded pixels and activations; default: this machine's. Where its limit is too small, a
            temporary folder is used instead.
        scratch: Parent of the temporary folder; default: the system's.
        checkpoint: File in which the state is saved after each epoch. If it exists, training resumes from it, and ends
            with the same numbers as without interruption; model, split and options must be the same.
        reporter: Receives progress, epochs and messages.
        on_better: Called with the model whenever it is better than before, so that it can be saved.
        deadline: `time.monotonic()` before which the last epoch must end; there are fewer views and epochs than asked
            for where the machine is too slow. Default: no deadline.
        planned: Seconds expected for the steps `prefix`, `head`, `finetune` and `evaluate`, by which the time to the
            deadline is divided.
        earlier: The finished training of the model, which is fine-tuned further, to `finetune_epochs` in all.
        callbacks: Called after each epoch; one that returns True ends the training.
        loss_function: Training loss of logits and targets, both float32 (N, classes), whose name `custom_loss` has.
        trained_heads: The heads of several backbones that were fine-tuned separately. Their average is the head unless
            a new one on all features is better on validation.
        soft_targets: Probabilities that replace the labels of the training images in the loss, without label
            smoothing, and those of the images without labels. Validation and `train_accuracy` stay those of the labels.
        **options: Fields of `TrainingOptions`.

    Returns:
        The history and the results. After Ctrl-C or an error the model has its best weights so far, and `interrupted`
        or `error` is set.

    Raises:
        UsageError: The classes of model and split differ, or an option does not fit.
        DataError: The train part is empty.
        TrainingError: Training failed before there was a model to keep.
        RunError: The checkpoint is damaged or belongs to another training.
    """
    parsed = TrainingOptions(**options)
    with merged_finally(model), _temporary_folder(scratch) as folder:
        setup = set_up(
            model,
            split,
            parsed,
            augmentation=augmentation or Augmentation(),
            cache=cache or Cache(limit=int(parsed.cache_gb * 1e9)),
            scratch=Cache(folder),
            checkpoint=checkpoint,
            reporter=reporter or NullReporter(),
            deadline=deadline,
            planned=planned or {},
            callbacks=callbacks,
            loss_function=loss_function,
            trained_heads=trained_heads,
            soft_targets=soft_targets,
        )
        state = start_or_resume(setup, on_better)
        if earlier is not None and state.checkpoint is None:
            continue_training(setup, state, earlier)
        try:
            run_phases(setup, state)
        except (KeyboardInterrupt, TrainingError) as error:
            # Outside of a step that all processes end together, one that stops would leave the others waiting.
            is_alone = isinstance(error, KeyboardInterrupt) and distributed.is_distributed()
            if state.best_model.weights is None or (is_alone and not distributed.is_interrupted()):
                raise
            state.result.interrupted = isinstance(error, KeyboardInterrupt)
            state.result.error = None if state.result.interrupted else str(error)
        distributed.barrier()  # another process may still read from the folder
        _finish(setup, state)
    return state.result


@contextmanager
def _temporary_folder(parent: Path | None) -> Iterator[Path]:
    """A folder that all processes use until rank 0 leaves."""
    if distributed.rank():
        yield distributed.on_rank_0(Path)
        return
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="regraft-", dir=parent) as folder:
        yield distributed.on_rank_0(lambda: Path(folder))


def run_phases(setup: TrainingSetup, state: TrainingState) -> None:
    """Cache the prefix, train the head, fine-tune from it, and evaluate the best model on the training images."""
    phases, result = setup.phases, state.result
    if setup.model.weights.source == "none" and not state.checkpoint and not setup.trained_heads:
        state.note(_about_random_weights(setup))
    backend = result.prefix_backend if state.checkpoint else None
    for message in setup.data.prepare(phases, backend=backend):
        state.note(message)
    result.prefix_backend, result.cache_too_small = setup.data.backend, setup.data.cache_too_small
    quantize_prefix(setup, state)
    is_finetuning = state.resumes_in("finetune")
    with state.timed("decode"):
        parts: tuple[Part, ...] = ("train", "val")
        pixels = {part: setup.data.pixels(part) for part in parts if len(setup.split.with_files(part))}
    cached: dict[Part, ActivationSource] = {}
    if phases.boundary or (phases.head != "none" and not is_finetuning):
        with state.timed("prefix"):
            prefix_deadline = setup.step_deadline("prefix", "head", "finetune")
            with merged(setup.model):  # the frozen part is the same with and without adapters
                cached = setup.data.activations(pixels, phases.cut, phases.views, deadline=prefix_deadline)
                cached = with_stored(setup, cached)
        if isinstance(train := cached["train"], Activations) and train.views < phases.views:
            state.note(
                f"The machine is slower than planned: there are {train.views} views of each image instead of "
                f"{phases.views}."
            )
    with state.timed("head"):
        if not is_finetuning:
            train_head(setup, state, cached)
    with distributed.deferred_interrupt():
        if phases.finetunes and not state.is_stopped:
            with state.timed("finetune"):
                finetune(setup, state, pixels, cached)
        state.best_model.restore()
        measure(setup, state, pixels, cached)


def with_stored(setup: TrainingSetup, cached: Mapping[Part, ActivationSource]) -> dict[Part, ActivationSource]:
    """The activations at the head, followed by the stored features of images that are gone; all as they are if none."""
    if setup.split.stored is None:
        return dict(cached)
    complete, end = dict[Part, ActivationSource](), len(setup.model.stages)
    parts: tuple[Part, ...] = ("train", "val")
    for part in parts:
        stored = torch.from_numpy(setup.split.stored_of(part).features)
        views = cached[part].views if part in cached else 1
        values = stored.expand(views, *stored.shape)
        if part in cached:
            own = extract_features(setup.model, cached[part], views, setup.precision, setup.reporter).values
            assert isinstance(own, torch.Tensor)
            values = torch.cat([own, values], dim=1) if len(stored) else own
        if values.shape[1]:
            complete[part] = Activations(end, CachedTensor(values.contiguous()))
    return complete


def _about_random_weights(setup: TrainingSetup) -> str:
    name, phases = setup.model.spec.name, setup.phases
    if phases.from_scratch:
        return (
            f"{name} has random weights, so all of it trains, from scratch, for "
            f"{pluralize(setup.options.finetune_epochs, 'epoch')}."
        )
    return (
        f"{name} has random weights, and what is below {phases.boundary_name} stays random. finetune_from = all trains "
        "it, too."
    )


def finetune(
    setup: TrainingSetup,
    state: TrainingState,
    pixels: Mapping[Part, PixelSource],
    cached: Mapping[Part, ActivationSource],
) -> None:
    """Train the stages from the freeze boundary on, and the head."""
    batches: Batches
    if setup.phases.boundary:
        batches = setup.data.batches(cached["train"].loaded(setup.device))
        val = cached.get("val")
    else:
        batches = OnlineAugmentation.of(pixels["train"], setup.augmentation, setup.device)
        val = setup.data.activations({part: pixels[part] for part in pixels if part != "train"}, 0).get("val")
    if not state.resumes_in("finetune"):
        state.best_model.restore()
    setup.model.freeze(setup.phases.boundary)
    if not state.finetune_epochs:
        state.finetune_epochs = fitting_epochs(setup, state, batches, val)
    if not state.finetune_epochs:
        return
    state.finetune_lr = state.finetune_lr or setup.options.finetune_lr or find_lr(setup, state, batches, val)
    phase = Phase.from_options(setup.options, "finetune", epochs=state.finetune_epochs, lr=state.finetune_lr)
    phase = replace(phase, earlier_epochs=state.earlier_epochs)
    train_phase(setup, state, phase, batches, val)


def measure(
    setup: TrainingSetup,
    state: TrainingState,
    pixels: Mapping[Part, PixelSource],
    cached: Mapping[Part, ActivationSource],
) -> None:
    """Predict the plain images with the final weights: validation logits, training accuracy and the OOD detector."""
    model, result = setup.model, state.result
    with merged(model):
        if setup.phases.boundary == 0:
            is_tuned = any(row.phase == "finetune" for row in result.history)
            cached = setup.data.activations(pixels, len(model.stages), reusable=not is_tuned)
        with setup.fused:
            if "val" in cached:
                result.val_logits = predict_logits(model, cached["val"], setup.precision)
            accuracy, indices, features = score_with_features(
                model,
                cached["train"],
                setup.labels,
                setup.objective,
                setup.precision,
                max_images=MAX_FIT_IMAGES,
            )
            if setup.groups is not None:
                logits = predict_logits(model, cached["train"], setup.precision)
                accuracy = accuracy_of_groups(logits, setup.labels, setup.groups.train, setup.objective)
                if result.val_logits is not None:
                    result.val_logits = logits_of_groups(result.val_logits, setup.groups.val, setup.objective)
    result.train_accuracy = known(accuracy)
    # Of images with several labels or with numbers, all are one class: what is far from all of them is unlike the
    # training images.
    one_class = torch.zeros(len(setup.labels), dtype=torch.int64)
    state.ood = fit_ood(features, (setup.labels if setup.labels.ndim == 1 else one_class)[indices])
    result.train_features = indices, features


def _finish(setup: TrainingSetup, state: TrainingState) -> None:
    """Load the best weights, mark their epoch, and say whether fine-tuning is kept."""
    model, result, best = setup.model, state.result, state.best_model
    best.restore()
    if model.task == "regression":  # from here on, every graph gives the numbers themselves
        if result.refitted is not None and model.head.units is not None:
            center, scale = model.head.units
            result.refitted = result.refitted.scaled(scale, center)
        model.head.use_units(0.0, 1.0)
    model.ood = state.ood.to(setup.device) if state.ood else None
    model.freeze(setup.phases.boundary)
    model.eval()
    if best.row is not None:
        result.history[best.row] = replace(result.history[best.row], kept=True)
        result.finetuned = result.history[best.row].phase == "finetune"
    if result.finetuned:
        result.refitted = None
    elif result.refitted is not None:
        count = len(setup.split.train) + len(setup.split.val)
        state.note(
            f"The head is fitted again, on the {count:,} training and validation images together. Scores on the "
            "validation images are those of the head before."
        )
    if setup.phases.finetunes and not result.interrupted and result.error is None:
        state.note(_NO_FURTHER_GAIN if state.keeps_earlier_model else best.summary(result.finetuned))
    result.seconds["total"] = state.total_seconds
