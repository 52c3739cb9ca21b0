from __future__ import annotations

from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from regraft.report.run_table import COLUMNS
from regraft.studies.compare.page import comparison_figure, markdown_of


def model(
    name: str, seconds: float, accuracy: float, weights: str = "wheel", parameters: int = 3_400_000
) -> dict[str, Any]:
    interval = [accuracy - 0.05, min(1.0, accuracy + 0.05)]
    return {
        "name": name, "weights": weights, "trained": "head only", "parameters": parameters, "megabytes": 14.0,
        "peak_megabytes": 1200.0, "train_seconds": seconds, "finetune_epochs": 4, "image_size": 224,
        "predict_ms_1": 12.3, "predict_ms_32": 4.5, "predict_ms_file": 13.0, "train_accuracy": 0.97,
        "val_accuracy": 0.9, "test_accuracy": accuracy, "test_accuracy_interval": interval, "test_macro_f1": accuracy,
        "test_macro_f1_interval": interval,
    }  # fmt: skip


OF_ONE_CLASS = [name for name in COLUMNS if not {"mAP", "kappa", "MAE", "RMSE", "R2"} & set(name.split())]
MODELS = [model("a|b <i>", 12.0, 0.9, "none"), model("c", 13.0, 0.89)]
PAIR = {"first": "a|b <i>", "second": "c", "accuracy": 0.01, "interval": [-0.02, 0.04], "only_first": 3,
        "only_second": 2, "p": 0.31234, "p_corrected": 0.62}  # fmt: skip
FIVE = [
    model("efficientnet_lite0", 23, 0.75), model("resnet50", 120, 0.77, parameters=23_000_000),
    model("mobilenetv2", 20, 0.717), model("cnn", 25, 0.7, "none", 400_000), model("ann", 8, 0.45, "none"),
]  # fmt: skip


def test_the_markdown_has_a_row_per_model_and_pair() -> None:
    text = markdown_of(MODELS, [PAIR], ["a|b <i> is *best*: 90 %."], "Not tested: d.")
    lines = text.splitlines()
    assert lines[:3] == ["# Comparison", "", "a&#124;b &lt;i&gt; is \\*best\\*: 90 %."]
    rows = [line for line in lines if line.startswith("|")]
    assert rows[0] == "| " + " | ".join(OF_ONE_CLASS) + " |"
    assert {row.count("|") for row in rows[:4]} == {len(OF_ONE_CLASS) + 1}
    assert rows[2].startswith("| a&#124;b &lt;i&gt; (random weights) | head only | 4 | 224 px | 3.4 M | 14 MB |")
    assert rows[-1] == "| a&#124;b &lt;i&gt; minus c | +1.0 (-2.0 to +4.0) | 3 | 2 | 0.31 | 0.62 |"
    assert "Not tested: d." in lines
    assert "Pairwise differences" not in markdown_of(MODELS, [], [])


def test_of_several_labels_the_score_is_the_mean_average_precision() -> None:
    scores = {"test_mean_average_precision": 0.81, "test_mean_average_precision_interval": [0.7, 0.9]}
    none = dict.fromkeys(("test_accuracy", "test_accuracy_interval", "train_accuracy", "val_accuracy"))
    models = [row | none | scores for row in MODELS]
    pair = {"first": "a", "second": "c", "mean_average_precision": 0.02, "interval": [-0.01, 0.05], "p": 0.2,
            "p_corrected": 0.4}  # fmt: skip
    text = markdown_of(models, [pair], ["a is best."])
    assert "| 0.810 (0.700 to 0.900) |" in text
    assert "| a minus c | +0.020 (-0.010 to +0.050) | 0.2 | 0.4 |" in text
    assert "accuracy" not in text
    texts = [text.get_text() for text in comparison_figure(models).findobj(Text)]
    assert "mAP and training time" in texts
    assert any("0.810" in text for text in texts)


def test_of_numbers_the_score_is_the_mean_absolute_error() -> None:
    scores = {f"test_{name}": value for name, value in (("mae", 4.0), ("rmse", 5.5), ("r2", 0.61))}
    scores |= {"test_mae_interval": [3.5, 4.5], "test_rmse_interval": [5.0, 6.0], "test_r2_interval": [0.5, 0.7],
               "val_mae": 3.9}  # fmt: skip
    none = dict.fromkeys(("test_accuracy", "test_accuracy_interval", "train_accuracy", "val_accuracy", "test_macro_f1"))
    models = [row | none | scores for row in MODELS]
    pair = {"first": "a", "second": "c", "mae": -0.25, "interval": [-0.5, 0.0125], "p": 0.06, "p_corrected": 0.06}
    text = markdown_of(models, [pair], ["a is best."])
    assert "| 3.9 | 4 (3.5 to 4.5) | 5.5 (5 to 6) | 0.610 (0.500 to 0.700) |" in text
    assert "| a minus c | -0.25 (-0.5 to +0.0125) | 0.06 | 0.06 |" in text
    assert "accuracy" not in text
    texts = [text.get_text() for text in comparison_figure(models).findobj(Text)]
    assert "MAE and training time" in texts
    assert "test mean absolute error (MAE), 95 % confidence interval" in texts


def test_the_picture_has_every_cell_of_the_table() -> None:
    figure = comparison_figure(FIVE, caption="Not tested: d.")
    texts = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert texts >= {*OF_ONE_CLASS, "head only", "23.0 M", "0.970", "0.770 (0.720 to 0.820)", "Not tested: d."}


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that cover each other, and labels of the chart that an interval crosses."""
    figure.draw_without_rendering()
    texts = [text for axes in figure.axes for text in axes.texts if text.get_text()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    found = [(one, other) for i, (one, box) in enumerate(boxes) for other, second in boxes[:i] if box.overlaps(second)]
    chart = figure.axes[0]
    for line in chart.lines:
        box = Bbox(chart.transData.transform(line.get_xydata()))  # type: ignore[arg-type]
        labels = [t for t in chart.texts if isinstance(t, Annotation) and t.get_text().endswith("%")]
        found += [(t.get_text(), "interval") for t in labels if t.get_window_extent().overlaps(box.padded(1))]
    return found


@pytest.mark.parametrize(
    "models",
    [FIVE[:1], FIVE, [model("first", 20, 1.0), model("second", 20.4, 1.0)],
     [model(f"model_{i}", 20 + i, 0.8 + 0.01 * i) for i in range(8)]],
    ids=["one", "five", "equal", "close"],
)  # fmt: skip
def test_no_label_covers_another_or_an_interval(models: list[dict[str, Any]]) -> None:
    figure = comparison_figure(models)
    assert not overlaps(figure)
    for axes in figure.axes:
        for text in axes.texts:
            box = text.get_window_extent()
            assert box.x0 >= -1, text
            assert box.x1 <= figure.bbox.x1 + 1, text
