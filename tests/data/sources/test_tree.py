import zipfile

import pytest

from regraft.data.dataset import Dataset
from regraft.data.scan import scan
from regraft.data.taxonomy import Taxonomy
from regraft.errors import DataError, UsageError

ANIMALS = ("animal/dog/beagle/1.png", "animal/dog/pug/1.png", "animal/cat/1.png", "plant/oak/1.png")


def labels_of(dataset: Dataset) -> dict[str, str]:
    return {sample.path: sample.label for sample in dataset.samples}


def test_nested_folders_are_a_tree_if_asked_for(images):
    dataset = scan(images(*ANIMALS), layout="tree")
    assert dataset.classes == ("beagle", "cat", "oak", "pug")
    assert dataset.taxonomy == Taxonomy.of(
        {"beagle": "dog", "pug": "dog", "dog": "animal", "cat": "animal", "oak": "plant"}
    )
    assert dataset.notes == ("A tree of 3 levels: 4 classes under 3 nodes.",)
    assert dataset.with_samples(dataset.samples[:1]).taxonomy == dataset.taxonomy


def test_where_folders_are_unclear_the_message_names_the_tree(images):
    with pytest.raises(DataError, match="If they are a tree of classes, use --layout tree"):
        scan(images("animal/dog/1.png", "animal/cat/1.png", "plant/oak/1.png", "plant/fern/1.png"))


def test_flat_folders_have_no_tree_and_a_flat_tree_says_so(images):
    root = images("cat/1.png", "dog/1.png")
    assert scan(root).taxonomy is None
    flat = scan(root, layout="tree")
    assert flat.taxonomy is None
    assert flat.classes == ("cat", "dog")
    assert flat.notes == ("No node of the tree is above some classes and not above others, so it adds nothing.",)


def test_folders_of_the_same_name_stay_two_classes(images):
    root = images("animal/bat/1.png", "animal/wild/lion/1.png", "sport/bat/1.png", "sport/wild/surfing/1.png")
    dataset = scan(root, layout="tree")
    assert dataset.classes == ("animal/bat", "lion", "sport/bat", "surfing")
    assert dataset.taxonomy is not None
    assert dataset.taxonomy.lineage("lion") == ("animal", "animal/wild", "lion")


def test_a_class_with_the_name_of_a_node_above_it(images):
    dataset = scan(images("dog/dog/1.png", "dog/wolf/1.png", "cat/1.png"), layout="tree")
    assert dataset.classes == ("cat", "dog/dog", "wolf")


def test_trees_in_parts(images):
    paths = [f"{part}/{path}" for part in ("train", "test") for path in ANIMALS]
    dataset = scan(images(*paths, "train/notes.txt"), layout="tree")
    assert {(s.label, s.part) for s in dataset.samples} == {
        (label, part) for label in ("beagle", "cat", "oak", "pug") for part in ("train", "test")
    }
    assert dataset.taxonomy == scan(images(*paths) / "train", layout="tree").taxonomy
    assert dataset.ignored == ("train/notes.txt",)


def test_trees_of_parts_that_differ_are_refused(images):
    root = images("train/a/b/1.png", "train/a/c/1.png", "train/d/1.png", "test/a/1.png", "test/d/1.png")
    with pytest.raises(DataError, match="a has folders in one part of the data and none in another"):
        scan(root, layout="tree")
    with pytest.raises(DataError, match="several folders for one part: test, testing"):
        scan(images("p/train/a/1.png", "p/test/a/1.png", "p/testing/a/1.png") / "p", layout="tree")
    with pytest.raises(DataError, match="val, named like a part of the data, beside animal"):
        scan(images("q/val/a/1.png", "q/animal/a/1.png") / "q", layout="tree")


def test_images_beside_folders_are_refused_and_all_are_named(images):
    root = images(*ANIMALS, "animal/dog/2.png", "animal/3.png", "plant/elm/1.png")
    with pytest.raises(DataError) as error:
        scan(root, layout="tree")
    assert "animal has 1 image beside the folders cat, dog" in str(error.value)
    assert "animal/dog has 1 image beside the folders beagle, pug" in str(error.value)
    assert "such as other/" in str(error.value)


def test_empty_folders_are_classes_without_images(images):
    root = images(*ANIMALS)
    (root / "plant/elm").mkdir()
    with pytest.raises(DataError, match="1 class without a readable image: elm"):
        scan(root, layout="tree")


def test_folders_around_images_alone_are_no_nodes(images):
    dataset = scan(images("animal/dog/images/1.png", "animal/cat/jpg/1.png", "plant/1.png"), layout="tree")
    assert dataset.classes == ("cat", "dog", "plant")


def test_links_that_lead_back_up_end(images):
    root = images(*ANIMALS)
    (root / "animal/dog/up").symlink_to(root / "animal")
    with pytest.raises(DataError, match="without a readable image: up"):
        scan(root, layout="tree")


def test_trees_in_archives(images, tmp_path):
    root = images(*ANIMALS)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in ANIMALS:
            archive.write(root / path, f"photos/{path}")
    assert scan(tmp_path / "a.zip", layout="tree").taxonomy == scan(root, layout="tree").taxonomy


def test_a_known_tree_names_the_folders_and_keeps_its_nodes(images):
    known = scan(images(*ANIMALS), layout="tree").taxonomy
    assert known is not None
    more = images(*(f"more/{path}" for path in ("animal/dog/pug/2.png", "animal/dog/husky/1.png", "sport/pug/1.png")))
    dataset = scan(more / "more", layout="tree", taxonomy=known)
    assert dataset.classes == ("husky", "pug", "sport/pug")
    assert dataset.taxonomy is not None
    assert dataset.taxonomy.lineage("husky") == ("animal", "dog", "husky")
    everything = scan(more / "more/animal", classes=(*known.classes, "husky"), layout="tree", taxonomy=known)
    assert labels_of(everything) == {"dog/pug/2.png": "pug", "dog/husky/1.png": "husky"}


def test_the_tree_of_a_model_is_recognized_without_asking(images):
    root = images(*ANIMALS, "animal/dog/pug/indoor/2.png")
    known = Taxonomy.of({"beagle": "dog", "pug": "dog", "dog": "animal", "cat": "animal", "oak": "plant"})
    nested = scan(root, classes=known.classes, taxonomy=known)
    assert labels_of(nested)["animal/dog/pug/indoor/2.png"] == "pug"  # a class has all that is below it
    flat = scan(images("flat/beagle/1.png", "flat/oak/1.png") / "flat", classes=known.classes, taxonomy=known)
    assert set(labels_of(flat).values()) == {"beagle", "oak"}
    assert flat.taxonomy == known
    with pytest.raises(DataError, match="1 class that the model does not know: sport/pug"):
        scan(images("other/sport/pug/1.png", "other/animal/cat/1.png") / "other", classes=known.classes, taxonomy=known)


def test_a_table_has_no_nested_folders(images):
    root = images("animal/dog/1.png", "animal/cat/1.png")
    (root / "m.csv").write_text("path,label\nanimal/dog/1.png,dog\nanimal/cat/1.png,cat\n")
    with pytest.raises(UsageError, match=r"m\.csv is no folder, and layout=tree(.|\n)*--taxonomy FILE"):
        scan(root / "m.csv", layout="tree")
    tree = scan(images("animal/dog/1.png", "animal/cat/1.png", "oak/1.png"), layout="tree").taxonomy
    assert scan(root / "m.csv", layout="tree", taxonomy=tree).classes == ("cat", "dog")  # those of a run's settings


def test_a_tree_from_folders_excludes_one_from_a_file(images):
    with pytest.raises(UsageError, match="layout=tree takes the tree from the folders"):
        scan(images(*ANIMALS), layout="tree", taxonomy={"beagle": "dog"})
