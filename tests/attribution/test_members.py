from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from regraft.attribution import cam
from regraft.attribution.cam import default_stage, explain_pixels, find_stage
from regraft.attribution.members import explain_members
from regraft.attribution.methods import METHODS, Method
from regraft.data.dataset import Dataset
from regraft.data.split import split
from regraft.errors import UsageError
from regraft.models.classifier import Classifier, build
from regraft.models.several_backbones import SeveralBackbones
from regraft.runs.train import train

Scene = Callable[..., torch.Tensor]


@pytest.fixture(scope="module")
def model(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """A head for the three patterns on two backbones of different sizes."""
    rng = torch.Generator().manual_seed(0)
    labels = [pattern for pattern in ("across", "along", "dots") for _ in range(16)]
    images = [
        scene(*torch.randint(0, 88, (2,), generator=rng).tolist(), label, seed).permute(1, 2, 0).numpy()
        for seed, label in enumerate(labels)
    ]
    model = build("efficientnet_lite0@128,mobilenetv2@96", classes=("across", "along", "dots"))
    parts = split(Dataset.from_arrays(images, labels), train=0.6, val=0.2, test=0.2)
    train(model, parts, out=tmp_path_factory.mktemp("several") / "run", finetune_epochs=0)
    return model


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_maps(
    model: Classifier, scene: Scene, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cam, "_STEPS", 2)
    monkeypatch.setattr(cam, "_MASKS", 2)
    pixels, targets = torch.stack([scene(0, 0), scene(80, 80)]), torch.tensor([1, 1])
    total = explain_pixels(model, pixels, targets, method=method)
    assert total.shape == (2, 128, 128)
    assert total.min() >= 0
    assert set(total.amax(dim=(1, 2)).tolist()) <= {0.0, 1.0}
    if method != "integrated-gradients":
        maps = explain_members(model, pixels, targets, method=method)
        assert torch.equal(maps.total, total)
        assert list(maps.members) == ["efficientnet_lite0", "mobilenetv2"]
        assert torch.stack(list(maps.members.values())).amax(dim=(0, 2, 3)).max() == 1


def test_the_sum_follows_the_pattern_and_does_not_depend_on_its_batch(model: Classifier, scene: Scene) -> None:
    pixels = torch.stack([scene(*corner) for corner in ((8, 8), (8, 84), (84, 8), (84, 84))])
    maps = explain_members(model, pixels, torch.ones(4, dtype=torch.int64), method="gradcam")
    quarters = maps.total.reshape(4, 2, 64, 2, 64).sum(dim=(2, 4)).flatten(1)
    assert quarters.argmax(dim=1).tolist() == [0, 1, 2, 3]
    alone = explain_members(model, pixels[2:3], torch.tensor([1]), method="gradcam")
    for name, one in alone.members.items():
        torch.testing.assert_close(maps.members[name][2:3], one, rtol=0, atol=2e-3)


def test_a_map_explains_the_log_odds_of_the_whole_model(model: Classifier, scene: Scene) -> None:
    """The gradient with respect to a backbone's stage is that of the model's own log-odds."""
    pixels, target = scene(20, 40)[None], torch.tensor([1])
    backbone = model.backbone
    assert isinstance(backbone, SeveralBackbones)
    inputs = backbone.inputs(pixels / 255)
    members = [model.member(index) for index in range(2)]
    with torch.no_grad():
        logits = [member(own) for member, own in zip(members, inputs, strict=True)]
    stage = default_stage(members[1], "gradcam")
    _, gradient = cam._stage_gradient(members[1], inputs[1], target, stage, logits[0])
    kept: list[torch.Tensor] = []
    part = model.members[1].stages[stage].modules[-1][1]

    def keep(module: object, arguments: object, output: torch.Tensor) -> None:
        output.requires_grad_().retain_grad()
        kept.append(output)

    handle = part.register_forward_hook(keep)
    with torch.enable_grad():
        cam._log_odds(model, model(pixels), target).sum().backward()
    handle.remove()
    assert kept[0].grad is not None
    torch.testing.assert_close(gradient, kept[0].grad, rtol=1e-3, atol=1e-6)


def test_a_backbone_that_the_head_hardly_reads_has_a_faint_map() -> None:
    model = build("efficientnet_lite0@64,mobilenetv2@64", classes=("a", "b"))
    with torch.no_grad():
        model.head.classifier.weight[:, model.blocks[1]] *= 1e-5
    generator = torch.Generator().manual_seed(1)
    pixels, targets = torch.randint(0, 256, (1, 3, 64, 64), generator=generator, dtype=torch.uint8), torch.tensor([0])
    maps = explain_members(model, pixels, targets, method="hirescam")
    alone = explain_pixels(model.member(0), pixels, targets, method="hirescam")
    assert maps.members["efficientnet_lite0"].max() == 1
    assert maps.members["mobilenetv2"].max() < 0.01
    torch.testing.assert_close(maps.total, alone, rtol=1e-3, atol=1e-3)


def test_stages_belong_to_one_backbone(model: Classifier) -> None:
    assert default_stage(model, "gradcam") == 0
    with pytest.raises(UsageError, match=r"stage is blocks\.5, but the model has 2 backbones\. .* Leave out the stage"):
        find_stage(model, "blocks.5")


def test_a_backbone_without_positions_has_no_map() -> None:
    model = build("ann,mobilenetv2@64", classes=("a", "b"), weights="none")
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    assert list(explain_members(model, pixels, torch.tensor([0]), method="gradcam").members) == ["mobilenetv2"]
