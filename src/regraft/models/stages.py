"""Cut a backbone into stages, so that it can be run in two pieces at any of them.

Enters: a timm model. Leaves: its stages in the order that data flows, each a function of the one before alone. A
chain is accepted only after it gave the same output as the whole; a model that is no chain becomes one stage.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from regraft.errors import UnknownNameError, UsageError

#: Where timm's models end their maps: the child of one of these names, and all after it, belong to the head.
_HEAD_STARTS = frozenset(
    {"head", "fc", "classifier", "pre_logits", "global_pool", "head_drop", "fc_norm", "last_linear"}
)
#: Modules that `regraft summary` does not count as layers.
_NO_LAYERS = (nn.Identity, nn.Dropout, nn.Sequential, nn.ModuleList)


@dataclass(frozen=True)
class Stage:
    """A piece of a backbone.

    Attributes:
        name: As in timm's state dict (`blocks.5.0`), or the familiar one (`block5_conv1`).
        forward: Output of the stage before -> output of this one.
        modules: The modules that it runs, by their names in the backbone.
        shape: Of its output for one image, without the batch.
        aliases: Other names that people know it by.
        loose: Parameters that belong to no module, such as a transformer's positions, by their names in the backbone.
    """

    name: str
    forward: Callable[[torch.Tensor], torch.Tensor]
    modules: tuple[tuple[str, nn.Module], ...]
    shape: tuple[int, ...] = ()
    aliases: tuple[str, ...] = ()
    loose: tuple[tuple[str, nn.Parameter], ...] = ()

    def layers(self) -> Iterator[tuple[str, nn.Module]]:
        """Its convolutions, norms, activations and so on, in order: what has weights of its own, or no children."""
        for name, module in self.modules:
            for inner, part in module.named_modules(prefix=name):
                own = any(True for _ in part.parameters(recurse=False))
                if own or not (isinstance(part, _NO_LAYERS) or any(True for _ in part.children())):
                    yield inner, part

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its parameters."""
        yield from (parameter for _, parameter in self.loose)
        for _, module in self.modules:
            yield from module.parameters()


def cut(model: nn.Module, image_size: int, *, pooling: str = "avg") -> list[Stage]:
    """Cut a timm model, created with `num_classes=0`, into stages.

    Args:
        model: The backbone; it is left in the mode that it was in.
        image_size: Side of the images in pixels.
        pooling: `avg` ends with the model's own pooling to a vector, `flatten` with the flattened map.

    Returns:
        The stages; running them one after the other on normalised images (N, 3, S, S) gives features (N, F).
    """
    was_training = model.training
    model.eval()
    parameter = next(model.parameters())
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        images = torch.randn(1, 3, image_size, image_size, device=parameter.device, dtype=parameter.dtype)
        whole = model.forward_features(images)  # type: ignore[operator]  # timm's, unknown to nn.Module
        pieces = _transformer_pieces(model) or _chain_pieces(model, images)
        if pieces is None or not _same(_run(pieces, images), whole):
            features = model.forward_features
            pieces = [_Piece("features", features, _body(model))]  # type: ignore[arg-type]  # timm's, as above
        pieces = _joined(pieces)
        pieces.append(_last_piece(model, pooling))
        stages, outputs = [], images
        for piece in pieces:
            outputs = piece.forward(outputs)
            stages.append(Stage(piece.name, piece.forward, piece.modules, tuple(outputs.shape[1:])))
    loose = tuple(model.named_parameters(recurse=False))
    if loose:
        stages[0] = replace(stages[0], loose=loose)
    model.train(was_training)
    return _familiar(model, stages)


def resolve_boundary(stages: Sequence[Stage], wanted: str | int, *, preferred: str | None = None) -> int:
    """Find the freeze boundary: the index of the first stage that trains.

    Args:
        stages: From `cut`.
        wanted: `none` (only the head trains), `all`, `auto`, `last` (the stages of the last resolution; of a
            transformer, the last sixth), the name of a stage or of a layer within one, or a number
            of layers: 100 freezes the first 100 as in Keras's `layers[:100]`, -20 trains the last 20. A boundary
            within a stage moves to the start of that stage.
        preferred: What `auto` means for this backbone, if it is known.

    Returns:
        0 (all stages train) to `len(stages)` (none does).

    Raises:
        UnknownNameError: No stage or layer has this name.
        UsageError: The number is larger than the number of layers.
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
        if preferred is not None:
            return resolve_boundary(stages, preferred)
        return _last_resolutions(stages, 2)
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


def upper_stages(stages: Sequence[Stage], count: int = 4) -> tuple[int, ...]:
    """The stages that a head may read beside the last: the ends of the last runs of equal shape, without the very last.

    Args:
        stages: From `cut`.
        count: At most.

    Returns:
        Indices in rising order, none in the lowest third; of a transformer, whose blocks all have one shape, blocks at
        a half, two thirds and five sixths of its depth; none where the backbone is a single stage.
    """
    body = [index for index, stage in enumerate(stages[:-1]) if len(stage.shape) > 1]
    ends = [i for i in body[len(body) // 3 : -1] if stages[i].shape != stages[i + 1].shape]
    if not ends and len(body) >= 6:
        ends = [body[len(body) * sixths // 6] for sixths in (3, 4, 5)]
    return tuple(ends[-count:])


def _boundary_by_number(stages: Sequence[Stage], number: int) -> int:
    counts = [sum(1 for _ in stage.layers()) for stage in stages]
    total = sum(counts)
    if abs(number) > total:
        raise UsageError(f"finetune_from = {number}, but the backbone has {total} layers.")
    frozen = number if number >= 0 else total + number
    if frozen == total:
        return len(stages)
    passed = 0
    for index, count in enumerate(counts):
        passed += count
        if frozen < passed:
            return index
    return len(stages)


def _last_resolutions(stages: Sequence[Stage], count: int) -> int:
    """Where the maps become smaller for the last time, or the last but one; of a transformer, the last sixths."""
    maps = [index for index, stage in enumerate(stages) if len(stage.shape) == 3]
    reductions = [i for i in maps[1:] if min(stages[i].shape[1:]) < min(stages[i - 1].shape[1:])]
    if reductions:
        return reductions[-count:][0]
    return max(0, len(stages) - 1 - round(len(stages) * count / 6))


@dataclass(frozen=True)
class _Piece:
    name: str
    forward: Callable[[torch.Tensor], torch.Tensor]
    modules: tuple[tuple[str, nn.Module], ...]


def _module_piece(name: str, module: nn.Module) -> _Piece:
    return _Piece(name, module, ((name, module),))


def _body(model: nn.Module) -> tuple[tuple[str, nn.Module], ...]:
    """The children that `forward_features` runs."""
    return tuple(itertools.takewhile(lambda child: child[0] not in _HEAD_STARTS, model.named_children()))


def _run(pieces: Sequence[_Piece], inputs: torch.Tensor) -> torch.Tensor:
    for piece in pieces:
        inputs = piece.forward(inputs)
    return inputs


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def _chain_pieces(model: nn.Module, images: torch.Tensor) -> list[_Piece] | None:
    """The children in order, containers opened as far as they are chains; None where a piece does not fit the next."""
    pieces: list[_Piece] = []
    values = images
    try:
        for name, child in _body(model):
            opened, values = _opened(name, child, values)
            pieces += opened
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, NotImplementedError):
        return None  # forward() does more than run its children in order
    return pieces


def _opened(name: str, module: nn.Module, inputs: torch.Tensor) -> tuple[list[_Piece], torch.Tensor]:
    whole = module(inputs.clone())
    children = [(f"{name}.{inner}", child) for inner, child in module.named_children()]
    opens = isinstance(module, nn.Sequential) or any(inner == "blocks" for inner, _ in module.named_children())
    if not opens or not children:
        return [_module_piece(name, module)], whole
    pieces: list[_Piece] = []
    values = inputs
    try:
        for inner, child in children:
            opened, values = _opened(inner, child, values)
            pieces += opened
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, NotImplementedError):
        return [_module_piece(name, module)], whole
    if not _same(values, whole):
        return [_module_piece(name, module)], whole
    return pieces, whole


def _joined(pieces: Sequence[_Piece]) -> list[_Piece]:
    """Join norms, activations and pools to the piece before them: nobody would cut there."""
    joined: list[_Piece] = []
    for piece in pieces:
        weighs = any(p.ndim > 1 for _, module in piece.modules for p in module.parameters())
        if joined and not weighs:
            before = joined.pop()
            joined.append(_Piece(before.name, _Chain(before.forward, piece.forward), before.modules + piece.modules))
        else:
            joined.append(piece)
    return joined


@dataclass(frozen=True)
class _Chain:
    first: Callable[[torch.Tensor], torch.Tensor]
    second: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(inputs))


def _last_piece(model: nn.Module, pooling: str) -> _Piece:
    if pooling == "flatten":
        return _Piece("flatten", lambda maps: maps.flatten(1), ())
    if type(model).__name__ == "VGG":
        # Without its two 4096-wide layers, as Keras's `include_top=False` has it.
        return _Piece("pool", lambda maps: maps.mean((2, 3)), ())
    # Some families keep convolutions or norms behind their pooling.
    rest = itertools.dropwhile(lambda child: child[0] not in _HEAD_STARTS, model.named_children())
    modules = tuple((name, child) for name, child in rest if any(True for _ in child.parameters()))

    def pool(maps: torch.Tensor) -> torch.Tensor:
        out = model.forward_head(maps, pre_logits=True)  # type: ignore[operator]  # timm's, unknown to nn.Module
        assert isinstance(out, torch.Tensor)
        return out

    return _Piece("pool", pool, modules)


def _transformer_pieces(model: nn.Module) -> list[_Piece] | None:
    """ViT and its relations: tokens, blocks, norm. The positions belong to the first piece."""
    kind = type(model).__name__
    if kind not in ("VisionTransformer", "Eva"):
        return None
    children = dict(model.named_children())
    first = ("patch_embed", "pos_drop", "patch_drop", "norm_pre", "rope")
    modules = tuple((name, children[name]) for name in first if name in children)
    blocks = list(children["blocks"].named_children())
    if kind == "VisionTransformer":
        pieces = [_Piece("patch_embed", _VitTokens(model), modules)]
        pieces += [_module_piece(f"blocks.{name}", block) for name, block in blocks]
    else:
        pieces = [_Piece("patch_embed", _EvaTokens(model), modules)]
        pieces += [
            _Piece(f"blocks.{name}", _EvaBlock(model, block, i), ((f"blocks.{name}", block),))
            for i, (name, block) in enumerate(blocks)
        ]
    return [*pieces, _module_piece("norm", children["norm"])]


@dataclass(frozen=True)
class _VitTokens:
    model: nn.Module

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        model = self.model
        tokens = model._pos_embed(model.patch_embed(images))  # type: ignore[operator]  # timm's, unknown to nn.Module
        tokens = model.norm_pre(model.patch_drop(tokens))  # type: ignore[operator]  # timm's, unknown to nn.Module
        assert isinstance(tokens, torch.Tensor)
        return tokens


@dataclass(frozen=True)
class _EvaTokens:
    model: nn.Module

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        tokens, _ = self.model._pos_embed(self.model.patch_embed(images))  # type: ignore[operator]  # timm's, unknown to nn.Module
        tokens = self.model.norm_pre(tokens)  # type: ignore[operator]  # timm's, unknown to nn.Module
        assert isinstance(tokens, torch.Tensor)
        return tokens


@dataclass(frozen=True)
class _EvaBlock:
    """A block with its rotary positions, which depend on the grid alone and not on the image."""

    model: nn.Module
    block: nn.Module
    index: int

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        rope = getattr(self.model, "rope", None)
        patches = self.model.patch_embed
        positions = None if rope is None else rope.get_embed(shape=patches.grid_size)  # type: ignore[union-attr]  # timm's
        if positions is not None and getattr(self.model, "rope_mixed", False):
            positions = positions[self.index]
        out = self.block(tokens, rope=positions)
        assert isinstance(out, torch.Tensor)
        return out


def _familiar(model: nn.Module, stages: list[Stage]) -> list[Stage]:
    """Give the stages the names that Keras's models made familiar."""
    kind = type(model).__name__
    named: list[Stage] = []
    block, convolution, inverted = 1, 0, 0
    for stage in stages:
        name, aliases = stage.name, stage.aliases
        if kind == "VGG" and name.startswith("features."):
            convolution += 1
            name, aliases = f"block{block}_conv{convolution}", (name,)
            if any(isinstance(module, nn.MaxPool2d) for _, module in stage.modules):
                aliases = (*aliases, f"block{block}_pool")
                block, convolution = block + 1, 0
        elif kind == "ResNet" and (match := re.fullmatch(r"layer(\d)\.(\d+)", name)):
            aliases = (f"conv{int(match[1]) + 1}_block{int(match[2]) + 1}",)
        elif kind in ("EfficientNet", "MobileNetV3") and (match := re.fullmatch(r"blocks\.(\d+)\.(\d+)", name)):
            # EfficientNets count stages and letter the blocks; MobileNets number the blocks through.
            aliases = (f"block{int(match[1]) + 1}{chr(ord('a') + int(match[2]))}", f"block_{inverted}")
            inverted += 1
        named.append(replace(stage, name=name, aliases=aliases))
    return named
