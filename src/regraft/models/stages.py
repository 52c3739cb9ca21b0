"""Split a timm model into stages, so that a frozen prefix and a trainable tail can run separately.

The split is accepted only if the stages give the model's output; otherwise the model becomes one stage.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import methodcaller
from typing import Any

import torch
from torch import nn

from regraft.errors import UnknownNameError, UsageError

#: Names of the children with which the head of a timm model begins.
_HEAD_STARTS = (
    "head", "fc", "classifier", "pre_logits", "global_pool", "attn_pool", "head_drop", "fc_norm", "last_linear"
)  # fmt: skip
#: Modules that do not count as layers, in `regraft summary` and in boundaries given as numbers.
_NOT_LAYERS = (nn.Identity, nn.Dropout, nn.Sequential, nn.ModuleList)
#: Errors of a child that is not called with the previous child's output alone.
_MISMATCH = (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, NotImplementedError)


@dataclass(frozen=True)
class Stage:
    """A part of a backbone: a function of the previous stage's output; modules have their names in the backbone."""

    name: str  # as in timm's state dict (`blocks.5.0`) or Keras (`block5_conv1`)
    forward: Callable[[torch.Tensor], torch.Tensor]
    modules: tuple[tuple[str, nn.Module], ...]
    shape: tuple[int, ...] = ()  # of the output for one image, without the batch axis
    aliases: tuple[str, ...] = ()  # other accepted names
    parameters_outside_modules: tuple[tuple[str, nn.Parameter], ...] = ()  # such as a transformer's positions

    def layers(self) -> Iterator[tuple[str, nn.Module]]:
        """Layers in order: modules with parameters of their own or without children."""
        for name, module in self.modules:
            for inner, layer in module.named_modules(prefix=name):
                own = any(True for _ in layer.parameters(recurse=False))
                if own or not (isinstance(layer, _NOT_LAYERS) or any(True for _ in layer.children())):
                    yield inner, layer

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters of the stage."""
        yield from (parameter for _, parameter in self.parameters_outside_modules)
        for _, module in self.modules:
            yield from module.parameters()


def split_stages(model: Any, input_shape: tuple[int, int], *, pooling: str = "avg", channels: int = 3) -> list[Stage]:
    """Split a timm model, created with `num_classes=0`, into stages; its mode does not change.

    Running them in order on normalized images (N, C, H, W), where `input_shape` is (H, W) and `channels` is C, gives
    features (N, F). With `pooling` `avg` the last stage is the model's own pooling to a vector, with `max` the maximum
    of each channel over the positions or tokens, with `flatten` the flattened map, and with `attention`, which is up to
    the head, the channels of each position or patch one after the other. Raises UsageError if there are no positions
    for attention.
    """
    was_training = model.training
    model.eval()
    parameter = next(model.parameters())
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        images = torch.randn(1, channels, *input_shape, device=parameter.device, dtype=parameter.dtype)
        expected = model.forward_features(images)
        parts = _split_transformer(model) or _split_chain(model, images)
        if parts is None or not _all_close(_run(parts, images), expected):
            parts = [Stage("features", model.forward_features, _feature_children(model))]
        stages, outputs = [], images
        for part in _merge_unweighted(parts):
            outputs = part.forward(outputs)
            stages.append(replace(part, shape=tuple(outputs.shape[1:])))
        part = _pooling_stage(model, pooling, outputs.ndim)
        stages.append(replace(part, shape=tuple(part.forward(outputs).shape[1:])))
    stages[0] = replace(stages[0], parameters_outside_modules=tuple(model.named_parameters(recurse=False)))
    model.train(was_training)
    return _with_keras_names(model, stages)


def resolve_boundary(stages: Sequence[Stage], wanted: str | int, *, preferred: str | None = None) -> int:
    """Find the freeze boundary: the index of the first trainable stage; `len(stages)` if only the head trains.

    `wanted` is `none` (only the head trains), `all`, `auto` (`preferred`, else the stages of the last two resolutions),
    `last` (the stages of the last resolution, or the last sixth of a transformer), the name of a stage or of a layer,
    or a number of layers: 100 freezes the first 100 as in Keras's `layers[:100]`, -20 trains the last 20. A boundary
    within a stage moves to its start. Raises UnknownNameError for an unknown name, and UsageError for a number larger
    than that of the layers.
    """
    if isinstance(wanted, str) and re.fullmatch(r"-?\d+", wanted):
        wanted = int(wanted)
    if isinstance(wanted, int):
        return _boundary_by_number(stages, wanted)
    if wanted == "none":
        return len(stages)
    if wanted == "all":
        return 0
    if wanted == "auto":
        return _last_resolutions(stages, 2) if preferred is None else resolve_boundary(stages, preferred)
    if wanted == "last":
        return _last_resolutions(stages, 1)
    for index, stage in enumerate(stages):
        if any(name == wanted or name.startswith(f"{wanted}.") for name in (stage.name, *stage.aliases)):
            return index
    for index, stage in enumerate(stages):
        inner = {name for name, module in stage.modules for name, _ in module.named_modules(prefix=name)}
        if wanted in inner or any(wanted.startswith(f"{alias}_") for alias in stage.aliases):
            return index
    names = [name for stage in stages for name in (stage.name, *stage.aliases)]
    raise UnknownNameError("stage", wanted, names, "Also: none, all, auto, last, or a number of layers.")


def ends_of_resolutions(stages: Sequence[Stage]) -> list[int]:
    """Indices of the stages before a change of shape, rising; [] for a transformer, whose blocks have equal shapes."""
    body = [index for index, stage in enumerate(stages[:-1]) if len(stage.shape) > 1]
    return [index for index in body[:-1] if stages[index].shape != stages[index + 1].shape]


def is_transformer(model: nn.Module) -> bool:
    """Whether a timm model is a ViT or EVA, which are cut into blocks of tokens."""
    return type(model).__name__ in ("VisionTransformer", "Eva")


def _boundary_by_number(stages: Sequence[Stage], number: int) -> int:
    counts = [sum(1 for _ in stage.layers()) for stage in stages]
    total = sum(counts)
    if abs(number) > total:
        raise UsageError(f"finetune_from = {number}, but the backbone has {total} layers.")
    frozen = number if number >= 0 else total + number
    ends = itertools.accumulate(counts)
    return next((index for index, end in enumerate(ends) if frozen < end), len(stages))


def _last_resolutions(stages: Sequence[Stage], count: int) -> int:
    """Index of the last or last but one reduction of the map's size; of a transformer, of the last sixths."""
    maps = [index for index, stage in enumerate(stages) if len(stage.shape) == 3]
    reductions = [i for i in maps[1:] if min(stages[i].shape[1:]) < min(stages[i - 1].shape[1:])]
    if reductions:
        return reductions[-count:][0]
    return max(0, len(stages) - 1 - round(len(stages) * count / 6))


def _module_stage(name: str, module: nn.Module) -> Stage:
    return Stage(name, module, ((name, module),))


def _feature_children(model: nn.Module) -> tuple[tuple[str, nn.Module], ...]:
    """The children that `forward_features` runs."""
    return tuple(itertools.takewhile(lambda child: child[0] not in _HEAD_STARTS, model.named_children()))


def _run(stages: Sequence[Stage], inputs: torch.Tensor) -> torch.Tensor:
    for stage in stages:
        inputs = stage.forward(inputs)
    return inputs


def _all_close(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-4, atol=1e-5)


def _split_chain(model: nn.Module, images: torch.Tensor) -> list[Stage] | None:
    """The children in order, with containers split as far as possible; None if they are not a chain."""
    stages: list[Stage] = []
    values = images
    try:
        for name, child in _feature_children(model):
            parts, values = _split_container(name, child, values)
            stages += parts
    except _MISMATCH:
        return None
    return stages


def _split_container(name: str, module: nn.Module, inputs: torch.Tensor) -> tuple[list[Stage], torch.Tensor]:
    """Stages of a module and its output: those of its children where they are a chain, else the module itself."""
    expected = module(inputs.clone())
    whole = [_module_stage(name, module)], expected
    children = list(module.named_children())
    if not children or not (isinstance(module, nn.Sequential) or any(inner == "blocks" for inner, _ in children)):
        return whole
    stages: list[Stage] = []
    values = inputs
    try:
        for inner, child in children:
            parts, values = _split_container(f"{name}.{inner}", child, values)
            stages += parts
    except _MISMATCH:
        return whole
    return (stages, expected) if _all_close(values, expected) else whole


def _merge_unweighted(stages: Sequence[Stage]) -> list[Stage]:
    """Merge norms, activations and pools into the stage before them."""
    merged: list[Stage] = []
    for stage in stages:
        weighted = any(p.ndim > 1 for _, module in stage.modules for p in module.parameters())
        if merged and not weighted:
            last = merged.pop()
            stage = Stage(last.name, _Composed(last.forward, stage.forward), last.modules + stage.modules)
        merged.append(stage)
    return merged


@dataclass(frozen=True)
class _Composed:
    first: Callable[[torch.Tensor], torch.Tensor]
    second: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(inputs))


def _pooling_stage(model: Any, pooling: str, axes: int) -> Stage:
    channels_first = axes == 4 and not str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC")
    if pooling == "max":
        return Stage("pool", methodcaller("amax", (2, 3) if channels_first else tuple(range(1, axes - 1))), ())
    if pooling == "flatten":
        return Stage("flatten", methodcaller("flatten", 1), ())
    if pooling == "attention":
        if axes < 3:
            raise UsageError(
                "pooling = attention, but this backbone ends in a vector, not in a map or in patches. Choose avg."
            )
        return Stage("positions", partial(_positions, getattr(model, "num_prefix_tokens", 0), channels_first), ())
    if type(model).__name__ == "VGG":
        # Without its two 4096-wide layers, like Keras's `include_top=False`.
        return Stage("pool", methodcaller("mean", (2, 3)), ())
    # Some families have convolutions or norms after their pooling.
    head = itertools.dropwhile(lambda child: child[0] not in _HEAD_STARTS, model.named_children())
    modules = tuple((name, child) for name, child in head if any(True for _ in child.parameters()))
    return Stage("pool", partial(model.forward_head, pre_logits=True), modules)


def _positions(prefix: int, channels_first: bool, outputs: torch.Tensor) -> torch.Tensor:
    """A map (N, C, H, W) or (N, H, W, C), or tokens (N, P, C) without the first, as vectors (N, H W C) or (N, P C)."""
    if channels_first:
        outputs = outputs.permute(0, 2, 3, 1)
    return outputs[:, prefix:].flatten(1) if outputs.ndim == 3 else outputs.flatten(1)


def _split_transformer(model: nn.Module) -> list[Stage] | None:
    """Tokens with positions, blocks and norm of ViT and EVA; None for other architectures."""
    if not is_transformer(model):
        return None
    children = dict(model.named_children())
    first = ("patch_embed", "pos_drop", "patch_drop", "norm_pre", "rope")
    modules = tuple((name, children[name]) for name in first if name in children)
    blocks = list(children["blocks"].named_children())
    stages = [Stage("patch_embed", _Tokens(model), modules)]
    for i, (name, block) in enumerate(blocks):
        stage = _module_stage(f"blocks.{name}", block)
        stages.append(replace(stage, forward=_EvaBlock(model, block, i)) if type(model).__name__ == "Eva" else stage)
    return [*stages, _module_stage("norm", children["norm"])]


@dataclass(frozen=True)
class _Tokens:
    model: Any

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.model._pos_embed(self.model.patch_embed(images))
        # EVA returns its rotary positions too, and has dropped patches already.
        tokens = tokens[0] if isinstance(tokens, tuple) else self.model.patch_drop(tokens)
        out: torch.Tensor = self.model.norm_pre(tokens)
        return out


@dataclass(frozen=True)
class _EvaBlock:
    """A block with its rotary positions, which depend on the grid but not on the image."""

    model: Any
    block: nn.Module
    index: int

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        rope = getattr(self.model, "rope", None)
        positions = None if rope is None else rope.get_embed(shape=self.model.patch_embed.grid_size)
        if positions is not None and getattr(self.model, "rope_mixed", False):
            positions = positions[self.index]
        out: torch.Tensor = self.block(tokens, rope=positions)
        return out


def _with_keras_names(model: nn.Module, stages: list[Stage]) -> list[Stage]:
    """Add the stage names of Keras's models."""
    architecture = type(model).__name__
    named: list[Stage] = []
    block, convolution, inverted = 1, 0, 0
    for stage in stages:
        name, aliases = stage.name, stage.aliases
        if architecture == "VGG" and name.startswith("features."):
            convolution += 1
            name, aliases = f"block{block}_conv{convolution}", (name,)
            if any(isinstance(module, nn.MaxPool2d) for _, module in stage.modules):
                aliases = (*aliases, f"block{block}_pool")
                block, convolution = block + 1, 0
        elif architecture == "ResNet" and (match := re.fullmatch(r"layer(\d)\.(\d+)", name)):
            aliases = (f"conv{int(match[1]) + 1}_block{int(match[2]) + 1}",)
        elif architecture in ("EfficientNet", "MobileNetV3") and (match := re.fullmatch(r"blocks\.(\d+)\.(\d+)", name)):
            # Keras numbers an EfficientNet's stages and letters its blocks; it numbers all blocks of a MobileNet.
            aliases = (f"block{int(match[1]) + 1}{chr(ord('a') + int(match[2]))}", f"block_{inverted}")
            inverted += 1
        named.append(replace(stage, name=name, aliases=aliases))
    return named
