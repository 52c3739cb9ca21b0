"""What every heat map keeps to, for every method and every kind of backbone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from regraft.attribution import maps as maps_module
from regraft.attribution.evidence import faithfulness
from regraft.attribution.maps import default_stage, explain_pixels, find_stage
from regraft.attribution.methods import METHODS, Method
from regraft.data.dataset import Dataset
from regraft.data.split import split
from regraft.errors import UnknownNameError, UsageError
from regraft.models.classifier import Classifier, build
from regraft.models.registry import BACKBONES
from regraft.pipeline.train import train

SIZE = 64
#: Nearly the same whatever the head says, as docs/explain.md warns: one asks for no class, two take what is positive.
DULL = {"eigencam", "gradcam++", "layercam"}
OTHERS = ("cnn", "swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224", "convnext_atto")


@lru_cache(maxsize=1)  # the tests of one backbone follow one another
def _built(name: str) -> Classifier:
    return build(name, classes=("ape", "bee", "cat"), weights="none", image_size=70 if "eva" in name else SIZE)


@pytest.fixture(params=[*BACKBONES, *OTHERS], scope="module")
def model(request: pytest.FixtureRequest) -> Classifier:
    return _built(request.param)


def noise(count: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("method", METHODS)
def test_every_backbone_gets_a_map(model: Classifier, method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps_module, "_STEPS", 2)
    monkeypatch.setattr(maps_module, "_MASKS", 2)
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
    # Nothing is left behind.
    assert model.training
    assert not maps.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    for module in model.modules():
        assert not {*module._forward_hooks, *module._forward_pre_hooks, *module._backward_hooks}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


PATTERNS = ("across", "along", "dots")


def scene(top: int, left: int, pattern: str = "along", seed: int = 7) -> torch.Tensor:
    """A patch of black and white on a noisy ground, uint8 (3, 128, 128); blurred, all patterns are the same grey."""
    image = np.random.default_rng(seed).integers(100, 156, (128, 128, 1)).repeat(3, axis=2)
    down, right = np.indices((40, 40)) // 4 % 2
    image[top : top + 40, left : left + 40] = 255 * {
        "across": down, "along": right, "dots": down & right,
    }[pattern][..., None]  # fmt: skip
    return torch.from_numpy(image.astype(np.uint8)).permute(2, 0, 1)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """A head that knows three patterns, over pretrained features."""
    rng = np.random.default_rng(0)
    labels = [pattern for pattern in PATTERNS for _ in range(20)]
    images = [scene(*rng.integers(0, 88, 2).tolist(), label, seed).permute(1, 2, 0).numpy()
              for seed, label in enumerate(labels)]  # fmt: skip
    model = build(classes=PATTERNS, image_size=128)
    parts = split(Dataset.from_arrays(images, labels), train=0.6, val=0.2, test=0.2)
    run = train(model, parts, out=tmp_path_factory.mktemp("learnt") / "run", finetune_epochs=0)
    assert run.evaluate().accuracy == 1
    return model


def _wanted(model: Classifier, count: int, pattern: str = "along") -> torch.Tensor:
    return torch.full((count,), model.classes.index(pattern))


@pytest.mark.parametrize("method", METHODS)
def test_a_map_does_not_depend_on_its_batch(learnt: Classifier, method: Method) -> None:
    pixels = torch.stack([scene(10, 10), scene(80, 60), scene(30, 84)])
    together = explain_pixels(learnt, pixels, _wanted(learnt, 3), method=method)
    alone = torch.cat([explain_pixels(learnt, one[None], _wanted(learnt, 1), method=method) for one in pixels])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_map_follows_the_object(learnt: Classifier, method: Method) -> None:
    corners = [(8, 8), (8, 84), (84, 8), (84, 84)]
    pixels = torch.stack([scene(*corner) for corner in corners])
    maps = explain_pixels(learnt, pixels, _wanted(learnt, 4), method=method)
    quarters = maps.reshape(4, 2, 64, 2, 64).sum(dim=(2, 4)).flatten(1)
    assert quarters.argmax(dim=1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("method", METHODS)
def test_a_random_head_gets_another_map(learnt: Classifier, method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sanity check of Adebayo et al. 2018."""
    monkeypatch.setattr(maps_module, "_STEPS", 16)
    pixels = torch.stack([scene(8, 84), scene(84, 8), scene(46, 46), scene(8, 8)])
    maps = explain_pixels(learnt, pixels, _wanted(learnt, 4), method=method)
    kept = {name: value.clone() for name, value in learnt.head.state_dict().items()}
    try:
        torch.manual_seed(3)
        for parameter in learnt.head.parameters():
            torch.nn.init.normal_(parameter.data)
        others = explain_pixels(learnt, pixels, _wanted(learnt, 4), method=method)
    finally:
        learnt.head.load_state_dict(kept)
    alike = np.mean([
        0.0 if b.min() == b.max() else spearmanr(a.flatten(), b.flatten()).statistic  # nothing speaks for the class
        for a, b in zip(maps, others, strict=True)
    ])  # fmt: skip
    assert alike > 0.9 if method in DULL else alike < 0.8


@pytest.mark.parametrize("method", METHODS)
def test_a_map_is_more_faithful_than_a_random_one(learnt: Classifier, method: Method) -> None:
    corners = np.random.default_rng(5).integers(0, 88, (12, 2)).tolist()
    pixels = torch.stack([scene(*corner, seed=100 + i) for i, corner in enumerate(corners)])
    targets = _wanted(learnt, len(pixels))
    maps = explain_pixels(learnt, pixels, targets, method=method)
    elsewhere = maps.roll((64, 64), dims=(1, 2))  # as coarse, at another place
    found, other = (faithfulness(learnt, pixels, targets, each, steps=8) for each in (maps, elsewhere))
    assert found.deletion.mean() < other.deletion.mean()
    assert found.insertion.mean() > other.insertion.mean()


def test_classes_have_maps_of_their_own(learnt: Classifier) -> None:
    image = scene(4, 4)
    image[:, 84:124, 84:124] = scene(84, 84, "dots")[:, 84:124, 84:124]
    wanted = torch.cat([_wanted(learnt, 1, "along"), _wanted(learnt, 1, "dots")])
    along, dots = explain_pixels(learnt, torch.stack([image, image]), wanted, method="gradcam")
    assert along[:64, :64].sum() > 2 * along[64:, 64:].sum()
    assert dots[64:, 64:].sum() > 2 * dots[:64, :64].sum()


def test_a_stage_by_any_of_its_names(learnt: Classifier) -> None:
    stage = find_stage(learnt, "blocks.4.2")
    assert learnt.stages[stage].name == "blocks.4.2"
    assert find_stage(learnt, learnt.stages[stage].aliases[0]) == stage
    fine = explain_pixels(learnt, scene(8, 84)[None], _wanted(learnt, 1), method="layercam", stage=stage)
    assert fine.shape == (1, 128, 128)
    for wrong in ("blocks.99", "", "all", "-3"):
        with pytest.raises(UnknownNameError, match="stage"):
            find_stage(learnt, wrong)
    with pytest.raises(UsageError, match="without places"):
        find_stage(learnt, learnt.stages[-1].name)


def test_a_class_token_alone_is_looked_at_before_the_last_block() -> None:
    model = build("vit_tiny_patch16_224", classes=("a", "b"), weights="none", image_size=64, head_stages="last")
    assert model.stages[default_stage(model, "gradcam")].name == "blocks.10"


def test_a_network_without_places_is_explained_by_its_pixels() -> None:
    model = build("ann", classes=("a", "b"), weights="none")
    pixels, targets = noise(1, 64), torch.tensor([1])
    assert explain_pixels(model, pixels, targets, method="integrated-gradients").max() == 1
    with pytest.raises(UsageError, match="no stage with places"):
        explain_pixels(model, pixels, targets, method="gradcam")


def test_integrated_gradients_add_up_to_what_the_image_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Completeness: the sum over pixels is the score less that of the mean colour (Sundararajan et al. 2017)."""
    monkeypatch.setattr(maps_module, "_STEPS", 512)
    model = build("resnet18", classes=("a", "b", "c"), weights="none", image_size=64)
    targets = torch.tensor([1])
    pixels = noise(1, 64).float()
    total = maps_module._added(model, pixels, targets).sum()
    with torch.no_grad():
        with_it, without = maps_module._log_odds(
            model(torch.cat([pixels, model.mean.expand_as(pixels)])), targets.expand(2)
        )
    assert float(total) == pytest.approx(float(with_it - without), rel=0.02)


def test_an_unknown_method_names_those_that_there_are(learnt: Classifier) -> None:
    with pytest.raises(UnknownNameError, match="gradcam"):
        explain_pixels(learnt, scene(0, 0)[None], _wanted(learnt, 1), method="grad")  # type: ignore[arg-type]
