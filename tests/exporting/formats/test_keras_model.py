"""Translation of PyTorch's operations to Keras: each computes what PyTorch computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from regraft.errors import ExportError
from regraft.exporting.formats.keras_model import keras_model
from regraft.exporting.formats.tensorflow import import_tensorflow
from regraft.models.classifier import build
from regraft.silence import quiet

SIZE = 12


class _Network(nn.Module):
    """From pixels to a vector."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.body(images.permute(0, 3, 1, 2).float() / 255)
        return output.flatten(1)


class _Apply(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class _Attention(nn.Module):
    """A class token, position embeddings, a mask, and a second product written out."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 3))
        self.position = nn.Parameter(torch.randn(1, 145, 3))
        self.mask = nn.Parameter(torch.randn(145, 145))
        self.norm, self.qkv = nn.LayerNorm(3), nn.Linear(3, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        q, k, v = self.qkv(self.norm(x)).reshape(x.shape[0], 145, 3, 1, 3).permute(2, 0, 3, 1, 4).unbind(0)
        x = functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return ((q @ k.transpose(-2, -1)).softmax(dim=-1) @ x)[:, 0, ::2, 1:]


def _efficientnet_lite() -> nn.Module:
    """Return the first stages of the default backbone, which have all kinds of its layers."""
    backbone: Any = build("efficientnet_lite0", classes=("a", "b"), weights="none", image_size=32).backbone
    return nn.Sequential(backbone.conv_stem, backbone.bn1, *backbone.blocks[:3])


class _Windows(nn.Module):
    """Shifted windows, as in Swin."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.roll(x, (2, -3), dims=(2, 3)).permute(0, 2, 3, 1)
        x = x.view(-1, 3, 4, 3, 4, 3).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 3)
        x = x * torch.arange(16.0)[:, None]
        return x.view(-1, 9, 16, 3).amax(dim=2).transpose(1, 2).sum(dim=-1)


CASES: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: nn.Conv2d(3, 5, 3, padding=1),
    "with a stride": lambda: nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False),
    "dilated": lambda: nn.Conv2d(3, 4, 3, padding=2, dilation=2),
    "oblong kernel": lambda: nn.Conv2d(3, 4, (1, 5), padding=(0, 2)),
    "depthwise": lambda: nn.Conv2d(3, 6, 5, padding=2, groups=3),
    "in groups": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, groups=4, padding=1)),
    "batch norm": lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)),
    "without affine": lambda: nn.BatchNorm2d(3, affine=False),
    "group norm": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8)),
    "layer norm of channels": lambda: _Apply(
        lambda x: functional.layer_norm(x.permute(0, 2, 3, 1), (3,)).permute(0, 3, 1, 2)
    ),
    "activations": lambda: nn.Sequential(
        nn.ReLU6(), nn.Hardswish(), nn.Hardsigmoid(), nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.Tanh(), nn.Sigmoid(),
        nn.Hardtanh(-0.5, 0.6), nn.Softplus(), nn.Mish(), nn.ELU(), nn.LeakyReLU(0.1),
    ),
    "powers and logarithms": lambda: _Apply(lambda x: ((x + 1) ** 2).sqrt().log() - (x.abs() + 1).rsqrt().exp() * -x),
    "clamped": lambda: _Apply(lambda x: x.clamp(min=0.2) + x.clamp(max=0.7) + x.clamp(0.1, 0.9)),
    "maximum": lambda: nn.MaxPool2d(3, 2, 1),
    "maximum of negatives": lambda: _Apply(lambda x: functional.max_pool2d(-x, 3, 2, 1)),
    "maximum of values clamped below 0": lambda: _Apply(
        lambda x: functional.max_pool2d(functional.hardtanh(-2 * x, -3, -0.5), 3, 2, 1)
    ),
    "maximum in ceil mode": lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
    "average": lambda: nn.AvgPool2d(3, 2, 1),
    "adaptive average": lambda: nn.AdaptiveAvgPool2d(2),
    "global average": lambda: nn.AdaptiveAvgPool2d(1),
    "squeeze and excite": lambda: _Apply(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()),
    "constant padding": lambda: _Apply(lambda x: functional.pad(x, (1, 2, 0, 3), value=0.5)),
    "slices and concatenation": lambda: _Apply(
        lambda x: torch.cat([x[:, :, 2:5, ::3], x.chunk(2, dim=2)[1][:, :, :3, :4]], dim=3)
    ),
    "stacked": lambda: _Apply(
        lambda x: torch.stack([x[:, 0], x[:, 2].mean(dim=1, keepdim=True).expand(-1, 12, -1)], 1)
    ),
    "attention": _Attention,
    "windows": _Windows,
    "efficientnet_lite0": _efficientnet_lite,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _tensorflow() -> None:
    import_tensorflow()


def _program(body: nn.Module) -> tuple[nn.Module, torch.export.ExportedProgram]:
    network = _Network(body).eval().requires_grad_(False)
    batch = torch.export.Dim("batch", min=1, max=64)
    example = torch.zeros(2, SIZE, SIZE, 3, dtype=torch.uint8)
    return network, torch.export.export(network, (example,), dynamic_shapes={"images": {0: batch}})


@pytest.mark.parametrize("name", list(CASES))
def test_keras_computes_what_pytorch_computes(name: str) -> None:
    torch.manual_seed(0)
    body = CASES[name]()
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    network, program = _program(body)
    with quiet():
        model = keras_model(program, "test")
    images = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    for count in (5, 1):
        expected = network(torch.from_numpy(images[:count])).numpy()
        with quiet():
            actual = model(images[:count]).numpy()
        assert actual.shape == expected.shape
        assert np.abs(actual - expected).max() < 1e-5 * max(1, np.abs(expected).max())
    assert expected.std() > 1e-3
    transposed = [layer for layer in model.layers if "transpose" in layer.name]
    assert not transposed or name in ("attention", "windows", "slices and concatenation", "stacked")


def test_untranslated_operations_are_named() -> None:
    cases: tuple[tuple[nn.Module, str], ...] = (
        (_Apply(lambda x: x.cumsum(dim=2)), "the operation cumsum"),
        (_Apply(lambda x: functional.layer_norm(x, (12, 12))), "normalization over 2 axes"),
        (_Apply(lambda x: functional.adaptive_avg_pool2d(x, 5)), "pooling of 12 x 12 to 5 x 5"),
        (_Apply(lambda x: functional.max_pool2d(x, 3, dilation=2)), "dilated"),
        (_Apply(lambda x: functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False)), "does not count the padding"),
        (_Apply(lambda x: x * x.shape[0]), "number of images"),
        (_Apply(lambda x: functional.scaled_dot_product_attention(x, x, x, attn_mask=x > 0.5)), "boolean mask"),
        (nn.Conv2d(3, 4, 3, stride=2, dilation=2), "a form of the operation conv2d"),
    )
    for body, message in cases:
        _, program = _program(body)
        with quiet(), pytest.raises(ExportError, match=message):
            keras_model(program, "test")
