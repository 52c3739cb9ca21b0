"""What notebooks show of images with any number of labels."""

from __future__ import annotations

from pathlib import Path

from regraft.notebook import to_html
from regraft.notebook_repr import ResultList
from regraft.runs.explain import explain
from regraft.runs.run import Run


def test_predictions_name_the_labels(several_run: Run, several_labels: Path) -> None:
    images = sorted(several_labels.parent.glob("0*.png"))
    predictions = several_run.predict(images)
    assert isinstance(predictions, ResultList)
    several = next(one for one in predictions if len(one.labels) > 1)
    assert ", ".join(several.labels) in (to_html(several) or "")
    if none := next((one for one in predictions if not one.labels), None):
        assert "none of the labels" in (to_html(none) or "")


def test_explanations_have_a_map_of_each_label(several_run: Run, several_labels: Path) -> None:
    images = sorted(several_labels.parent.glob("0*.png"))
    explanation = next(one for one in explain(several_run, images) if len(one.targets) > 1)
    html = to_html(explanation) or ""
    assert all(f"Attribution for {name}" in html for name in explanation.labels)
