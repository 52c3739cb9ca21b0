"""The contract of heat maps, for every method and every kind of backbone."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import pytest
import timm
import torch
from scipy.stats import spearmanr

from regraft.attribution import cam
from regraft.attribution.cam import default_stage, explain_pixels, find_stage, finer_stage, grid_of
from regraft.attribution.methods import METHODS, Method
from regraft.errors import UnknownNameError, UsageError
from regraft.models.classifier import Classifier, build
from regraft.models.registry import BACKBONES

SIZE = 64
Scene = Callable[..., torch.Tensor]
#: Methods that depend little on the head (docs/explain.md): one ignores the class, two use positive gradients only.
CLASS_INSENSITIVE = {"eigencam", "gradcam++", "layercam"}
OF_14_PIXELS = ("eva02_tiny_patch14_224", "dinov2_vits14_reg")  # is the side of their patches
OTHERS = ("cnn", "swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224", "convnext_atto")


@lru_cache(maxsize=1)  # the tests of one backbone run in sequence
def _built(name: str) -> Classifier:
    return build(name, classes=("ape", "bee", "cat"), weights="none", image_size=70 if name in OF_14_PIXELS else SIZE)


#: Backbones that differ from another one only in width, depth or weights, or are much like one of the others.
SCALED = {
    "efficientnet_lite1", "efficientnet_lite2", "vit_b16", "convnextv2_nano", "convnextv2_tiny", "convnextv2_base",
    "dinov2_vits14", "dinov2_vitb14", "dinov2_vitb14_reg", "dinov3_vitb16", "dinov3_convnext_tiny", "siglip2_vitb32",
    "siglip2_vitb16",
}  # fmt: skip


@pytest.fixture(params=[*(name for name in BACKBONES if name not in SCALED), *OTHERS], scope="module")
def model(request: pytest.FixtureRequest) -> Classifier:
    return _built(request.param)


def noise(count: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("method", METHODS)
def test_every_backbone_gets_a_map(model: Classifier, method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cam, "_STEPS", 2)
    monkeypatch.setattr(cam, "_MASKS", 2)
    side = model.preprocessing.size
    pixels = noise(2, side)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    maps = explain_pixels(model, pixels, torch.tensor([0, 2]), method=method)
    assert maps.shape == (2, side, side)
    assert maps.dtype == torch.float32
    assert maps.min() >= 0
    assert set(maps.amax(dim=(1, 2)).tolist()) <= {0.0, 1.0}
    assert maps.isfinite().all()
    assert model.training
    assert not maps.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    for module in model.modules():
        assert not {*module._forward_hooks, *module._forward_pre_hooks, *module._backward_hooks}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def _targets(model: Classifier, count: int, pattern: str = "along") -> torch.Tensor:
    return torch.full((count,), model.classes.index(pattern))


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the expensive methods cheap."""
    monkeypatch.setattr(cam, "_STEPS", 16)
    monkeypatch.setattr(cam, "_MASKS", 32)


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("method", METHODS)
def test_a_map_follows_the_object_and_does_not_depend_on_its_batch(
    trained: Classifier, scene: Scene, method: Method
) -> None:
    pixels = torch.stack([scene(*corner) for corner in ((8, 8), (8, 84), (84, 8), (84, 84))])
    maps = explain_pixels(trained, pixels, _targets(trained, 4), method=method)
    quarters = maps.reshape(4, 2, 64, 2, 64).sum(dim=(2, 4)).flatten(1)
    assert quarters.argmax(dim=1).tolist() == [0, 1, 2, 3]
    single = explain_pixels(trained, pixels[2:3], _targets(trained, 1), method=method)
    torch.testing.assert_close(maps[2:3], single, rtol=0, atol=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_random_head_gets_another_map(
    trained: Classifier, scene: Scene, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sanity check of Adebayo et al. 2018."""
    monkeypatch.setattr(cam, "_STEPS", 16)
    pixels = torch.stack([scene(8, 84), scene(84, 8), scene(46, 46), scene(8, 8)])
    maps = explain_pixels(trained, pixels, _targets(trained, 4), method=method)
    head = {name: value.clone() for name, value in trained.head.state_dict().items()}
    try:
        torch.manual_seed(3)
        for parameter in trained.head.parameters():
            torch.nn.init.normal_(parameter.data)
        others = explain_pixels(trained, pixels, _targets(trained, 4), method=method)
    finally:
        trained.head.load_state_dict(head)
    similarity = np.mean([
        0.0 if b.min() == b.max() else spearmanr(a.flatten(), b.flatten()).statistic  # nothing supports the class
        for a, b in zip(maps, others, strict=True)
    ])  # fmt: skip
    assert similarity > 0.9 if method in CLASS_INSENSITIVE else similarity < 0.8


def test_each_class_has_its_own_map(trained: Classifier, scene: Scene) -> None:
    image = scene(4, 4)
    image[:, 84:124, 84:124] = scene(84, 84, "dots")[:, 84:124, 84:124]
    wanted = torch.cat([_targets(trained, 1, "along"), _targets(trained, 1, "dots")])
    along, dots = explain_pixels(trained, torch.stack([image, image]), wanted, method="gradcam")
    assert along[:64, :64].sum() > 2 * along[64:, 64:].sum()
    assert dots[64:, 64:].sum() > 2 * dots[:64, :64].sum()


def test_stages_are_found_by_name(trained: Classifier, scene: Scene) -> None:
    stage = find_stage(trained, "blocks.4.2")
    assert trained.stages[stage].name == "blocks.4.2"
    assert find_stage(trained, trained.stages[stage].aliases[0]) == stage
    fine = explain_pixels(trained, scene(8, 84)[None], _targets(trained, 1), method="layercam", stage=stage)
    assert fine.shape == (1, 128, 128)
    for wrong in ("blocks.99", "", "all", "-3"):
        with pytest.raises(UnknownNameError, match="stage"):
            find_stage(trained, wrong)
    with pytest.raises(UsageError, match="has no spatial axes"):
        find_stage(trained, trained.stages[-1].name)


def test_a_finer_stage_has_more_cells() -> None:
    model = build("mobilenetv2", classes=("a", "b"), weights="none", image_size=96)
    stage = default_stage(model, "gradcam")
    finer = finer_stage(model, stage)
    assert finer is not None
    assert (grid_of(model, stage), grid_of(model, finer)) == ((3, 3), (6, 6))
    assert finer_stage(model, 0) is None
    assert grid_of(model, len(model.stages) - 1) is None
    vit = build("vit_tiny_patch16_224", classes=("a", "b"), weights="none", image_size=64)
    assert grid_of(vit, default_stage(vit, "gradcam")) == (4, 4)


def test_the_default_stage_of_a_class_token_is_before_the_last_block() -> None:
    model = build("vit_tiny_patch16_224", classes=("a", "b"), weights="none", image_size=64, head_stages="last")
    assert model.stages[default_stage(model, "gradcam")].name == "blocks.10"


@pytest.mark.parametrize(
    ("name", "head_stages", "stage"),
    [
        ("vit_tiny_patch16_224", "upper", "blocks.10"),  # the last block's patches are read, and its class token
        ("vit_base_patch16_siglip_224", "upper", "blocks.11"),  # there is no class token
    ],
)
def test_the_default_stage_of_several_taps(name: str, head_stages: str, stage: str) -> None:
    narrow = partial(timm.create_model, embed_dim=48, num_heads=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("regraft.models.weights.timm.create_model", narrow)
        model = build(name, classes=("a", "b"), weights="none", image_size=64, head_stages=head_stages)
    assert model.stages[default_stage(model, "gradcam")].name == stage


@pytest.mark.parametrize(("name", "stage"), [("mobilenetv2", "conv_head"), ("vit_tiny_patch16_224", "blocks.11")])
def test_attentive_pooling_is_explained_at_the_map_that_it_reads(name: str, stage: str) -> None:
    model = build(name, classes=("a", "b"), weights="none", image_size=64, pooling="attention")
    assert model.stages[default_stage(model, "gradcam")].name == stage
    maps = explain_pixels(model, noise(2, 64), torch.tensor([0, 1]), method="hirescam")
    assert maps.shape == (2, 64, 64)
    assert maps.amax() == 1


def test_a_dense_network_is_explained_by_integrated_gradients() -> None:
    model = build("ann", classes=("a", "b"), weights="none")
    pixels, targets = noise(1, 64), torch.tensor([1])
    assert explain_pixels(model, pixels, targets, method="integrated-gradients").max() == 1
    with pytest.raises(UsageError, match="no stage with spatial axes"):
        explain_pixels(model, pixels, targets, method="gradcam")


def test_integrated_gradients_are_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Completeness: the sum over pixels is the score minus that of the mean color (Sundararajan et al. 2017)."""
    monkeypatch.setattr(cam, "_STEPS", 128)
    model = build("resnet18", classes=("a", "b", "c"), weights="none", image_size=64)
    targets = torch.tensor([1])
    pixels = noise(1, 64).float()
    total = cam._pixel_contributions(model, pixels, targets).sum()
    with torch.no_grad():
        logits = model(torch.cat([pixels, model.mean.expand_as(pixels)]))
        image, base = cam._log_odds(model, logits, targets.expand(2))
    assert float(total) == pytest.approx(float(image - base), rel=0.02)


def test_an_unknown_method_is_refused(trained: Classifier, scene: Scene) -> None:
    with pytest.raises(UnknownNameError, match="gradcam"):
        explain_pixels(trained, scene(0, 0)[None], _targets(trained, 1), method="grad")  # type: ignore[arg-type]
