from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from regraft.data.quality.findings import audit
from regraft.data.quality.shortcuts import _p_value, measure_shortcuts
from regraft.data.split import inseparable_set_ids

Make = Callable[..., Any]


SHORTCUTS: list[tuple[str, Any, str]] = [
    ("image size", {"width": 640, "height": 480}, "error"),
    ("file format", {"format": "PNG"}, "error"),
    ("color mode", {"mode": "L"}, "error"),
    ("brightness", {"brightness": 0.9}, "warning"),
    ("file size", {"bytes": 90_000}, "warning"),
]


@pytest.mark.parametrize(("name", "image_stats", "severity"), SHORTCUTS, ids=[s[0] for s in SHORTCUTS])
def test_a_shortcut_is_named(
    sample: Make, plain: Make, dataset: Make, name: str, image_stats: dict[str, Any], severity: str
) -> None:
    ending = "png" if "format" in image_stats else "jpg"
    cats = [sample(f"cat/{i}.{ending}", "cat", **image_stats) for i in range(50)]
    found = {f.title: f for f in audit(dataset(cats + plain("dog", 50))) if f.kind == "shortcut"}
    (finding,) = (f for title, f in found.items() if f"from the {name} alone" in title)
    assert "100 % balanced accuracy" in finding.title
    assert "chance is 50 %" in finding.title
    assert finding.severity == severity
    assert any("cat" in detail for detail in finding.details)


def test_a_file_name_pattern_is_a_shortcut_but_the_class_in_the_name_is_not(sample: Make, dataset: Make) -> None:
    named = [sample(f"x/{label}.{i:04d}.jpg", label) for label in ("cat", "dog") for i in range(40)]
    assert audit(dataset(named)) == []
    cameras = [sample(f"cat/IMG_{i:04d}.jpg", "cat") for i in range(40)]
    cameras += [sample(f"dog/DSC{i:05d}.jpg", "dog") for i in range(40)]
    (finding,) = audit(dataset(cameras))
    assert "file-name pattern" in finding.title
    assert "img_#: 100 % cat (40 images)" in finding.details


def test_chance_is_no_shortcut(plain: Make) -> None:
    rng = np.random.default_rng(0)
    noise = [
        dataclasses.replace(
            s, image_stats=dataclasses.replace(s.image_stats, brightness=rng.random(), bytes=int(rng.integers(9e5)))
        )
        for s in plain("cat", 60) + plain("dog", 60) + plain("eel", 12)
    ]
    shortcuts = measure_shortcuts(noise, inseparable_set_ids(noise))
    assert max(s.strength for s in shortcuts) < 0.3
    assert all(s.chance == pytest.approx(1 / 3) for s in shortcuts)


def test_copies_do_not_make_a_shortcut(sample: Make) -> None:
    """The same picture in train and test folds would give its label away by its size on disk."""
    rng = np.random.default_rng(1)
    samples = []
    for label in ("cat", "dog"):
        for i in range(20):
            size = int(rng.integers(1e6))
            samples += [
                sample(f"{label}/{i}-{j}.jpg", label, near_duplicates=f"{label}{i}", bytes=size) for j in range(6)
            ]
    assert max(s.strength for s in measure_shortcuts(samples, inseparable_set_ids(samples))) < 0.45


def test_few_images_are_no_evidence_of_a_shortcut(plain: Make) -> None:
    accused = tempting = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        samples = [
            dataclasses.replace(
                s, image_stats=dataclasses.replace(s.image_stats, width=int(w), brightness=rng.random())
            )
            for s, w in zip(plain("cat", 10) + plain("dog", 10), rng.integers(400, 410, 20), strict=True)
        ]
        shortcuts = measure_shortcuts(samples, np.arange(20))
        tempting += any(s.strength >= 0.3 for s in shortcuts)
        accused += any(s.p < 0.05 for s in shortcuts)
    assert accused <= 3 < tempting  # 5 % of the data sets, beside those where the accuracy alone would be an alarm


def test_the_probability_of_chance_is_that_of_shuffled_labels() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = np.repeat([0, 1, 2], [30, 20, 10]), rng.integers(0, 3, 60)
    predicted[:18] = labels[:18]
    hits = (labels == predicted).sum()
    shuffled = np.array([(rng.permutation(labels) == predicted).sum() for _ in range(4000)])
    assert _p_value(labels, predicted, 3) == pytest.approx((shuffled >= hits - 0.5).mean(), abs=0.03)
    assert _p_value(labels, np.zeros_like(labels), 3) == 1.0
