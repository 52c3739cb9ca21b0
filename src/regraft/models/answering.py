"""The network that answers: a folded copy of a model's backbone, which follows the model's weights.

Input: a `Classifier` in inference mode, and pixels. Output: what its head reads of them, up to rounding as from the
model itself, in fewer operations (`models/cpu/fold_inference.py`). Predictions, evaluations and the server run this;
what needs gradients or runs stages one by one (heat maps, training, exports) runs the model's own modules.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import nn

from regraft.models.classifier import Classifier
from regraft.models.cpu import patterns
from regraft.models.cpu.fold_inference import fold_inference
from regraft.models.passes import is_same_on_one_thread, run_passes


@dataclass(frozen=True)
class AnsweringNetwork:
    """A network that computes features for the head of a model.

    Attributes:
        network: A folded copy of the model, or the model itself.
        runs_pairs: Whether an image by itself is run beside a second one, because a batch of one gives other last bits.
        on_one_thread: Whether several passes run side by side, each on one thread, which gives the same bits.
    """

    network: Classifier
    runs_pairs: bool = False
    on_one_thread: bool = False

    @classmethod
    def of(cls, model: Classifier) -> AnsweringNetwork:
        """The network of the weights that the model has now; made at the first call, and again when they have changed.

        Changes count as PyTorch counts them: not those of `tensor.data` in place, or through a NumPy array. With hooks
        on layers, which expect the layers' own inputs and outputs, the model itself is run.
        """
        with _lock:  # folding hangs hooks on the layers for a moment
            state, known = _State.of(model), _copies.get(model)
            if state is None:
                return cls(model)
            if known is None or not known.state.is_same(state):
                known = _copies[model] = _Copy(state, _fold(model))
        return known.folded or cls(model)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (N, C, S, S), uint8 or float in 0..255, to features (N, F); a row does not depend on the others."""
        return torch.cat(run_passes(self._pass, pixels.device, pixels, on_one_thread=self.on_one_thread))

    def _pass(self, pixels: torch.Tensor) -> torch.Tensor:
        count = len(pixels)
        if count == 1 and self.runs_pairs:
            pixels = torch.cat([pixels, pixels])
        return _features(self.network, pixels)[:count]


@dataclass(frozen=True)
class _State:
    """Layers and tensors below the head, which this keeps alive so that none is mistaken for a later one."""

    parts: list[nn.Module | torch.Tensor]
    versions: list[tuple[int, int]]

    @classmethod
    def of(cls, model: Classifier) -> _State | None:
        """The state of a model; None if its layers have hooks, or tensors whose changes PyTorch does not count."""
        modules = list(model.backbone.modules())
        tensors = [model.mean, model.std]
        for module in modules:
            if module._forward_hooks or module._forward_pre_hooks:
                return None
            # The public iterators take longer than a small image on its way through the network.
            tensors += [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]
        if any(tensor.is_inference() for tensor in tensors):
            return None
        return cls([*modules, *tensors], [(tensor._version, tensor.data_ptr()) for tensor in tensors])

    def is_same(self, other: _State) -> bool:
        """Whether both are of the same weights."""
        return (
            self.versions == other.versions
            and len(self.parts) == len(other.parts)
            and all(one is another for one, another in zip(self.parts, other.parts, strict=True))
        )


@dataclass(frozen=True)
class _Copy:
    """What was folded from a state; None: there was nothing to fold, and the model itself runs."""

    state: _State
    folded: AnsweringNetwork | None


#: A copy is no attribute of the model, or it would be saved, moved and copied with it.
_copies: WeakKeyDictionary[Classifier, _Copy] = WeakKeyDictionary()
_lock = threading.Lock()


def _fold(model: Classifier) -> AnsweringNetwork | None:
    network = fold_inference(model, len(model.stages))
    if network is model:
        return None
    if model.mean.device.type != "cpu":
        return AnsweringNetwork(network)
    pixels = patterns.sample_pixels(model)
    together, alone = _features(network, pixels), _features(network, pixels[:1])
    return AnsweringNetwork(
        network,
        runs_pairs=not torch.equal(together[:1], alone),
        on_one_thread=is_same_on_one_thread(lambda: [_features(network, pixels)]),
    )


@torch.inference_mode()
def _features(network: Classifier, pixels: torch.Tensor) -> torch.Tensor:
    end = len(network.stages)
    return network.forward_tail(network.activations(pixels, end), end)
