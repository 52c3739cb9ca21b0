"""Models whose input has other channels than red, green and blue."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from regraft.data.band_values import Bands
from regraft.errors import UsageError, WeightsError
from regraft.models.classifier import Classifier, build
from regraft.models.serialization import load_classifier, save_classifier

CLASSES = ("ape", "bee", "cat")


def bands(count: int, mean: float = 0.4) -> Bands:
    return Bands(tuple(range(1, count + 1)), ((0.0, 255.0),) * count, (mean,) * count, (0.2,) * count)


def noise(model: Classifier, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *model.preprocessing.input_shape), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_pretrained_first_convolution_is_adapted_as_timm_does(count: int) -> None:
    colors = build(classes=CLASSES, image_size=32)
    model = build(classes=CLASSES, image_size=32, bands=bands(count))
    expected = timm.models.adapt_input_conv(count, colors.backbone.conv_stem.weight.detach().clone())
    torch.testing.assert_close(model.backbone.conv_stem.weight.detach(), expected, rtol=0, atol=0)
    torch.testing.assert_close(model.backbone.blocks[0][0].conv_dw.weight, colors.backbone.blocks[0][0].conv_dw.weight)
    assert model.preprocessing.mean == (0.4,) * count
    assert model.preprocessing.input_shape == (count, 32, 32)
    assert model(noise(model)).shape == (2, 3)


def test_three_bands_make_an_ordinary_model() -> None:
    colors, model = (build(classes=CLASSES, image_size=32, bands=one) for one in (None, bands(3)))
    assert model.preprocessing.mean == colors.preprocessing.mean
    torch.testing.assert_close(model(noise(model)), colors(noise(colors)), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["ann", "cnn", "test_vit", "test_convnext", "resnet18", "test_efficientnet,cnn"])
def test_other_architectures_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    size = 0 if name == "test_vit" else 32
    model = build(name, classes=CLASSES, weights="none", image_size=size, bands=bands(4))
    save_classifier(model, tmp_path)
    loaded = load_classifier(tmp_path)
    assert loaded.preprocessing == model.preprocessing
    torch.testing.assert_close(loaded(noise(model)), model(noise(model)), rtol=0, atol=0)


def test_weights_of_other_channels(tmp_path: Path) -> None:
    """Those of colors are adapted; those of five bands fit five alone."""
    colors = build("cnn", classes=CLASSES, weights="none", image_size=32)
    five = build("cnn", classes=CLASSES, weights="none", image_size=32, bands=bands(5))
    for name, model in (("colors", colors), ("five", five)):
        save_classifier(model, tmp_path / name)
    adapted = build(tmp_path / "colors", classes=CLASSES, bands=bands(5))
    before = colors.backbone.blocks[0][0].weight.detach().clone()
    torch.testing.assert_close(
        adapted.backbone.blocks[0][0].weight.detach(), timm.models.adapt_input_conv(5, before), rtol=0, atol=0
    )
    assert build(tmp_path / "five", classes=CLASSES, bands=bands(5, 0.7)).preprocessing.mean == (0.4,) * 5
    with pytest.raises(WeightsError, match=r"- blocks\.0\.0\.weight \(32, 4, 3, 3\)"):
        build(tmp_path / "five", classes=CLASSES, bands=bands(4))
    file = tmp_path / "some.h5"
    file.write_bytes(b"")
    with pytest.raises(WeightsError, match="is read for 3 channels, and the images have 5"):
        build("keras_vgg16", classes=CLASSES, weights=str(file), bands=bands(5))


def test_sizes_are_refused_as_before() -> None:
    with pytest.raises(UsageError, match="image_size"):
        build("test_vit", classes=CLASSES, weights="none", image_size=17, bands=bands(4))
