"""Heat maps of a model that gives an image a number: what raises it, and what lowers it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from regraft.attribution.cam import explain_pixels
from regraft.attribution.methods import METHODS
from regraft.cli import app
from regraft.errors import UnknownNameError, UsageError
from regraft.notebook import to_html
from regraft.runs.explain import explain, stream
from regraft.runs.predict import predict
from regraft.runs.run import Run


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A gray image with a white square to the left, and a black one to the right."""
    folder = tmp_path_factory.mktemp("spots")
    image = np.random.default_rng(0).integers(90, 160, (64, 64, 3)).astype(np.uint8)
    image[20:44, 4:28], image[20:44, 36:60] = 255, 0
    files = [folder / "both.png", folder / "mirrored.png"]
    Image.fromarray(image).save(files[0])
    Image.fromarray(image[:, ::-1]).save(files[1])
    return files


def test_there_are_maps_for_higher_and_for_lower_on_one_scale(numbers_run: Run, spots: list[Path]) -> None:
    both = explain(numbers_run, spots)
    for explanation, file in zip(both, spots, strict=True):
        assert explanation.targets == ("higher", "lower")
        assert explanation.heat.shape == (2, 64, 64)
        assert explanation.heat.max() == pytest.approx(1, abs=0.01)
        (prediction,) = predict(numbers_run, file)
        assert explanation.value == pytest.approx(prediction.value, abs=1e-3)
        assert explanation.interval == pytest.approx(prediction.interval, abs=1e-3)
        assert explanation.label == prediction.label
        assert explanation.describe("lower") == "lower brightness"
    # Evidence for higher is where there is none for lower.
    assert not ((both[0].heat[0] > 0.05) & (both[0].heat[1] > 0.05)).any()


@pytest.mark.parametrize("method", [method for method in METHODS if method != "eigencam"])
def test_all_methods_give_maps_between_0_and_1(numbers_run: Run, method: str) -> None:
    pixels = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    maps = explain_pixels(numbers_run.classifier, pixels, torch.zeros(1, dtype=torch.int64), method=method)  # type: ignore[arg-type]
    assert maps.shape == (1, 32, 32)
    assert maps.min() >= 0
    assert maps.max() <= 1


def test_a_method_with_one_map_for_both_directions_is_refused_before_an_image_is_read(numbers_run: Run) -> None:
    opened: list[str] = []
    sources = (opened.append("read") or Path("none.png") for _ in range(1))  # type: ignore[func-returns-value]
    with pytest.raises(UsageError, match=r"what raises a number from what lowers it\. Expected gradcam, "):
        next(stream(numbers_run, sources, method="eigencam"))
    assert not opened
    pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(UsageError, match="eigencam"):
        explain_pixels(numbers_run.classifier, pixels, torch.zeros(1, dtype=torch.int64), method="eigencam")


def test_each_map_of_score_cam_has_its_own_scale(numbers_run: Run) -> None:
    pixels = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    both, images = torch.tensor([0, 1]), torch.zeros(2, dtype=torch.int64)
    maps = explain_pixels(numbers_run.classifier, pixels.expand(2, -1, -1, -1), both, method="scorecam", images=images)
    assert maps.amax(dim=(1, 2)).tolist() == [1, 1]


def test_the_map_for_lower_is_that_of_the_negative_number(numbers_run: Run) -> None:
    pixels = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    model, two = numbers_run.classifier, pixels.expand(2, -1, -1, -1)
    before = explain_pixels(model, two, torch.tensor([0, 1]), method="hirescam")
    layer = model.head.classifier
    with torch.no_grad():
        layer.weight.neg_(), layer.bias.neg_()
        after = explain_pixels(model, two, torch.tensor([1, 0]), method="hirescam")
        layer.weight.neg_(), layer.bias.neg_()
    assert torch.allclose(before, after, atol=1e-5)


def test_one_direction_can_be_asked_for(numbers_run: Run, spots: list[Path]) -> None:
    (explanation,) = explain(numbers_run, spots[0], label="lower")
    assert explanation.targets == ("lower",)
    with pytest.raises(UnknownNameError, match="higher"):
        explain(numbers_run, spots[0], label="brightness")
    with pytest.raises(UsageError, match="is for classes"):
        explain(numbers_run, spots[0], likeliest=1)


def test_an_unreadable_image_has_an_error(numbers_run: Run, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"no image")
    (explanation,) = explain(numbers_run, tmp_path / "no.png")
    assert explanation.error is not None
    assert explanation.value is None


def test_the_command_draws_both_maps(numbers_run: Run, spots: list[Path], tmp_path: Path) -> None:
    words = ["explain", str(numbers_run.path), *map(str, spots), "--out", str(tmp_path / "maps")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "brightness" in done.output
    row = json.loads((tmp_path / "maps" / "explanations.json").read_text())[0]
    assert row["targets"] == ["higher", "lower"]
    assert row["interval"][0] < row["value"] < row["interval"][1]
    assert (tmp_path / "maps" / "sheet.png").is_file()
    done = CliRunner().invoke(app, [*words[:3], "--class", "lower", "--json", "--out", str(tmp_path / "one.png")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["images"][0]["quantity"] == "brightness"


def test_the_largest_errors_are_explained(numbers_run: Run, numbers_manifest: Path, tmp_path: Path) -> None:
    words = ["explain", str(numbers_run.path), "--mistakes", "2", "--data", str(numbers_manifest)]
    done = CliRunner().invoke(app, [*words, "--json", "--out", str(tmp_path / "maps")])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["images"]
    errors = [abs(row["value"] - row["truth"]) for row in rows]
    part = numbers_run.number_predictions.part("test")
    assert errors == pytest.approx(np.sort(np.abs(part.residuals))[::-1][:2].tolist(), abs=0.05)


def test_a_notebook_shows_the_number(numbers_run: Run, spots: list[Path]) -> None:
    html = to_html(explain(numbers_run, spots[0])[0]) or ""
    assert "Attribution for higher" in html
    assert "lower brightness" in html
