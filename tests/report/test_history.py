import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from regraft.errors import DataError
from regraft.report.history import _epoch_name, plot_history


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


@pytest.mark.parametrize(
    "rows",
    [
        history(1, 0),
        history(5, 0),
        history(0, 5),
        history(1, 8),
        history(40, 60),
        history(3, 3, val_loss=None, val_accuracy=math.nan),
        history(3, 3, val_loss=math.nan, train_loss=math.inf),
        history(3, 3, train_loss=None, val_loss=None, train_accuracy=None, val_accuracy=None),
        history(3, 3, train_loss=0.0, val_loss=0.0, train_accuracy=1.0, val_accuracy=1.0),
        history(2, 0, phase="$warm_up$"),
    ],
)
def test_every_history_draws_in_the_same_size(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "plots" / "training_history.png"
    plot_history(rows, path, title="$a$\n日本 " * 20)
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (1950, 810))
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 5
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_kept_epoch_shows(tmp_path: Path) -> None:
    rows = history(3, 3)
    plot_history(rows, tmp_path / "kept.png")
    plot_history([row | {"kept": False} for row in rows], tmp_path / "none.png")
    assert (tmp_path / "kept.png").read_bytes() != (tmp_path / "none.png").read_bytes()


def test_the_kept_epoch_is_named_as_the_history_numbers_it() -> None:
    rows = history(3, 3)
    assert [_epoch_name(rows[i], rows) for i in (0, 2, 3)] == ["epoch 1", "epoch 3", "epoch 1 of fine-tuning"]


def test_no_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 epochs"):
        plot_history([], tmp_path / "history.png")
    assert not list(tmp_path.iterdir())
