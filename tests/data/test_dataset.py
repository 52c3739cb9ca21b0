import dataclasses
from pathlib import Path

import numpy as np
import pytest

from regraft.data.dataset import PARTS, Dataset, Sample, Split
from regraft.data.decode import decode_image
from regraft.errors import DataError, ImageError


@pytest.fixture
def arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (6 + i, 9, 3), dtype=np.uint8) for i in range(4)]


@pytest.fixture
def dataset() -> Dataset:
    samples = (
        Sample("b/1.png", "b", "1", "test"),
        Sample("a/1.png", "a", "2", "train"),
        Sample("b/2.png", "b", "3", "train"),
    )
    return Dataset(Path("data"), samples, ("a", "b", "c"))


def test_labels_and_counts_follow_the_class_order(dataset):
    assert dataset.labels.dtype == np.int64
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.counts() == {"a": 1, "b": 2, "c": 0}
    assert list(dataset.counts()) == ["a", "b", "c"]
    assert len(dataset) == 3


def test_an_empty_data_set_has_labels(dataset):
    empty = dataset.with_samples([])
    assert empty.labels.shape == (0,)
    assert empty.labels.dtype == np.int64
    assert empty.classes == dataset.classes


def test_with_samples_keeps_all_else(dataset):
    fewer = dataclasses.replace(dataset, max_pixels=7, notes=("note",)).with_samples(dataset.samples[:1])
    assert fewer.samples == dataset.samples[:1]
    assert (fewer.root, fewer.classes, fewer.max_pixels, fewer.notes) == (
        Path("data"),
        ("a", "b", "c"),
        7,
        ("note",),
    )


def test_the_source_of_a_sample_is_its_file(dataset):
    assert dataset.source(dataset.samples[0]) == Path("data/b/1.png")
    absolute = Sample(str(Path("/elsewhere/1.png")), "a", "4")
    assert dataset.source(absolute) == Path("/elsewhere/1.png")


def test_it_is_a_frozen_value(dataset):
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.classes = ("x",)
    assert hash(dataset) == hash(dataset.with_samples(dataset.samples))
    assert dataset == dataset.with_samples(dataset.samples)
    assert dataset != dataset.with_samples(dataset.samples[:2])


def test_from_arrays(arrays):
    dataset = Dataset.from_arrays(arrays, ["dog", "cat", "dog", "cat"], groups=["g", None, "g", "h"])
    assert dataset.classes == ("cat", "dog")
    assert dataset.labels.tolist() == [1, 0, 1, 0]
    assert [s.group for s in dataset.samples] == ["g", None, "g", "h"]
    assert [s.path for s in dataset.samples] == sorted({s.path for s in dataset.samples})
    for sample, array in zip(dataset.samples, arrays, strict=True):
        np.testing.assert_array_equal(decode_image(dataset.source(sample)), array)
    part = dataset.with_samples(dataset.samples[2:])
    np.testing.assert_array_equal(part.source(part.samples[0]), arrays[2])


def test_from_arrays_takes_one_array_of_all_images_and_any_labels():
    images = np.linspace(0, 1, 3 * 8 * 8).reshape(3, 8, 8)
    dataset = Dataset.from_arrays(images, np.array([10, 9, 10]))
    assert dataset.classes == ("10", "9")
    assert [dataset.source(s).shape for s in dataset.samples] == [(8, 8, 3)] * 3
    assert {s.group for s in dataset.samples} == {None}


def test_equal_pixels_are_duplicates_and_other_shapes_are_not(arrays):
    flat = np.zeros((4, 9, 3), dtype=np.uint8)
    images = [arrays[0], arrays[0].copy(), flat, flat.reshape(9, 4, 3)]
    hashes = [s.sha256 for s in Dataset.from_arrays(images, list("aabb")).samples]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_from_arrays_names_what_is_wrong(arrays):
    with pytest.raises(DataError, match=r"4 images, 3 labels and 3 groups; expected one label"):
        Dataset.from_arrays(arrays, ["a", "b", "c"])
    with pytest.raises(DataError, match=r"4 images, 4 labels and 1 groups; expected one label, and one group if any"):
        Dataset.from_arrays(arrays, list("aabb"), groups=["g"])
    with pytest.raises(ImageError, match=r"images\[2\]: an array of shape \(3, 8, 8\); expected \(H, W\)"):
        Dataset.from_arrays([*arrays[:2], np.zeros((3, 8, 8), np.uint8)], list("abc"))


def test_a_split_has_parts_in_order(dataset):
    split = Split(dataset)
    assert PARTS == ("train", "val", "test")
    assert list(split) == ["train", "test"]
    assert [s.path for s in split.train.samples] == ["a/1.png", "b/2.png"]
    assert split.val.samples == ()
    assert [s.path for s in split.test.samples] == ["b/1.png"]
    assert split["train"] == split.train
    assert split.classes == split.test.classes == ("a", "b", "c")
    assert split.counts() == {"train": {"a": 1, "b": 1, "c": 0}, "test": {"a": 0, "b": 1, "c": 0}}


def test_a_split_needs_a_part_for_every_sample(dataset):
    loose = dataset.with_samples([*dataset.samples, Sample("a/9.png", "a", "9")])
    with pytest.raises(DataError, match=r"A split needs a part for every sample; call regraft\.split\(dataset\) first"):
        Split(loose)


def test_the_shorter_side_is_a_median_of_what_is_known() -> None:
    images = [np.zeros((height, width, 3), np.uint8) for height, width in ((10, 30), (20, 8), (50, 60))]
    dataset = Dataset.from_arrays(images, ["a", "b", "a"])
    assert dataset.samples[0].size == (30, 10)
    assert dataset.shorter_side == 10
    assert dataset.with_samples([]).shorter_side == 0


def test_a_text_is_one_of_several_labels():
    images = np.zeros((2, 8, 8, 3), np.uint8)
    images[1] = 9
    assert Dataset.from_arrays(images, ["cat", ["cat", "dog"]]).classes == ("cat", "dog")
