from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
from PIL import Image

from regraft.cache import Cache
from regraft.data.image_stats import measure
from regraft.data.quality.findings import audit
from regraft.data.quality.near_duplicates import _best_of_each, _Candidates, find_near_duplicates
from regraft.data.scan import scan
from regraft.data.union_find import UnionFind
from regraft.runs.demo import demo_images


def near_duplicates_of(images: list[Image.Image]) -> list[tuple[int, int]]:
    pictures = np.stack([measure(image)[0] for image in images])
    sides = np.array([min(image.size) for image in images])
    return ends_of(find_near_duplicates(lambda chosen: pictures[chosen].copy(), sides))


def ends_of(near_duplicates: np.ndarray) -> list[tuple[int, int]]:
    return [(int(first), int(second)) for first, second, *_ in near_duplicates]


def cells(count: int) -> list[Image.Image]:
    files = sorted((demo_images() / "images").glob("*.png"))
    return [Image.open(file).convert("RGB") for file in files[:: len(files) // count][:count]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Real solar cells with altered copies of twenty for each kind of change, scanned."""
    folder = tmp_path_factory.mktemp("planted")
    cache = Cache(folder / "store")
    originals = planted.cells(cache, every=12)
    truth = planted.plant(originals, folder / "cells", each=20, seed=1)
    dataset = scan(folder / "cells", cache=cache)
    return dataset, truth, *planted.duplicates_found(dataset, truth)


def test_altered_copies_are_found_and_few_others(found: Any) -> None:
    *_, recall, (correct, total) = found
    assert recall["exact"] == (20, 20)
    assert recall["re-encoded"][0] + recall["resized"][0] >= 39
    assert recall["cropped by 5 %"][0] + recall["brightness"][0] >= 36
    assert recall["mirrored"][0] >= 18
    assert correct >= 0.95 * total
    assert total >= 110


def test_copies_are_findings(found: Any) -> None:
    dataset, truth, *_ = found
    kinds = {finding.kind: finding for finding in audit(dataset)}
    exact = {frozenset(files) for files in kinds["duplicates"].files}
    assert {frozenset((copy, o)) for copy, (o, kind) in truth.copies.items() if kind == "exact"} <= exact
    assert sum(map(len, kinds["near_duplicates"].files)) >= 180


def test_the_order_of_the_images_does_not_matter() -> None:
    images = cells(30)
    images += [image.resize((150, 150)) for image in images[:10]]
    order = np.random.default_rng(0).permutation(len(images))
    turned = near_duplicates_of([images[i] for i in order])
    assert {frozenset(pair) for pair in near_duplicates_of(images)} == {
        frozenset((order[a], order[b])) for a, b in turned
    }
    assert len(turned) >= 10


def test_pictures_of_a_fixed_camera_are_not_duplicates() -> None:
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
    assert near_duplicates_of(images) == [(7, 100)]


def test_plain_images_are_not_duplicates() -> None:
    plain = [Image.new("RGB", (100, 100), color) for color in ("red", "green", "#ff0000", "#fe0000", "black", "white")]
    assert near_duplicates_of(plain) == []


def test_noise_images_are_not_duplicates() -> None:
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(200)]
    assert near_duplicates_of(images) == []
    assert near_duplicates_of([*images, images[3]]) == [(3, 200)]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_images(count: int) -> None:
    pictures = np.repeat(measure(cells(1)[0])[0][None], count, axis=0)
    found = find_near_duplicates(lambda chosen: pictures[chosen].copy(), np.full(count, 300))
    assert ends_of(found) == ([(0, 1)] if count == 2 else [])


def test_the_index_finds_what_an_exhaustive_search_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above some thousand not all pairs are tried; the same are found."""
    images = cells(200)
    images += [image.resize((200, 200)) for image in images[::5]]
    every = near_duplicates_of(images)
    monkeypatch.setattr("regraft.data.quality.descriptor_index._EXHAUSTIVE", 50)
    few = near_duplicates_of(images)

    def sets(pairs: list[tuple[int, int]]) -> list[int]:
        sets_of = UnionFind(len(images))
        for pair in pairs:
            sets_of.union(*pair)
        return sets_of.roots()

    assert np.mean(np.array(sets(every)) == sets(few)) > 0.98
    roots = sets(few)
    assert np.mean([roots[200 + i] == roots[5 * i] for i in range(40)]) > 0.97


def test_pairs_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, image in enumerate(cells(6)):
        (tmp_path / "data" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "data" / "ab"[i % 2] / f"{i}.png")
        image.resize((200, 200)).save(tmp_path / "data" / "ab"[i % 2] / f"{i}-small.png")
    first = scan(tmp_path / "data", cache=Cache(tmp_path / "store"))
    assert len(first.pairs) >= 6
    assert {s.near_duplicate_group for s in first.samples if s.path.startswith("a/0")} == {
        first.samples[0].near_duplicate_group
    }
    monkeypatch.setattr("regraft.data.quality.same_pictures.find_near_duplicates", None)
    assert scan(tmp_path / "data", cache=Cache(tmp_path / "store")) == first
    assert scan(tmp_path / "data", near_duplicates=False).pairs == ()


def test_blocks_find_what_is_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many images, only the spectra of a block are in memory; the same pairs are found."""
    images = cells(120)
    images += [image.resize((200, 200)) for image in images[::5]]
    images += [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images[3:120:20]]
    pictures = np.stack([measure(image)[0] for image in images])
    sides, shown = np.array([min(image.size) for image in images]), list[tuple[int, int]]()

    def find() -> np.ndarray:
        shown.clear()
        return find_near_duplicates(
            lambda i: pictures[i].copy(), sides, progress=lambda done, count: shown.append((done, count))
        )

    at_once = find()
    count = len(images)
    assert len(at_once) >= 28
    assert (count, count) not in shown
    monkeypatch.setattr("regraft.data.quality.near_duplicates._IN_MEMORY", 64)
    np.testing.assert_allclose(find(), at_once, atol=1e-3)
    assert shown[:3] == [(64, count), (128, count), (count, count)]
    monkeypatch.setattr("regraft.data.quality.near_duplicates._KEPT_OF_ALL", 8)  # only the most similar ones stay
    monkeypatch.setattr("regraft.data.quality.near_duplicates._COMPARED", 2000)
    np.testing.assert_allclose(find(), at_once, atol=1e-3)


def test_the_best_candidates_of_each_image_stay() -> None:
    rng = np.random.default_rng(1)
    ends = rng.integers(0, 20, (200, 2))
    ends = ends[ends[:, 0] != ends[:, 1]]
    none, cosine = np.zeros(len(ends), int), rng.permutation(len(ends)) / len(ends)
    candidates = _Candidates(ends[:, 0], ends[:, 1], cosine, none, none.astype(bool))
    best = {
        number
        for image in range(20)
        for number in sorted(np.flatnonzero(ends[:, 0] == image), key=lambda row: -cosine[row])[:2]
    }
    kept = _best_of_each(candidates, 2).cosine
    assert kept.tolist() == cosine[sorted(best)].tolist()
