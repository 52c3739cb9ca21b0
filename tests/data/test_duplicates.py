from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
from PIL import Image

from regraft.data.audit import audit
from regraft.data.duplicates import Forest, find_twins
from regraft.data.facts import look
from regraft.data.scan import scan
from regraft.pipeline.demo import demo_images
from regraft.store import Store


def twins_of(images: list[Image.Image]) -> list[tuple[int, int]]:
    pictures = np.stack([look(image)[0] for image in images])
    sides = np.array([min(image.size) for image in images])
    return ends_of(find_twins(lambda chosen: pictures[chosen].copy(), sides))


def ends_of(twins: np.ndarray) -> list[tuple[int, int]]:
    return [(int(first), int(second)) for first, second, *_ in twins]


def cells(count: int) -> list[Image.Image]:
    files = sorted((demo_images() / "images").glob("*.png"))
    return [Image.open(file).convert("RGB") for file in files[:: len(files) // count][:count]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Real solar cells, copies planted among them, and what the scan makes of it."""
    folder = tmp_path_factory.mktemp("planted")
    store = Store(folder / "store")
    originals = planted.cells(store, every=4)
    truth = planted.plant(originals, folder / "cells", each=40, seed=1)
    dataset = scan(folder / "cells", store=store)
    return dataset, truth, *planted.duplicates_found(dataset, truth)


def test_planted_copies_are_found(found: Any) -> None:
    _, _, recall, _ = found
    assert recall["exact"] == (40, 40)
    hits = recall["re-encoded"][0] + recall["resized"][0]
    assert hits >= 0.99 * 80
    assert recall["cropped by 5 %"][0] + recall["brightness"][0] >= 0.9 * 80
    assert recall["mirrored"][0] >= 0.9 * 40


def test_what_is_taken_for_the_same_is_the_same(found: Any) -> None:
    *_, (right, total) = found
    assert right >= 0.95 * total
    assert total >= 200


def test_copies_are_findings(found: Any) -> None:
    dataset, truth, *_ = found
    kinds = {finding.kind: finding for finding in audit(dataset)}
    exact = {frozenset(files) for files in kinds["duplicates"].files}
    assert {frozenset((copy, o)) for copy, (o, kind) in truth.copies.items() if kind == "exact"} <= exact
    assert sum(map(len, kinds["near_duplicates"].files)) >= 300


def test_the_order_of_the_images_does_not_matter() -> None:
    images = cells(30)
    images += [image.resize((150, 150)) for image in images[:10]]
    order = np.random.default_rng(0).permutation(len(images))
    turned = twins_of([images[i] for i in order])
    assert {frozenset(pair) for pair in twins_of(images)} == {frozenset((order[a], order[b])) for a, b in turned}
    assert len(turned) >= 10


def test_a_fixed_camera_takes_no_duplicates() -> None:
    """A hundred pictures of the same thing at the same place differ in noise, and some in a scratch."""
    rng = np.random.default_rng(0)
    scene = np.asarray(cells(1)[0], np.float64)
    images = []
    for i in range(100):
        shot = scene + rng.normal(0, 12, scene.shape[:2])[:, :, None]
        if i % 4 == 0:
            row = rng.integers(20, 280)
            shot[row : row + 6, 40:200] -= 40
        images.append(Image.fromarray(np.clip(shot, 0, 255).astype(np.uint8)))
    images.append(images[7].resize((280, 280), Image.Resampling.BICUBIC))  # but a copy of one of them is one
    assert twins_of(images) == [(7, 100)]


def test_what_shows_nothing_is_like_nothing() -> None:
    plain = [
        Image.new("RGB", (100, 100), colour) for colour in ("red", "green", "#ff0000", "#fe0000", "black", "white")
    ]
    assert twins_of(plain) == []


def test_noise_is_like_no_other_noise() -> None:
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(200)]
    assert twins_of(images) == []
    assert twins_of([*images, images[3]]) == [(3, 200)]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_images(count: int) -> None:
    pictures = np.repeat(look(cells(1)[0])[0][None], count, axis=0)
    found = find_twins(lambda chosen: pictures[chosen].copy(), np.full(count, 300))
    assert ends_of(found) == ([(0, 1)] if count == 2 else [])


def test_many_images_are_sorted_into_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above some thousand not all pairs are tried; the same are found."""
    images = cells(400)
    images += [image.resize((200, 200)) for image in images[::10]]
    every = twins_of(images)
    monkeypatch.setattr("regraft.data.duplicates._ALL", 50)
    few = twins_of(images)

    def sets(pairs: list[tuple[int, int]]) -> list[int]:
        forest = Forest(len(images))
        for pair in pairs:
            forest.join(*pair)
        return [forest.root(i) for i in range(len(images))]

    assert np.mean(np.array(sets(every)) == sets(few)) > 0.98
    copies = [400 + i for i in range(40)]
    assert np.mean([sets(few)[copy] == sets(few)[10 * (copy - 400)] for copy in copies]) > 0.97


def test_pairs_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, image in enumerate(cells(6)):
        (tmp_path / "data" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "data" / "ab"[i % 2] / f"{i}.png")
        image.resize((200, 200)).save(tmp_path / "data" / "ab"[i % 2] / f"{i}-small.png")
    first = scan(tmp_path / "data", store=Store(tmp_path / "store"))
    assert len(first.pairs) >= 6
    assert {s.twins for s in first.samples if s.path.startswith("a/0")} == {first.samples[0].twins}
    monkeypatch.setattr("regraft.data.scan.find_twins", None)
    assert scan(tmp_path / "data", store=Store(tmp_path / "store")) == first
    assert scan(tmp_path / "data", twins=False).pairs == ()
