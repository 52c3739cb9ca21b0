import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from regraft.errors import DataError
from regraft.report.plots.training_curve import (
    describe_curves,
    draw_curves,
    draw_head_path,
    plot_history,
)


def history(head: int, finetune: int, **changes: Any) -> list[dict[str, Any]]:
    rows = [
        {
            "phase": phase,
            "epoch": epoch,
            "train_loss": 1 / (epoch + 1),
            "val_loss": 1.2 / (epoch + 1),
            "train_accuracy": 1 - 0.5 / epoch,
            "val_accuracy": 1 - 0.6 / epoch,
            "kept": False,
        }
        | changes
        for phase, count in (("head", head), ("finetune", finetune))
        for epoch in range(1, count + 1)
    ]
    rows[len(rows) // 2]["kept"] = True
    return rows


PATH = [{"l2": 10.0**-k, "val_loss": 0.3 + 0.1 * (k - 2) ** 2, "val_accuracy": 0.9, "seconds": 0.1} for k in range(5)]


@pytest.mark.parametrize(
    ("rows", "panels"),
    [
        (history(1, 0), 2),
        (history(40, 60), 2),
        (history(3, 3, val_loss=math.nan, train_loss=math.inf, val_accuracy=None), 2),
        (history(3, 3, train_loss=None, val_loss=None, train_accuracy=None, val_accuracy=None), 2),
        (history(3, 3, train_loss=0.0, val_loss=0.0, train_accuracy=1.0, val_accuracy=1.0), 2),
        (history(2, 0, phase="$warm_up$"), 2),
        ([], 1),
        (history(0, 3), 3),
    ],
)
def test_every_history_is_drawn(rows: list[dict[str, Any]], panels: int, tmp_path: Path) -> None:
    path = tmp_path / "plots" / "training_history.png"
    plot_history(rows, path, head_path=PATH if panels % 2 else (), title="$a$\n日本 " * 20)
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (975 * panels, 810))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def legend(figure: Figure) -> list[str]:
    drawn = figure.axes[0].get_legend()
    assert drawn is not None
    return [text.get_text() for text in drawn.get_texts()]


@pytest.mark.parametrize("kept", [0, 7, 14])
def test_the_legend_names_the_kept_epoch_and_lies_inside_the_figure(kept: int) -> None:
    rows = [row | {"kept": i == kept} for i, row in enumerate(history(3, 12))]
    figure = Figure(figsize=(5.4, 3.9))
    axes = figure.add_axes((0.13, 0.17, 0.83, 0.7))
    draw_curves(axes, rows, "accuracy")
    figure.canvas.draw()
    expected = f"kept: epoch {kept + 1 if kept < 3 else kept - 2}, {100 * rows[kept]['val_accuracy']:.1f} %"
    assert legend(figure) == ["training", "validation", expected]
    box = axes.get_legend().get_window_extent()  # type: ignore[union-attr]
    assert 0 <= box.x0 <= box.x1 <= figure.bbox.x1


def overlapping(axes: Axes) -> list[tuple[str, str]]:
    """Pairs of texts above the axes that cover each other, and texts that leave the figure."""
    figure = axes.figure
    figure.canvas.draw()
    boxes = [(text.get_text(), text.get_window_extent()) for text in axes.texts]
    found = [(a, b) for i, (a, one) in enumerate(boxes) for b, other in boxes[:i] if one.overlaps(other)]
    return found + [(a, "outside") for a, box in boxes if box.x0 < 0 or box.x1 > figure.bbox.x1]


@pytest.mark.parametrize(("head", "finetune"), [(20, 1), (1, 20), (1, 1), (3, 47), (50, 2)])
def test_the_names_of_the_phases_are_whole_and_apart(head: int, finetune: int) -> None:
    figure = Figure(figsize=(5.4, 3.9))
    axes = figure.add_axes((0.13, 0.17, 0.83, 0.7))
    draw_curves(axes, history(head, finetune), "loss")
    assert [text.get_text() for text in axes.texts] == ["head", "fine-tuning"]
    assert not overlapping(axes)


@pytest.mark.parametrize("train", [1.0, 0.999, 0.95])
@pytest.mark.parametrize("count", [1, 2, 50])
def test_no_tick_of_an_accuracy_stands_twice_or_above_100(count: int, train: float) -> None:
    figure = Figure(figsize=(5.4, 3.9))
    axes = figure.add_axes((0.13, 0.17, 0.83, 0.7))
    draw_curves(axes, history(0, count, train_accuracy=train, val_accuracy=1.0), "accuracy")
    figure.canvas.draw()
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert len(set(labels)) == len(labels) >= 2
    assert max(float(label.removesuffix(" %")) for label in labels) <= 100
    places = [text.get_text() for text in axes.get_xticklabels()]
    assert len(set(places)) == len(places)


def test_the_axis_has_the_numbers_of_the_epochs_in_their_phase() -> None:
    axes = Figure().subplots()
    draw_curves(axes, history(4, 6), "loss")
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "3", "4", "1", "2", "3", "4", "5", "6"]
    draw_curves(axes, history(20, 30), "loss")
    assert [text.get_text() for text in axes.get_xticklabels()][:5] == ["5", "10", "15", "20", "5"]


def test_without_validation_there_is_neither_a_curve_nor_a_legend_nor_a_panel_for_it(tmp_path: Path) -> None:
    rows = history(0, 3, val_loss=None, val_accuracy=None)
    figure = Figure()
    draw_curves(figure.subplots(), rows, "loss")
    assert "validation" not in legend(figure)
    plot_history(rows, tmp_path / "a.png", head_path=[row | {"val_loss": None} for row in PATH])
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == 2 * 975


def test_without_a_kept_epoch_no_ring_is_drawn() -> None:
    figure = Figure()
    draw_curves(figure.subplots(), [row | {"kept": False} for row in history(0, 3)], "loss")
    assert legend(figure) == ["training", "validation"]


def test_the_path_is_drawn_over_a_logarithmic_axis_with_the_chosen_strength() -> None:
    figure = Figure()
    draw_head_path(figure.subplots(), PATH)
    assert figure.axes[0].get_xscale() == "log"
    assert legend(figure) == ["validation loss", "chosen: 0.01"]


def test_a_path_without_validation_says_so() -> None:
    figure = Figure()
    draw_head_path(figure.subplots(), [row | {"val_loss": None} for row in PATH])
    assert [text.get_text() for text in figure.axes[0].texts] == ["no validation loss was measured"]


def test_the_description_gives_the_last_and_the_kept_values() -> None:
    rows = history(0, 3, val_accuracy=None)
    assert describe_curves(rows, "accuracy") == (
        "Accuracy over 3 epochs; at the end: training 83.3 %; kept: training 75.0 %."
    )


def test_no_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 epochs"):
        plot_history([], tmp_path / "history.png")
    assert not list(tmp_path.iterdir())
