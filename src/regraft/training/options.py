"""What a practitioner can set about training, with the defaults that we ship."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Optimizer = Literal["adamw", "adam", "rmsprop", "sgd"]
Loss = Literal["cross_entropy", "binary_cross_entropy"]
Monitor = Literal["val_loss", "val_accuracy", "val_macro_f1"]
Precision = Literal["auto", "bf16", "fp16", "off"]
Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class TrainingOptions:
    """Two phases, head and fine-tuning, and what they share."""

    head_optimizer: Annotated[
        Literal["lbfgs"] | Optimizer,
        Field(
            description=(
                "lbfgs solves a linear head exactly; adamw, adam, rmsprop and sgd train any head (an mlp never "
                "uses lbfgs)"
            )
        ),
    ] = "lbfgs"
    head_epochs: Annotated[
        int,
        Field(
            ge=0,
            le=10_000,
            description=(
                "epochs of the head phase; lbfgs goes along its path of strengths instead, and only 0 matters to "
                "it: no head phase"
            ),
        ),
    ] = 20
    head_lr: Annotated[
        float, Field(gt=0, description="highest learning rate of the head phase (not used by lbfgs)")
    ] = 1e-3
    finetune_from: Annotated[
        str | int,
        Field(
            description=(
                "where fine-tuning begins: auto, last, none, all, a stage or layer name, 100 (freeze the first 100 "
                "layers), -20 (train the last 20)"
            )
        ),
    ] = "auto"
    finetune_epochs: Annotated[int, Field(ge=0, le=10_000, description="epochs of the fine-tuning phase")] = 10
    finetune_lr: Annotated[
        float,
        Field(
            ge=0,
            description=(
                "highest learning rate of the fine-tuning phase; 0: the best of 1e-4, 3e-4, 1e-3 and 3e-3, by an epoch "
                "each"
            ),
        ),
    ] = 5e-4
    keep_finetuned: Annotated[
        Literal["if_better", "if_clear", "always"],
        Field(
            description=(
                "if_better: fine-tuning is kept only if it lowers the validation loss; if_clear: only if by more than "
                "one standard error"
            )
        ),
    ] = "if_better"
    optimizer: Annotated[Optimizer, Field(description="of fine-tuning: adamw, adam, rmsprop or sgd")] = "adamw"
    weight_decay: Annotated[float, Field(ge=0, description="of weights, not of biases and norms")] = 0.05
    layer_decay: Annotated[
        float,
        Field(
            gt=0, le=1, description="in fine-tuning, each stage's learning rate is that of the stage above times this"
        ),
    ] = 1.0
    averaging: Annotated[
        float,
        Field(ge=0, description="fine-tuned weights are averaged over about this many epochs; 0: the last ones count"),
    ] = 1.0
    batch_size: Annotated[int, Field(ge=1, description="images in a training step")] = 32
    views: Annotated[
        int,
        Field(
            ge=0,
            le=256,
            description=(
                "versions of each training image that are kept while the prefix is frozen: itself and augmented ones; "
                "0: 8 before fine-tuning, 1 where only the head trains"
            ),
        ),
    ] = 0
    loss: Annotated[Loss, Field(description="cross_entropy, or binary_cross_entropy (one against the rest)")] = (
        "cross_entropy"
    )
    label_smoothing: Annotated[
        float, Field(ge=0, lt=1, description="share of the target that is spread over all classes")
    ] = 0.1
    class_weights: Annotated[
        Literal["none", "balanced"],
        Field(description="balanced: every class weighs the same, however many images it has"),
    ] = "none"
    schedule: Annotated[
        Literal["cosine", "constant"],
        Field(description="of the learning rate after warm-up: cosine or constant"),
    ] = "cosine"
    warmup: Annotated[
        float, Field(ge=0, lt=1, description="share of the steps in which the learning rate rises from zero")
    ] = 0.2
    early_stopping: Annotated[
        int, Field(ge=0, description="stop a phase after this many epochs without improvement; 0: never")
    ] = 0
    reduce_on_plateau: Annotated[
        int,
        Field(
            ge=0,
            description=(
                "divide the learning rate by plateau_factor after this many epochs without improvement; 0: never"
            ),
        ),
    ] = 0
    plateau_factor: Annotated[float, Field(gt=1, description="see reduce_on_plateau")] = 10.0
    monitor: Annotated[
        Monitor,
        Field(
            description=(
                "what the best epoch is chosen by: val_loss, val_accuracy or val_macro_f1; without a val part the "
                "last epoch is kept, and nothing stops early"
            )
        ),
    ] = "val_accuracy"
    precision: Annotated[
        Precision,
        Field(
            description="mixed precision in training: auto (bf16 where the processor has it), bf16, fp16 (CUDA) or off"
        ),
    ] = "auto"
    compile: Annotated[
        bool,
        Field(
            description=(
                "fine-tuning steps run through torch.compile: minutes of compiling at most, which may pay on a GPU; "
                "on a CPU the steps are slower than without"
            )
        ),
    ] = False
    engine: Annotated[
        Literal["auto", "torch", "openvino"],
        Field(
            description=(
                "what runs the frozen prefix: torch, openvino (the extra of that name), or auto: the faster of those "
                "that are installed, by a measurement that is remembered"
            )
        ),
    ] = "auto"
    device: Annotated[Device, Field(description="auto (cuda, then mps, then cpu), cpu, cuda or mps")] = "auto"
    budget: Annotated[
        float,
        Field(
            ge=0,
            description=(
                "seconds that the whole command may take; views and epochs are chosen so that it is kept; 0: no limit"
            ),
        ),
    ] = 0.0
    cache_gb: Annotated[
        float,
        Field(
            ge=0,
            description=(
                "decoded images and activations of all runs that are kept for the next one, in 10^9 bytes; 0: none"
            ),
        ),
    ] = 10.0
    seed: Annotated[
        int,
        Field(
            ge=0,
            lt=2**32,
            description="of the split, the head's first weights, the views and the order of the images",
        ),
    ] = 0
