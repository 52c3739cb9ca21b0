from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regraft.data.dataset import BadFile, Dataset, Pair, Sample
from regraft.data.labels import split_labels
from regraft.data.quality.description import describe
from regraft.data.quality.findings import Finding, Inspection, audit, with_features
from regraft.errors import ImageErrorCode

Make = Callable[..., Any]
#: "cat" in letters as wide as Chinese ones.
FULLWIDTH = "".join(chr(ord(c) + 0xFEE0) for c in "cat")


def kinds(data: Dataset) -> dict[str, Finding]:
    return {finding.kind: finding for finding in audit(data)}


def test_files_that_may_be_images_and_are_not_used_are_a_finding():
    names = ("cat/a.jpeg_large", "cat/b", "cat/c.psd", "loose.png")
    dataset = Dataset(Path(), (), (), ignored=(*names, "README.md", "cat/._a.jpg", "cat/labels.csv"))
    (finding,) = (f for f in audit(dataset) if f.kind == "unused")
    assert (finding.severity, [name for (name,) in finding.files]) == ("warning", list(names))
    assert finding.details == (".jpeg_large", "no extension", ".psd", ".png")


def test_nothing_is_found_where_nothing_is_wrong(plain: Make, dataset: Make) -> None:
    assert audit(dataset(plain("cat", 40) + plain("dog", 30))) == []
    assert audit(dataset([])) == []


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (ImageErrorCode.EMPTY, "empty"),
        (ImageErrorCode.TOO_LARGE, "bomb"),
        (ImageErrorCode.TRUNCATED, "truncated"),
        (ImageErrorCode.UNREADABLE, "unreadable"),
        (ImageErrorCode.MISSING_EXTRA, "missing_extra"),
    ],
)
def test_unreadable_files_are_classified_by_their_code(
    plain: Make, dataset: Make, code: ImageErrorCode, kind: str
) -> None:
    bad = (BadFile("cat/x.jpg", "for some reason", code),)
    found = kinds(dataset(plain("cat", 20) + plain("dog", 20), bad=bad))
    assert list(found) == [kind]
    assert found[kind].severity == "error"
    assert found[kind].files == (("cat/x.jpg",),)
    assert found[kind].details == ("for some reason",)


@pytest.mark.parametrize(
    ("image_stats", "path", "kind", "detail"),
    [
        ({"format": "PNG"}, "cat/odd.jpg", "wrong_extension", "PNG as .jpg"),
        ({"frames": 3, "format": "GIF"}, "cat/odd.gif", "animated", "GIF, 3 frames"),
        ({"width": 9, "height": 12}, "cat/odd.jpg", "tiny", "9 x 12"),
        ({"width": 900, "height": 100}, "cat/odd.jpg", "extreme_aspect", "900 x 100"),
        ({"contrast": 0.001}, "cat/odd.jpg", "blank", "contrast 0.001"),
        ({"sharpness": 0.001}, "cat/odd.jpg", "blurred", "sharpness 0.0010, median 0.0500"),
        ({"mode": "CMYK"}, "cat/odd.jpg", "odd_mode", "CMYK"),
        ({"mode": "I;16", "format": "PNG"}, "cat/odd.png", "odd_mode", "I;16"),
        ({"orientation": 6}, "cat/odd.jpg", "rotated", "orientation 6"),
    ],
)
def test_odd_files(
    sample: Make, plain: Make, dataset: Make, image_stats: dict[str, Any], path: str, kind: str, detail: str
) -> None:
    found = kinds(dataset([*plain("cat", 30), *plain("dog", 30), sample(path, "cat", **image_stats)]))
    assert list(found) == [kind]
    assert found[kind].files == ((path,),)
    assert found[kind].details == (detail,)


def test_a_jpeg_by_any_of_its_names_and_an_mpo_are_right(sample: Make, plain: Make, dataset: Make) -> None:
    names = ("a.jpeg", "b.JPG", "c.jpe", "d.jfif")
    odd = [sample(f"cat/{name}", "cat") for name in names] + [sample("cat/e.jpg", "cat", format="MPO")]
    assert audit(dataset(plain("cat", 30) + plain("dog", 30) + odd)) == []


def test_copies_near_copies_leaks_and_conflicts(sample: Make, plain: Make, dataset: Make) -> None:
    data = dataset([
        *plain("cat", 20, part="train"), *plain("dog", 20, part="train"),
        *[sample(f"test/{label}{i}.jpg", label, part="test") for label in ("cat", "dog") for i in range(6)],
        sample("copy.jpg", "cat", "cat/000.jpg", part="train"),
        sample("leaked.jpg", "cat", "cat/001.jpg", part="test"),
        sample("near1.jpg", "dog", part="train", near_duplicates="n"),
        sample("near2.jpg", "dog", part="train", near_duplicates="n"),
        sample("both1.jpg", "dog", part="train", near_duplicates="b"),
        sample("both2.jpg", "cat", part="test", near_duplicates="b"),
    ])  # fmt: skip
    found = kinds(data)
    assert set(found) == {"leak", "conflict", "duplicates", "near_duplicates"}
    assert {frozenset(files) for files in found["leak"].files} == {
        frozenset({"cat/001.jpg", "leaked.jpg"}), frozenset({"both1.jpg", "both2.jpg"}),
    }  # fmt: skip
    assert found["conflict"].files == (("both1.jpg", "both2.jpg"),)
    assert found["conflict"].details == ("nearly the same picture; labels: cat, dog; train, test",)
    assert "2 images are exact copies" in found["duplicates"].title
    assert "2 images are near duplicates" in found["near_duplicates"].title
    assert [finding.severity for finding in audit(data)] == ["error", "error", "warning", "warning"]


def test_features_speak_of_near_duplicates_alone() -> None:
    near = Finding("near_duplicates", "warning", "Two sets.", "x", (("a", "b", "c"), ("d", "e")), ("same", "same"))
    pairs = [Pair("a", "b", 0.99, False, 0.9), Pair("b", "c", 0.99, False, 0.7), Pair("d", "e", 0.99, True, 0.1)]
    extended = with_features(near, pairs)
    assert extended.details == ("same; feature similarity 0.70", "same; feature similarity 0.10, please check")
    assert extended.title == "Two sets. To the backbone 1 set looks different."
    assert with_features(near, pairs[:2]).title == "Two sets. The backbone's features confirm it."
    unasked = [dataclasses.replace(pair, features=None) for pair in pairs]
    single = dataclasses.replace(near, files=(("a",), ("b",)))
    assert with_features(near, unasked) == near
    assert with_features(single, pairs) == single


@pytest.mark.parametrize(
    "other", ["Cat", "CAT", "cat ", "c\N{LATIN SMALL LETTER A WITH DIAERESIS}t", "ca_t", FULLWIDTH]
)
def test_classes_that_are_spelled_alike(plain: Make, dataset: Make, other: str) -> None:
    found = kinds(dataset(plain("cat", 20) + plain(other, 20)))
    if other in ("c\N{LATIN SMALL LETTER A WITH DIAERESIS}t", "ca_t"):
        assert found == {}
    else:
        assert list(found) == ["class_names"]
        assert repr(other) in found["class_names"].title
    composed, apart = "caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}"
    assert list(kinds(dataset(plain(composed, 20) + plain(apart, 20)))) == ["class_names"]


def test_classes_that_are_empty_few_or_missing(sample: Make, plain: Make, dataset: Make) -> None:
    samples = plain("cat", 200, part="train") + plain("dog", 12, part="train")
    samples += [sample(f"test/{i}.jpg", "cat", part="test") for i in range(20)]
    samples += plain("eel", 2, part="train") + plain("fox", 4, part="train", near_duplicates="all of them")
    data = dataclasses.replace(dataset(samples), classes=("cat", "dog", "eel", "fox", "gnu"))
    found = kinds(data)
    assert found["empty_class"].title == "1 class has no readable image: gnu."
    assert found["missing_in_part"].title == "3 classes have no image in test: dog, eel, fox."
    assert "eel (2), fox (1)" in found["few_images"].title  # four of one picture are one
    assert found["few_images"].severity == "error"
    assert "'cat' has 110 times as many images as 'eel' (220 and 2)" in found["imbalance"].title


def test_a_fault_of_a_lenient_scan_is_a_finding(plain: Make, dataset: Make) -> None:
    (finding,) = audit(dataset(plain("cat", 20), class_problems=("data has one class",)))
    assert (finding.kind, finding.severity, finding.title) == ("structure", "error", "data has one class")


def test_groups_in_two_parts(sample: Make, plain: Make, dataset: Make) -> None:
    samples = plain("cat", 20, part="train") + plain("dog", 20, part="train")
    samples += [sample(f"t/{n}{i}.jpg", n, part="test") for n in ("cat", "dog") for i in range(5)]
    samples[0] = dataclasses.replace(samples[0], group="p1")
    samples[-1] = dataclasses.replace(samples[-1], group="p1")
    assert kinds(dataset(samples))["divided_group"].title.endswith("in more than one part: p1.")


def test_describe_counts_and_measures(plain: Make, dataset: Make) -> None:
    data = dataset([*plain("cat", 3, part="train"), *plain("dog", 2, part="test", width=400)], bad=(BadFile("x", "y"),))
    image_stats = describe(data)
    assert image_stats["images"] == 5
    assert image_stats["unreadable"] == 1
    assert image_stats["classes"] == {
        "cat": {"all": 3, "train": 3, "test": 0},
        "dog": {"all": 2, "train": 0, "test": 2},
    }
    assert image_stats["parts"] == {"train": 3, "test": 2}
    assert image_stats["quantiles"]["width"][0] == 200
    assert image_stats["quantiles"]["width"][-1] == 400
    assert image_stats["formats"] == {"JPEG": 5}
    inspection = Inspection(data, tuple(audit(data)))
    assert inspection.worst == "error"
    assert "1 unreadable" in repr(inspection)
    assert inspection.to_json()["findings"][0]["kind"]
    assert Inspection(data, ()).worst is None


def several(labels: list[str], **more: Any) -> Dataset:
    """Images with several labels, no two alike unless `more` says so."""
    samples = [
        Sample(f"{i}.png", label, f"{i}", near_duplicate_group=more.get("near", {}).get(i), part=more.get("part"))
        for i, label in enumerate(labels)
    ]
    classes = sorted({name for label in labels for name in split_labels(label)})
    return Dataset(Path(), tuple(samples), tuple(classes), task="multilabel")


def test_several_labels_count_for_each_class() -> None:
    labels = ["cat|dog", "dog", "dog|eel", ""] * 6 + ["cat|fox"] * 2
    found = kinds(several(labels))
    assert found["no_label"].severity == "info"
    assert len(found["no_label"].files) == 6
    assert found["few_images"].severity == "error"
    assert "fox (2)" in found["few_images"].title
    assert "cat" not in found["few_images"].title
    described = describe(several(labels))
    assert described["classes"]["dog"] == {"all": 18}
    assert described["labels_per_image"] == {0: 6, 1: 6, 2: 14}
    assert described["label_pairs"][:2] == [["cat", "dog", 6], ["dog", "eel", 6]]


def test_near_duplicates_with_other_sets_of_labels_are_a_conflict() -> None:
    labels = ["cat|dog", "dog", "cat"] * 5
    found = kinds(several(labels, near={0: "x", 1: "x", 2: "y", 5: "y"}))["conflict"]
    assert found.files == (("0.png", "1.png"),)
    assert "1 picture has different labels" in found.title
    assert "labels: cat|dog, dog" in found.details[0]


def test_a_class_is_in_a_part_if_an_image_has_it_among_others() -> None:
    dataset = several(["cat|dog", "dog|eel", "cat"] * 5, part="train")
    moved = tuple(dataclasses.replace(s, part="val") if i in (0, 2) else s for i, s in enumerate(dataset.samples))
    missing = [f for f in audit(dataset.with_samples(moved)) if f.kind == "missing_in_part"]
    assert [finding.title for finding in missing] == ["1 class has no image in val: eel."]


def test_the_shortcut_to_one_of_several_labels_is_named(sample: Make) -> None:
    labels = [("cat", "cat|dog", "dog", "")[i % 4] for i in range(80)]
    samples = tuple(sample(f"{i}.jpg", label, width=170 if "cat" in label else 190) for i, label in enumerate(labels))
    dataset = Dataset(Path(), samples, ("cat", "dog"), task="multilabel")
    found = [finding for finding in audit(dataset) if finding.kind == "shortcut"]
    assert found
    assert all("The label 'cat' can be guessed" in finding.title for finding in found)
