"""`--task ordinal` and `--order` as typed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from terminal import regraft

GRADES = ("none", "mild", "severe")


def test_an_order_is_asked_for_and_taken(write_squares: Callable[..., Path], tmp_path: Path) -> None:
    data = write_squares(tmp_path / "grades", {name: (230 - 90 * i,) * 3 for i, name in enumerate(GRADES)}, count=6)
    words = ("train", data, "--image-size", "32", "--epochs", "0", "--set", "data.test=0.3", "--out", tmp_path / "run")
    refused = regraft(*words, "--task", "ordinal")
    assert refused.returncode == 2
    assert "mild, none, severe" in refused.stderr
    assert "--order" in refused.stderr
    done = regraft(*words, "--order", ",".join(GRADES))
    assert done.returncode == 0, done.stderr
    assert "lowest first: none, mild, severe" in done.stdout
    assert "quadratic weighted kappa" in done.stdout
    assert "test kappa (95 %)" in done.stdout
    again = regraft("evaluate", tmp_path / "run", data)
    assert "mean absolute error (steps)" in again.stdout
    inspected = regraft("inspect", data, "--order", ",".join(GRADES), "--out", tmp_path / "page.html")
    assert "--task ordinal --order none,mild,severe" in inspected.stdout
