"""Settings of a training, with their defaults."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from regraft.evaluation.multilabel.thresholds import read_purpose
from regraft.option_errors import usage_errors
from regraft.synonyms import canonical, spelled_like

Optimizer = Literal["adamw", "adam", "rmsprop", "sgd"]
HeadOptimizer = Literal["lbfgs", "adamw", "adam", "rmsprop", "sgd"]
Loss = Literal[
    "cross_entropy", "binary_cross_entropy", "asymmetric", "squared_error", "huber", "absolute_error"
]  # fmt: skip
AskedLoss = Literal[
    "auto", "cross_entropy", "binary_cross_entropy", "asymmetric", "squared_error", "huber", "absolute_error"
]
FinetuneMethod = Literal["full", "lora"]
Schedule = Literal["cosine", "constant"]
OutputActivation = Literal["auto", "softmax", "sigmoid"]
KeepEpoch = Literal["auto", "best", "last"]
ClassWeights = Literal["none", "balanced"] | dict[str, float]
Monitor = Literal["auto", "val_loss", "val_accuracy", "val_macro_f1", "val_quadratic_kappa"]
Precision = Literal["auto", "bf16", "fp16", "int8", "fastest", "off"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Sharding = Literal["none", "fsdp"]
FeatureCache = Literal["auto", "memory", "disk", "none"]

#: The losses and precisions of Keras and PyTorch by name.
_LOSSES = {
    **dict.fromkeys(("categoricalcrossentropy", "sparsecategoricalcrossentropy"), "cross_entropy"),
    **dict.fromkeys(("binarycrossentropy", "bce", "bcewithlogitsloss"), "binary_cross_entropy"),
    "crossentropyloss": "cross_entropy",
    **dict.fromkeys(("asymmetricloss", "asl"), "asymmetric"),
    **dict.fromkeys(("meansquarederror", "mse", "mseloss"), "squared_error"),
    **dict.fromkeys(("meanabsoluteerror", "mae", "l1loss"), "absolute_error"),
    **dict.fromkeys(("huberloss", "smoothl1loss"), "huber"),
}
_PRECISIONS = {
    **dict.fromkeys(("mixedfloat16", "float16"), "fp16"),
    **dict.fromkeys(("mixedbfloat16", "bfloat16"), "bf16"),
    **dict.fromkeys(("float32", "fp32"), "off"),
}
_MONITORS = {"valacc": "val_accuracy", "valf1": "val_macro_f1", "valf1score": "val_macro_f1"}

_HEAD_OPTIMIZER = (
    "lbfgs (exact fit of a linear head without dropout; adamw trains any other head), adamw, adam, rmsprop or sgd"
)
_HEAD_EPOCHS = "epochs of the head phase; 0: no head phase; lbfgs has no epochs, and only 0 matters to it"
_FINETUNE_MIN_STEPS = (
    "fewest steps of fine-tuning: few images get more epochs than finetune_epochs, at most 100, averaged over 30 % of "
    "them; 0, also where finetune_epochs alone is given: just these"
)
_REFIT = (
    "fit a linear head that is not fine-tuned again, at the end, on training and validation images together; scores on "
    "the validation images are those of the head before"
)
_FINETUNE_FROM = (
    "first trainable stage: auto, last, none, all, a stage or layer name, 100 (freeze 100 layers) or -20 (train the "
    "last 20)"
)
_FINETUNE_LR = "highest learning rate of fine-tuning; 0: the best of 1e-4, 3e-4, 1e-3 and 3e-3 after one epoch each"
_FINETUNE_METHOD = (
    "full (all weights of the trainable stages), or lora (low-rank adapters of a transformer's linear layers; an extra)"
)
_KEEP_FINETUNED = (
    "if_better: keep fine-tuning only if it lowers the validation loss; if_clear: by more than one standard error; "
    "always"
)
_KEEP_EPOCH = (
    "epoch of each phase whose weights are kept: best, last, or auto (the best, and with a cosine schedule a later one "
    "that is worse by less than its standard error)"
)
_LOSS = (
    "cross_entropy, binary_cross_entropy (each class against the rest), asymmetric (of several labels: images that "
    "clearly lack a class count less); of numbers squared_error, huber (of errors above one standard deviation of the "
    "numbers the absolute one) or absolute_error; or auto: the first of the task"
)
_OUTPUT_ACTIVATION = (
    "activation of the last layer: softmax, sigmoid (each class against the rest), or auto (sigmoid for "
    "binary_cross_entropy, else softmax)"
)
_CLASS_WEIGHTS = (
    "weights of the classes in the loss: none, balanced (every class has the same), or a table of numbers by name or "
    "index of the class, where the others have 1"
)
_VIEWS = (
    "cached views of each training image, the plain one included, above a frozen prefix; 0: 8 before fine-tuning, 1 "
    "for the head alone"
)
_THRESHOLDS = (
    "of several labels: what the probability from which on an image is said to have a class is chosen for, on the "
    "validation images: f1 (the highest F1 of each class), or precision=0.9 (at least this share of the answers for "
    "each class is right)"
)
_MONITOR = (
    "metric of the best epoch: val_loss (always that of numbers), val_accuracy, val_macro_f1 or, of classes with an "
    "order, val_quadratic_kappa; auto: val_accuracy, of several labels val_loss; without a val part the last epoch is "
    "kept"
)
_PRECISION = (
    "mixed precision: auto (bf16 where the processor has it), bf16, fp16 (CUDA), off, int8 (auto, and on a CPU the "
    "training images pass the frozen layers in 8 bits, an extra, unless cross-validation is less accurate), or fastest "
    "(int8 where it is measured to be clearly faster, too)"
)
_COMPILE = (
    "run fine-tuning steps through torch.compile: minutes of compilation, which can pay on a GPU and not on a CPU"
)
_BACKEND = "backend of the frozen prefix: torch, openvino (an extra), or auto: the faster by a remembered measurement"
_BUDGET = "seconds for the whole command, by which views and epochs are chosen; 0: no limit"
_FEATURE_CACHE = (
    "where the outputs of the frozen layers are kept: memory, disk, none (they run at every step, on new views), or "
    "auto (what fits and is fastest)"
)
_SHARDING = (
    "what several processes divide while fine-tuning beside the images: none, or fsdp (weights, gradients and state of "
    "the optimizer, for backbones whose training does not fit on one GPU)"
)
_MEMORY_GB = "memory for features and outputs of frozen layers, in 10^9 bytes; 0: half of what this process may use"
_CACHE_GB = "largest size of the cache of images, activations and features of all runs, in 10^9 bytes; 0: no cache"


def read_class_weights(value: Any) -> Any:
    """Return `{0: 1, "dog": 3}`, `"0=1,dog=3"` or `"{0: 1, dog: 3}"` as numbers by text, and `"Balanced"` as balanced.

    Raises `ValueError` for a weight that is no finite number above 0.
    """
    if value is None:
        return "none"
    if isinstance(value, str):
        if (name := canonical(value, ("none", "balanced"))) in ("none", "balanced"):
            return name
        pairs = [re.split(r"[=:](?=[^=:]*$)", pair) for pair in value.strip("{} ").split(",") if pair.strip()]
        named = {pair[0].strip(" '\""): pair[-1].strip() for pair in pairs if len(pair) == 2}
        value = named if len(named) == len(pairs) else None
    if not isinstance(value, Mapping):
        raise ValueError("expected none, balanced, or weights by class such as cat=1,dog=3")
    weights: dict[str, float] = {}
    for name, weight in value.items():
        try:
            weights[str(name)] = float(weight)
        except (TypeError, ValueError):
            weights[str(name)] = math.nan
        if not 0 < weights[str(name)] < math.inf:
            raise ValueError(f"the weight of {name} is {weight!r}; expected a number above 0")
    return weights


@usage_errors
@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class TrainingOptions:
    """Settings of the head phase, of fine-tuning, and of both."""

    head_optimizer: Annotated[
        HeadOptimizer, BeforeValidator(spelled_like(HeadOptimizer)), Field(description=_HEAD_OPTIMIZER)
    ] = "lbfgs"
    head_epochs: Annotated[int, Field(ge=0, le=10_000, description=_HEAD_EPOCHS)] = 20
    head_lr: Annotated[float, Field(gt=0, description="highest learning rate of the head phase (not for lbfgs)")] = 1e-3
    finetune_from: Annotated[str | int, Field(description=_FINETUNE_FROM)] = "auto"
    finetune_epochs: Annotated[int, Field(ge=0, le=10_000, description="epochs of fine-tuning")] = 10
    finetune_min_steps: Annotated[int, Field(ge=0, description=_FINETUNE_MIN_STEPS)] = 200
    finetune_lr: Annotated[float, Field(ge=0, description=_FINETUNE_LR)] = 5e-4
    finetune_method: Annotated[
        FinetuneMethod,
        BeforeValidator(spelled_like(FinetuneMethod, peft="lora")),
        Field(description=_FINETUNE_METHOD),
    ] = "full"
    lora_rank: Annotated[int, Field(ge=1, le=1024, description="rank of the adapters of finetune_method = lora")] = 16
    lora_alpha: Annotated[
        float, Field(gt=0, description="scale of the adapters: what they add is multiplied by lora_alpha / lora_rank")
    ] = 16.0
    keep_finetuned: Annotated[Literal["if_better", "if_clear", "always"], Field(description=_KEEP_FINETUNED)] = (
        "if_better"
    )
    keep_epoch: Annotated[KeepEpoch, BeforeValidator(spelled_like(KeepEpoch)), Field(description=_KEEP_EPOCH)] = "auto"
    optimizer: Annotated[
        Optimizer,
        BeforeValidator(spelled_like(Optimizer)),
        Field(description="optimizer of fine-tuning: adamw, adam, rmsprop or sgd"),
    ] = "adamw"
    momentum: Annotated[float, Field(ge=0, lt=1, description="momentum of sgd, by Nesterov's method; 0: none")] = 0.9
    weight_decay: Annotated[float, Field(ge=0, description="weight decay, except of biases and norms")] = 0.05
    layer_decay: Annotated[
        float, Field(gt=0, le=1, description="factor of the learning rate from each fine-tuned stage to the one below")
    ] = 1.0
    ema_epochs: Annotated[
        float, Field(ge=0, description="epochs over which the fine-tuned weights are averaged; 0: no average")
    ] = 1.0
    batch_size: Annotated[int, Field(ge=1, description="images per training step")] = 32
    steps_per_epoch: Annotated[
        int, Field(ge=0, description="training steps per epoch; 0: one pass over the training images")
    ] = 0
    views: Annotated[int, Field(ge=0, le=256, description=_VIEWS)] = 0
    loss: Annotated[AskedLoss, BeforeValidator(spelled_like(AskedLoss, **_LOSSES)), Field(description=_LOSS)] = "auto"
    output_activation: Annotated[
        OutputActivation, BeforeValidator(spelled_like(OutputActivation)), Field(description=_OUTPUT_ACTIVATION)
    ] = "auto"
    custom_loss: Annotated[
        str, Field(description="name of a loss function, which only Python can give (loss=FUNCTION); empty: none")
    ] = ""
    label_smoothing: Annotated[
        float, Field(ge=0, lt=1, description="share of the target that is spread over all classes")
    ] = 0.1
    class_weights: Annotated[ClassWeights, BeforeValidator(read_class_weights), Field(description=_CLASS_WEIGHTS)] = (
        "none"
    )
    schedule: Annotated[
        Schedule,
        BeforeValidator(spelled_like(Schedule)),
        Field(description="learning rate after the warm-up: cosine or constant"),
    ] = "cosine"
    warmup: Annotated[
        float, Field(ge=0, lt=1, description="share of the steps in which the learning rate rises from zero")
    ] = 0.2
    early_stopping: Annotated[
        int, Field(ge=0, description="epochs without improvement after which a phase stops; 0: never")
    ] = 0
    reduce_on_plateau: Annotated[
        int, Field(ge=0, description="epochs without improvement after which the learning rate is divided; 0: never")
    ] = 0
    plateau_factor: Annotated[
        float, Field(gt=1, description="divisor of the learning rate on a plateau; 10 is Keras's factor = 0.1")
    ] = 10.0
    monitor: Annotated[Monitor, BeforeValidator(spelled_like(Monitor, **_MONITORS)), Field(description=_MONITOR)] = (
        "auto"
    )
    thresholds: Annotated[str, BeforeValidator(read_purpose), Field(description=_THRESHOLDS)] = "f1"
    refit: Annotated[bool, Field(description=_REFIT)] = False
    precision: Annotated[
        Precision,
        BeforeValidator(spelled_like(Precision, **_PRECISIONS)),
        Field(description=_PRECISION),
    ] = "auto"
    compile: Annotated[bool, Field(description=_COMPILE)] = False
    prefix_backend: Annotated[Literal["auto", "torch", "openvino"], Field(description=_BACKEND)] = "auto"
    device: Annotated[
        Device,
        BeforeValidator(spelled_like(Device, gpu="cuda")),
        Field(description="auto (cuda, then mps, then cpu), cpu, cuda or mps"),
    ] = "auto"
    budget: Annotated[float, Field(ge=0, description=_BUDGET)] = 0.0
    cache_gb: Annotated[float, Field(ge=0, description=_CACHE_GB)] = 10.0
    feature_cache: Annotated[
        FeatureCache, BeforeValidator(spelled_like(FeatureCache)), Field(description=_FEATURE_CACHE)
    ] = "auto"
    sharding: Annotated[
        Sharding, BeforeValidator(spelled_like(Sharding, fsdp2="fsdp", fullyshard="fsdp")), Field(description=_SHARDING)
    ] = "none"
    memory_gb: Annotated[float, Field(ge=0, description=_MEMORY_GB)] = 0.0
    seed: Annotated[
        int,
        Field(ge=0, lt=2**32, description="seed of the split, the initial head, the views and the order of the images"),
    ] = 0
