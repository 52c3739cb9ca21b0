"""Heat maps of images with any number of labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from terminal import regraft

from regraft.attribution.cam import explain_pixels
from regraft.errors import UsageError
from regraft.runs.explain import explain
from regraft.runs.run import Run
from regraft.runs.top_losses import top_losses
from regraft.studies.attribution_audit import audit_attribution


def test_each_label_is_explained(several_run: Run, several_labels: Path) -> None:
    images = sorted(several_labels.parent.glob("0*.png"))
    explanations = explain(several_run, images)
    for one, prediction in zip(explanations, several_run.predict(images), strict=True):
        assert one.labels == prediction.labels
        assert one.targets == (prediction.labels or (prediction.top(1)[0][0],))
        assert one.heat.shape == (len(one.targets), 32, 32)
    several = next(one for one in explanations if len(one.targets) > 1)
    (alone,) = explain(several_run, several.source, label=several.targets[1])
    np.testing.assert_allclose(alone.heat[0], several.heat[1], atol=1e-5)
    (two,) = explain(several_run, images[0], likeliest=2)
    assert len(two.targets) == 2


def test_a_map_does_not_depend_on_other_labels(several_run: Run, several_labels: Path) -> None:
    """The evidence for a label is that for its own logit."""
    model = several_run.classifier
    pixels = torch.from_numpy(model.preprocessing(several_labels.parent / "01.png"))[None].permute(0, 3, 1, 2)
    before = explain_pixels(model, pixels, torch.tensor([0]), method="gradcam")
    with torch.no_grad():
        kept = model.head.classifier.weight[1:].clone()
        model.head.classifier.weight[1:] += 1
        after = explain_pixels(model, pixels, torch.tensor([0]), method="gradcam")
        model.head.classifier.weight[1:] = kept
    assert torch.equal(before, after)


def test_mistakes_are_the_worst_of_each_label(several_run: Run) -> None:
    part = several_run.label_predictions_of()
    wrong = part.predicted != part.indicators
    losses = top_losses(several_run, 100)
    assert len(losses) == wrong.sum()
    found = [part.classes.index(loss.wrong or "") for loss in losses]
    assert all(wrong[part.ids.index(loss.path), column] for loss, column in zip(losses, found, strict=True))
    with_errors = int(wrong.any(axis=0).sum())
    assert len(set(found[:with_errors])) == with_errors


def test_the_command_draws_labels_and_mistakes(several_run: Run, several_labels: Path, tmp_path: Path) -> None:
    images = sorted(several_labels.parent.glob("0[0-3].png"))
    done = regraft("explain", several_run.path, *images, "--out", tmp_path / "maps", "--json")
    assert done.returncode == 0, done.stderr
    for row, prediction in zip(json.loads(done.stdout)["images"], several_run.predict(images), strict=True):
        assert row["labels"] == list(prediction.labels)
        assert Path(row["picture"]).is_file()
    assert (tmp_path / "maps" / "sheet.png").is_file()
    part = several_run.label_predictions_of()
    if count := min(2, int((part.predicted != part.indicators).sum())):
        done = regraft("explain", several_run.path, "--mistakes", count, "--out", tmp_path / "errors", "--json")
        assert done.returncode == 0, done.stderr
        rows = json.loads(done.stdout)["images"]
        assert [row["targets"] for row in rows] == [[row["wrong"]] for row in rows]
        assert all((row["wrong"] in row["labels"]) != (row["wrong"] in row["truth"]) for row in rows)
    done = regraft("explain", several_run.path, images[0], "--class", "red", "--out", tmp_path / "one.png")
    assert done.returncode == 0, done.stderr


def test_an_audit_needs_one_class(several_run: Run) -> None:
    with pytest.raises(UsageError, match="any number of labels"):
        audit_attribution(several_run)
