"""The model: a backbone that is split into stages, or several backbones side by side, and a head.

Input: uint8 pixels (N, C, S, S). Output: logits (N, classes). `activations` runs the stages below the freeze boundary,
`forward_from` the stages above it and the head; one after the other they equal `forward`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import nn

from regraft.data.band_values import Bands
from regraft.data.labels import ModelTask, Task
from regraft.data.preprocessing import Preprocessing
from regraft.data.taxonomy import Taxonomy
from regraft.errors import UsageError
from regraft.models.head import Activation, Head
from regraft.models.malloc import keep_freed_memory
from regraft.models.ood import MahalanobisOod
from regraft.models.options import HiddenActivation, ModelOptions, Pooling
from regraft.models.pretrained import build_network, check_image_sizes
from regraft.models.registry import DEFAULT_BACKBONE, BackboneSpec, find_backbone
from regraft.models.run_description import options_of_run
from regraft.models.several_backbones import SeveralBackbones, several_from_config
from regraft.models.staged import StagedNetwork, StageOutput
from regraft.models.stages import Stage, resolve_boundary
from regraft.models.taps import HeadStages, TapPart
from regraft.models.torch_defaults import torch_defaults
from regraft.models.weights import WeightsRecord, architecture_of, build_backbone

if TYPE_CHECKING:
    from regraft.models.summary import Summary

if hasattr(os, "register_at_fork"):
    # A forked process lacks the OpenMP threads of its parent, and PyTorch would wait for them forever (Gunicorn's
    # `--preload`, pools). Its own data loaders do the same.
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))

#: Dropout of an mlp head for `dropout = "auto"`.
_MLP_DROPOUT = 0.2


class Classifier(StagedNetwork):
    """A backbone and a head for named classes.

    Attributes:
        spec: Registry entry of the backbone.
        classes: Class names in the order of the logits.
        taxonomy: Tree above the classes; None without one.
        pool_by: What the groups of images are for each of which it was trained to give one answer; empty: each image
            has its own. The answer of a group is that of the mean of its images' logits.
        preprocessing: Conversion of an image file to the input.
        stages: Stages of the backbone, in order.
        taps: Indices of the stages that the head reads in addition to the last one.
        boundary: Index of the first trainable stage; `len(stages)` if only the head trains.
        weights: Source of the pretrained weights.
        ood: Detector of out-of-distribution images; None before training and without validation images.
        channels_last_maps: Whether the maps of the backbone are (N, H, W, C).
    """

    def __init__(
        self,
        spec: BackboneSpec,
        backbone: nn.Module,
        classes: Sequence[str],
        preprocessing: Preprocessing,
        *,
        pooling: Pooling = "avg",
        head_stages: HeadStages | Mapping[str, Sequence[TapPart]] = "last",
        widths: Sequence[int] = (),
        dropout: float = 0.0,
        activation: Activation = "softmax",
        hidden_activation: HiddenActivation = "relu",
        queries: int = 0,
        task: Task = "classification",
        thresholds: Sequence[float] = (),
        units: tuple[float, float] | None = None,
        half_width: float | None = None,
        ordered: bool = False,
        weights: WeightsRecord | None = None,
        stages: Sequence[Stage] = (),
    ) -> None:
        """Split the backbone into stages, unless they are given, and draw a new head from torch's random state."""
        super().__init__(
            spec, backbone, preprocessing, pooling=pooling, head_stages=head_stages, weights=weights,
            stages=stages or (backbone.stages() if isinstance(backbone, SeveralBackbones) else ()),
        )  # fmt: skip
        keep_freed_memory()  # or each layer of each batch would wait for the system to clear pages
        self.classes = tuple(classes)
        self.taxonomy: Taxonomy | None = None
        self.pool_by = ""
        self.head = Head(
            self.features,
            len(self.classes),
            widths=widths,
            dropout=dropout,
            activation=activation,
            hidden_activation=hidden_activation,
            positions=self.positions,
            queries=queries,
            task=task,
            thresholds=thresholds,
            units=units,
            half_width=half_width,
            ordered=ordered,
        )
        self.ood: MahalanobisOod | None = None
        self.freeze(len(self.stages))
        self.to(memory_format=torch.channels_last)  # twice as fast as the default on a CPU
        self.eval()

    @property
    def task(self) -> Task:
        """Whether an image has one class, any number of them, or a number."""
        return self.head.task

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Probability from which on an image is said to have each class; empty if it has one."""
        return self.head.thresholds

    @property
    def half_width(self) -> float | None:
        """Half the width of the prediction interval about each number; None: there is none."""
        return self.head.half_width

    @property
    def ordered(self) -> bool:
        """Whether the classes have an order, in which `classes` has them."""
        return self.head.ordered

    @property
    def members(self) -> tuple[StagedNetwork, ...]:
        """The backbones if there are several, else ()."""
        return self.backbone.networks() if isinstance(self.backbone, SeveralBackbones) else ()

    @property
    def blocks(self) -> list[slice]:
        """Which of the head's inputs are those of each backbone."""
        return self.backbone.blocks() if isinstance(self.backbone, SeveralBackbones) else [slice(0, self.features)]

    def member(self, index: int) -> Classifier:
        """One of several backbones as a classifier of its own, which shares the backbone's modules.

        Its head is a copy of the part of the head that reads this backbone, so the logits of all members add up to
        those of the model. Raises `UsageError` if the head is an mlp, whose layers have no such parts.
        """
        if self.head.widths:
            raise UsageError(
                "The head is an mlp, which cannot be divided among the backbones. Use model.head = linear."
            )
        network, block = self.members[index], self.blocks[index]
        of_all = self.preprocessing
        one = replace(network.preprocessing, resize=of_all.resize, value_range=of_all.value_range, bands=of_all.bands)
        with torch.random.fork_rng(devices=[]):
            model = Classifier(
                network.spec, network.backbone, self.classes, one, pooling=self.pooling, stages=network.stages,
                head_stages=network.parts_by_stage, dropout=self.head.dropout, activation=self.head.activation,
                task=self.head.task, thresholds=self.head.thresholds, weights=network.weights,
            )  # fmt: skip
        model.to(self.mean.device)
        model.taxonomy = self.taxonomy
        with torch.no_grad():
            model.head.classifier.weight.copy_(self.head.classifier.weight[:, block])
            model.head.classifier.bias.copy_(self.head.classifier.bias / len(self.members))
        return model

    def summary(self) -> Summary:
        """List the layers with output shapes and parameters, as `regraft.summary(model)`; `print` shows a table."""
        from regraft.models.summary import summary_of  # which imports this module

        return summary_of(self)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (N, C, S, S), uint8 or float in 0..255, to logits (N, classes)."""
        return self.forward_from(self.activations(pixels, len(self.stages)), len(self.stages))

    def forward_from(self, inputs: StageOutput, boundary: int) -> torch.Tensor:
        """Run the stages from `boundary` on and the head on `activations(pixels, boundary)`; logits (N, classes)."""
        logits: torch.Tensor = self.head(self.forward_tail(inputs, boundary))
        return logits

    def resolve(self, finetune_from: str | int) -> int:
        """Find the freeze boundary for a name or number, as `regraft.models.stages.resolve_boundary` does.

        For several backbones it is the head, because they are never fine-tuned jointly.
        """
        if self.members:
            return len(self.stages)
        return resolve_boundary(self.stages, finetune_from, preferred=self.spec.finetune_from)

    def freeze(self, boundary: int) -> None:
        """Make the stages from `boundary` on and the head trainable, and freeze the others.

        Where the stages have adapters (`regraft.training.lora`), only these become trainable.
        """
        if not 0 <= boundary <= len(self.stages):
            raise UsageError(f"boundary {boundary}; expected 0 to {len(self.stages)}")
        self.boundary = boundary
        self.backbone.requires_grad_(False)
        adapters = {id(p) for name, p in self.backbone.named_parameters() if ".lora_" in name}
        for stage in self.stages[boundary:]:
            for parameter in stage.parameters():
                parameter.requires_grad_(not adapters or id(parameter) in adapters)

    def train(self, mode: bool = True) -> Classifier:
        """Set the training mode; the frozen stages and every BatchNorm stay in inference mode.

        A BatchNorm in training mode would normalize by the statistics of small batches. Its scale and shift train like
        any parameter, and its statistics remain those of the pretraining. Only a network that `is_from_scratch` has
        none, so it learns them.
        """
        super().train(mode)
        if mode:
            self.backbone.eval()
            for stage in self.stages[self.boundary :]:
                for _, module in stage.modules:
                    module.train()
            for module in () if self.is_from_scratch else self._batch_norms():
                module.eval()
        return self

    @property
    def is_from_scratch(self) -> bool:
        """Whether the network started from random weights and trains as a whole."""
        return self.weights.source == "none" and self.boundary == 0

    @property
    def has_batch_norms(self) -> bool:
        """Whether a layer of the backbone is a BatchNorm."""
        return any(True for _ in self._batch_norms())

    def _batch_norms(self) -> Iterator[nn.modules.batchnorm._BatchNorm]:
        return (m for m in self.backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))

    def trained_tensors(self) -> dict[str, torch.Tensor]:
        """What training changes, by name: the trainable parameters, and from scratch the statistics of BatchNorms."""
        tensors: dict[str, torch.Tensor] = dict(self.trainable_parameters())
        if self.is_from_scratch:
            statistics = {id(value) for norm in self._batch_norms() for value in norm.buffers()}
            tensors |= {n: v for n, v in self.named_buffers() if id(v) in statistics and v.is_floating_point()}
        return tensors

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and values of the trainable parameters."""
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)

    def parameter_count(self) -> int:
        """Number of parameters of backbone and head."""
        return sum(p.numel() for p in self.parameters())

    def megabytes(self) -> float:
        """Size of the weights and statistics in 10^6 bytes."""
        tensors: Iterable[torch.Tensor] = self.state_dict().values()
        return sum(t.numel() * t.element_size() for t in tensors) / 1e6

    def get_config(self) -> dict[str, Any]:
        """Plain values from which `Classifier.from_config` builds the same model, without the weights."""
        of_task: dict[str, Any] = {} if self.head.task == "classification" else {"task": self.head.task}
        if self.head.ordered:
            of_task["ordered"] = True
        if self.head.task == "multilabel":
            of_task["thresholds"] = list(self.head.thresholds)
        if self.head.task == "regression":
            of_task |= {"units": self.head.units and list(self.head.units), "half_width": self.head.half_width}
        several = self.backbone if isinstance(self.backbone, SeveralBackbones) else None
        return {
            "backbone": {
                "name": self.spec.name,
                "timm_name": self.spec.timm_name,
                **({"members": several.get_config()} if several else {}),
            },
            "pooling": self.pooling,
            "head": {
                "stages": self.parts_by_stage,
                "widths": list(self.head.widths),
                "dropout": self.head.dropout,
                "activation": self.head.activation,
                "hidden_activation": self.head.hidden_activation,
                **({"queries": len(self.head.attention.queries)} if self.head.attention else {}),
                **of_task,
            },
            "stages": [stage.name for stage in self.stages],
            "boundary": self.boundary,
            "classes": list(self.classes),
            **({"taxonomy": self.taxonomy.to_json()} if self.taxonomy else {}),
            **({"pool_by": self.pool_by} if self.pool_by else {}),
            "preprocessing": self.preprocessing.to_json(),
            "ood": self.ood.get_config() if self.ood else None,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], weights: WeightsRecord) -> Classifier:
        """Build the model of `get_config` with random weights."""
        spec = find_backbone(config["backbone"]["name"])
        preprocessing = Preprocessing.from_json(config["preprocessing"])
        backbone: nn.Module
        if several := config["backbone"].get("members"):
            backbone = several_from_config(spec, several, config["pooling"], weights)
        else:
            backbone, _ = build_backbone(spec, "none", preprocessing.size, preprocessing.channels)
        options: dict[str, Any] = {"pooling": config["pooling"], "weights": weights, **config["head"]}
        options["head_stages"] = options.pop("stages")
        model = cls(spec, backbone, config["classes"], preprocessing, **options)
        model.taxonomy = Taxonomy.from_json(config.get("taxonomy"), model.classes)
        model.pool_by = config.get("pool_by", "")
        if config["ood"]:
            model.ood = MahalanobisOod(**config["ood"])
        model.freeze(config["boundary"])
        return model


@torch_defaults()
def build(
    backbone: str | os.PathLike[str] = DEFAULT_BACKBONE,
    *,
    classes: Sequence[str],
    task: ModelTask = "classification",
    shorter_side: int = 0,
    seed: int = 0,
    bands: Bands | None = None,
    **options: Any,
) -> Classifier:
    """Build a classifier from a pretrained backbone and a new head.

    Args:
        backbone: A friendly name, any timm name, or the folder of a run, whose backbone, weights, image size and
            resizing are then the defaults.
        classes: Class names in the order of the outputs.
        task: `classification` for one class of each image, `multilabel` for any number of them, or `regression` for a
            number, of which `classes` has the name of the quantity alone (`Dataset.task`); or `ordinal` for one of
            classes that have an order, lowest first (`Dataset.ordered`).
        shorter_side: Shorter side of the images in pixels (`Dataset.shorter_side`); it lowers the image size for tiny
            images unless `image_size` is given. 0: unknown.
        seed: Seed of the head's initial weights (and of the backbone's with `weights="none"`).
        bands: Bands of the images that are the channels (`Dataset.bands`); the first convolution then takes as many.
            None: gray and colors.
        **options: Fields of `ModelOptions`.

    Raises:
        UnknownNameError: The backbone is unknown.
        WeightsError: The weights are not available or do not fit.
        UsageError: There are fewer than two classes (of several labels: none; of numbers not one), two have the same
            name, or the image size does not fit.

    Examples:
        >>> model = regraft.build("efficientnet_lite0", classes=parts.classes, image_size=64)
        >>> model.classes
        ('daisy', 'rose', 'tulip')
    """
    backbone = os.fspath(backbone) if isinstance(backbone, os.PathLike) else backbone
    if isinstance(options.get("weights"), os.PathLike):
        options["weights"] = os.fspath(options["weights"])
    chosen = ModelOptions(**{"backbone": backbone, **options_of_run(backbone), **options})
    if isinstance(classes, (int, str)):
        raise UsageError(f"classes = {classes!r}; expected the names of the classes, such as split.classes.")
    if task not in get_args(ModelTask):
        raise UsageError(f"task = {task!r}; expected {' or '.join(get_args(ModelTask))}.")
    if task == "regression" and len(classes) != 1:
        raise UsageError(f"classes = {list(classes)}; expected one name for the task regression: what the number is.")
    least = 2 if task in ("classification", "ordinal") else 1
    if len(classes) < least or len(set(classes)) < len(classes):
        raise UsageError(f"classes = {list(classes)}; expected at least {('one', 'two')[least - 1]} different names.")
    spec = architecture_of(find_backbone(chosen.backbone), chosen.weights)
    check_image_sizes(spec, chosen.image_size)
    if spec.members and task == "ordinal":
        raise UsageError("A model of several backbones is for classes without an order. Use one backbone.")
    if spec.members and chosen.pooling == "attention":
        raise UsageError(f"pooling = attention reads one map, and {spec.name} has several. Choose avg or max.")
    head_stages = chosen.head_stages
    if head_stages == "auto":
        head_stages = "upper" if chosen.head == "linear" and chosen.pooling == "avg" else "last"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, record, preprocessing = build_network(spec, chosen, head_stages, shorter_side, bands)
        head: dict[str, Any] = {"pooling": chosen.pooling, "head_stages": head_stages}
        head |= {"ordered": True} if task == "ordinal" else {"task": task}
        if task in ("multilabel", "regression"):
            head["activation"] = "sigmoid" if task == "multilabel" else "linear"
        if chosen.head == "mlp":
            head |= {"widths": chosen.head_widths, "hidden_activation": chosen.head_activation}
        head["dropout"] = chosen.dropout if chosen.dropout != "auto" else _MLP_DROPOUT if chosen.head == "mlp" else 0.0
        try:
            return Classifier(spec, network, classes, preprocessing, weights=record, **head)
        except RuntimeError as error:  # torch's, from the first pass
            raise UsageError(
                f"{spec.name} cannot process images of {preprocessing.named_size} pixels: {error}. "
                "Choose a larger image_size."
            ) from error
