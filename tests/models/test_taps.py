from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from regraft.errors import RunError, UsageError
from regraft.models.classifier import Classifier, build
from regraft.models.serialization import load_classifier, save_classifier
from regraft.models.weights import build_backbone

CLASSES = ("ape", "bee")
TINY = "vit_tiny_patch16_224"


def _tapped(name: str, **options: object) -> tuple[Classifier, dict[str, list[str]]]:
    model = build(name, classes=CLASSES, weights="none", image_size=32, **options)
    return model, model.get_config()["head"]["stages"]


def test_the_head_of_a_transformer_reads_class_token_and_patches() -> None:
    model, taps = _tapped(TINY)
    both = ["class", "patches"]
    assert taps == {"blocks.5": both, "blocks.7": both, "blocks.9": both, "blocks.11": ["patches"]}
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        features = model.forward_tail(model.activations(pixels, 0), 0)
        normalized = (pixels.float() - model.mean) / model.std
        outputs = model.backbone.forward_intermediates(
            normalized, indices=[5, 7, 9], output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )
        tokens = model.backbone.forward_features(normalized)
    expected = [tokens[:, 0]]
    for patches, prefix in outputs:
        expected += [prefix[:, 0], patches.mean(1)]
    expected.append(tokens[:, 1:].mean(1))
    torch.testing.assert_close(features, torch.cat(expected, dim=1))


def test_all_reads_every_block_and_its_registers() -> None:
    model, taps = _tapped("vit_medium_patch16_reg4_gap_256", head_stages="all")
    assert list(taps) == [f"blocks.{i}" for i in range(12)]
    assert taps["blocks.3"] == ["registers", "patches"]  # this one has no class token
    assert taps["blocks.11"] == ["registers"]  # the patches are pooled
    assert model.head_stages == "all"
    tokens = torch.randn(2, 4 + 4, 512)
    tap = model.append_taps(4, tokens, tokens.new_empty(2, 0)).taps
    torch.testing.assert_close(tap, torch.cat([tokens[:, :4].mean(1), tokens[:, 4:].mean(1)], dim=1))


def test_all_reads_lower_maps_too() -> None:
    model, taps = _tapped("mobilenetv2", head_stages="all")
    upper, of_upper = _tapped("mobilenetv2", head_stages="upper")
    assert set(of_upper) < set(taps)
    assert all(parts == ["mean", "max"] for parts in taps.values())
    assert (model.head_stages, upper.head_stages) == ("all", "upper")


def test_what_another_pooling_reads_is_not_left_out() -> None:
    assert _tapped(TINY, pooling="max", head_stages="upper")[1]["blocks.11"] == ["class", "patches"]
    assert "blocks.11" not in _tapped(TINY, pooling="flatten", head_stages="upper")[1]


@pytest.mark.parametrize("head_stages", ["upper", "all", "last"])
def test_a_saved_model_reads_the_same(tmp_path: Path, head_stages: str) -> None:
    model, taps = _tapped(TINY, head_stages=head_stages)
    save_classifier(model, tmp_path)
    again = load_classifier(tmp_path)
    assert again.get_config()["head"]["stages"] == taps
    assert again.head_stages == head_stages


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"blocks.1": ["class"]}, "the head reads class of stages that have mean, max"),
        ({"blocks.9": ["mean"]}, "blocks.9"),
    ],
)
def test_a_head_of_stages_that_the_backbone_lacks_is_damage(
    stages: dict[str, list[str]], message: str, tmp_path: Path
) -> None:
    save_classifier(build("test_efficientnet", classes=("a", "b"), weights="none", image_size=32), tmp_path)
    file = tmp_path / "model.json"
    description = json.loads(file.read_text())
    description["head"]["stages"] = stages
    file.write_text(json.dumps(description))
    with pytest.raises(RunError, match=message):
        load_classifier(tmp_path)


def test_a_run_from_before_reads_mean_and_maximum_of_all_tokens(tmp_path: Path) -> None:
    """Its `model.json` has only the names of the stages."""
    spec, size = build(TINY, classes=CLASSES, weights="none", image_size=32).spec, 32
    network, _ = build_backbone(spec, "none", size)
    model = build(TINY, classes=CLASSES, weights="none", image_size=size)
    names = ["blocks.5", "blocks.7", "blocks.9"]
    model = Classifier(spec, network, CLASSES, model.preprocessing, head_stages=dict.fromkeys(names, ("mean", "max")))
    save_classifier(model, tmp_path)
    description = json.loads((tmp_path / "model.json").read_text())
    description["head"]["stages"] = names
    (tmp_path / "model.json").write_text(json.dumps(description))
    again = load_classifier(tmp_path)
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    with torch.inference_mode():
        tokens = again.stages[6].forward(again.activations(pixels, 6).values)
        taps = again.activations(pixels, 7).taps
        assert torch.equal(taps, torch.cat([tokens.mean(1), tokens.amax(1)], dim=1))
        assert torch.equal(again(pixels), model(pixels))
    assert again.get_config()["head"]["stages"] == {name: ["mean", "max"] for name in names}


@pytest.mark.parametrize(
    ("name", "size", "near"), [("dinov2_vits14", 100, "98 or 112"), (TINY, 40, "32 or 48"), ("dinov2_vits14", 16, "28")]
)
def test_the_image_is_a_whole_number_of_patches(name: str, size: int, near: str) -> None:
    with pytest.raises(UsageError, match=rf"image_size = {size}, but {name} cuts .*Choose a multiple: {near}\."):
        build(name, classes=CLASSES, weights="none", image_size=size)
