import pytest

from regraft.data.sources.part_names import is_container, part_of, parts_among


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("Train", "train"), ("TRAINING", "train"), ("training_set", "train"), ("seg_train", "train"),
        ("train2017", "train"), ("Final_Training", "train"), ("trainset", "train"), ("images-train", "train"),
        ("valid", "val"), ("validation", "val"), ("dev", "val"), ("val_images", "val"),
        ("TEST", "test"), ("test_set", "test"), ("test1", "test"), ("evaluation", "test"), ("testdata", "test"),
        ("train_station", None), ("contest", None), ("test tube", None), ("validator", None), ("cat", None),
    ],
)  # fmt: skip
def test_part_of(name, part):
    assert part_of(name) == part


def test_names_that_differ_in_the_part_alone():
    assert parts_among(["flowers_train", "flowers_test"]) == {"flowers_train": "train", "flowers_test": "test"}
    both = {"trainA": "train", "trainB": "train", "testA": "test", "testB": "test"}
    assert parts_among(both) == both
    assert parts_among(["train_station", "test_tube", "flowers_train"]) == {}


def test_containers():
    names = ("images", "masks", "images_001", "HAM10000_images_part_1", "fold5", "Ground_Truth", "batch 2")
    assert all(map(is_container, names))
    assert not any(map(is_container, ("cat", "with_mask", "grade_1", "class1", "2019", "spare")))
