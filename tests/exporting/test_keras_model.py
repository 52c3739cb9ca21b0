"""PyTorch's operations in Keras, each beside PyTorch itself, and the reading of files in TensorFlow's graph."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from regraft.data.preprocessing import Preprocessing
from regraft.errors import ExportError
from regraft.exporting import tensorflow_forms
from regraft.exporting.form import quiet
from regraft.exporting.keras_model import keras_model

SIDE = 12


class _Network(nn.Module):
    """Pixels to numbers."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.body(images.permute(0, 3, 1, 2).float() / 255)
        return found.flatten(1)


class _Do(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class _Attention(nn.Module):
    """With a token more than there are places, a mask, and a product of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 3))
        self.place = nn.Parameter(torch.randn(1, 145, 3))
        self.mask = nn.Parameter(torch.randn(145, 145))
        self.norm, self.qkv = nn.LayerNorm(3), nn.Linear(3, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.place
        q, k, v = self.qkv(self.norm(x)).reshape(x.shape[0], 145, 3, 1, 3).permute(2, 0, 3, 1, 4).unbind(0)
        x = functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return ((q @ k.transpose(-2, -1)).softmax(dim=-1) @ x)[:, 0, ::2, 1:]


class _Windows(nn.Module):
    """Shifted and cut into windows, as in Swin."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.roll(x, (2, -3), dims=(2, 3)).permute(0, 2, 3, 1)
        x = x.view(-1, 3, 4, 3, 4, 3).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 3)
        x = x * torch.arange(16.0)[:, None]
        return x.view(-1, 9, 16, 3).amax(dim=2).transpose(1, 2).sum(dim=-1)


BODIES: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: nn.Conv2d(3, 5, 3, padding=1),
    "with a stride": lambda: nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False),
    "dilated": lambda: nn.Conv2d(3, 4, 3, padding=2, dilation=2),
    "oblong": lambda: nn.Conv2d(3, 4, (1, 5), padding=(0, 2)),
    "depthwise": lambda: nn.Conv2d(3, 6, 5, padding=2, groups=3),
    "in groups": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, groups=4, padding=1)),
    "batch norm": lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)),
    "without affine": lambda: nn.BatchNorm2d(3, affine=False),
    "group norm": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8)),
    "layer norm of channels": lambda: _Do(
        lambda x: functional.layer_norm(x.permute(0, 2, 3, 1), (3,)).permute(0, 3, 1, 2)
    ),
    "activations": lambda: nn.Sequential(
        nn.ReLU6(), nn.Hardswish(), nn.Hardsigmoid(), nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.Tanh(), nn.Sigmoid(),
        nn.Hardtanh(-0.5, 0.6), nn.Softplus(), nn.Mish(), nn.ELU(), nn.LeakyReLU(0.1),
    ),
    "powers": lambda: _Do(lambda x: ((x + 1) ** 2).sqrt().log() - (x.abs() + 1).rsqrt().exp() * -x),
    "clamped": lambda: _Do(lambda x: x.clamp(min=0.2) + x.clamp(max=0.7) + x.clamp(0.1, 0.9)),
    "maximum": lambda: nn.MaxPool2d(3, 2, 1),
    "maximum of negatives": lambda: _Do(lambda x: functional.max_pool2d(-x, 3, 2, 1)),
    "maximum of what is cut below 0": lambda: _Do(
        lambda x: functional.max_pool2d(functional.hardtanh(-2 * x, -3, -0.5), 3, 2, 1)
    ),
    "maximum to the end": lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
    "average": lambda: nn.AvgPool2d(3, 2, 1),
    "to two by two": lambda: nn.AdaptiveAvgPool2d(2),
    "global": lambda: nn.AdaptiveAvgPool2d(1),
    "squeeze and excite": lambda: _Do(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()),
    "padded": lambda: _Do(lambda x: functional.pad(x, (1, 2, 0, 3), value=0.5)),
    "cut and joined": lambda: _Do(lambda x: torch.cat([x[:, :, 2:5, ::3], x.chunk(2, dim=2)[1][:, :, :3, :4]], dim=3)),
    "stacked": lambda: _Do(lambda x: torch.stack([x[:, 0], x[:, 2].mean(dim=1, keepdim=True).expand(-1, 12, -1)], 1)),
    "attention": _Attention,
    "windows": _Windows,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _tensorflow() -> None:
    tensorflow_forms._tensorflow()


def _program(body: nn.Module) -> tuple[nn.Module, torch.export.ExportedProgram]:
    network = _Network(body).eval().requires_grad_(False)
    batch = torch.export.Dim("batch", min=1, max=64)
    example = torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8)
    return network, torch.export.export(network, (example,), dynamic_shapes={"images": {0: batch}})


@pytest.mark.parametrize("name", list(BODIES))
def test_keras_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    body = BODIES[name]()
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    network, program = _program(body)
    with quiet():
        model = keras_model(program, "test")
    images = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), np.uint8)
    for count in (5, 1):
        expected = network(torch.from_numpy(images[:count])).numpy()
        with quiet():
            found = model(images[:count]).numpy()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-5 * max(1, np.abs(expected).max())
    assert expected.std() > 1e-3
    moved = [layer for layer in model.layers if "transpose" in layer.name]
    assert not moved or name in ("attention", "windows", "cut and joined", "stacked")


def test_what_is_not_translated_is_named() -> None:
    cases: tuple[tuple[nn.Module, str], ...] = (
        (_Do(lambda x: x.cumsum(dim=2)), "the operation cumsum"),
        (_Do(lambda x: functional.layer_norm(x, (12, 12))), "normalisation of 2 axes"),
        (_Do(lambda x: functional.adaptive_avg_pool2d(x, 5)), "pooling of 12 x 12 to 5 x 5"),
        (_Do(lambda x: functional.max_pool2d(x, 3, dilation=2)), "dilated"),
        (_Do(lambda x: functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False)), "leaves out the padding"),
        (_Do(lambda x: x * x.shape[0]), "number of images"),
        (_Do(lambda x: functional.scaled_dot_product_attention(x, x, x, attn_mask=x > 0.5)), "boolean mask"),
        (nn.Conv2d(3, 4, 3, stride=2, dilation=2), "a form of the operation conv2d"),
    )
    for body, words in cases:
        _, program = _program(body)
        with quiet(), pytest.raises(ExportError, match=words):
            keras_model(program, "test")


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_tensorflow_reads_files_as_pillow_does(resize: Any, interpolation: str, tmp_path: Path) -> None:
    import tensorflow as tf

    from regraft.exporting.tensorflow_images import reader

    preprocessing = Preprocessing(size=32, resize=resize, interpolation=interpolation)
    read = tf.function(reader(preprocessing), input_signature=[tf.TensorSpec((), tf.string)])
    rng = np.random.default_rng(0)
    for width, height, kind in ((50, 37, "PNG"), (20, 61, "PNG"), (32, 32, "PNG"), (60, 45, "JPEG"), (300, 200, "PNG")):
        content = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(content, kind, quality=90)
        apart = read(content.getvalue()).numpy() - preprocessing(content.getvalue()).astype(int)
        if width >= height:
            assert not apart.any()
        assert np.abs(apart).mean() < 1  # of a tall one Pillow may take the columns first; noise is the worst there is
