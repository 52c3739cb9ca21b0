from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regraft.data.audit import Finding, Inspection, audit, describe, with_features
from regraft.data.cleaning import clean
from regraft.data.dataset import BadFile, Dataset, Pair, Sample
from regraft.data.facts import Facts
from regraft.data.shortcuts import measure_shortcuts
from regraft.data.split import bundle_ids
from regraft.errors import UsageError

USUAL = Facts(
    bytes=5000, width=200, height=150, format="JPEG", mode="RGB", orientation=1, animated=False, brightness=0.5,
    contrast=0.2, sharpness=0.05,
)  # fmt: skip

#: "cat" in letters as wide as Chinese ones.
FULLWIDTH = "".join(chr(ord(c) + 0xFEE0) for c in "cat")


def sample(
    path: str, label: str, content: str = "", *, part: Any = None, twins: str | None = None, **facts: Any
) -> Sample:
    known = dataclasses.replace(USUAL, **facts)
    digest = hashlib.sha256((content or path).encode()).hexdigest()
    return Sample(path, label, digest, part, None, (known.width, known.height), known, twins)


def plain(label: str, count: int, **more: Any) -> list[Sample]:
    return [sample(f"{label}/{i:03d}.jpg", label, **more) for i in range(count)]


def dataset(samples: list[Sample], **more: Any) -> Dataset:
    return Dataset(Path("data"), tuple(samples), tuple(sorted({s.label for s in samples})), **more)


def kinds(data: Dataset) -> dict[str, Finding]:
    return {finding.kind: finding for finding in audit(data)}


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert audit(dataset(plain("cat", 40) + plain("dog", 30))) == []
    assert audit(dataset([])) == []


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("empty file", "empty"),
        ("9000 x 90000 pixels, more than 89,478,485 allowed", "bomb"),
        ("cannot be decoded: image file is truncated (3 bytes not processed)", "truncated"),
        ("cannot be decoded: unexpected end of file", "truncated"),
        ("not an image that can be read (JPEG, PNG)", "unreadable"),
        ("permission denied", "unreadable"),
    ],
)
def test_unreadable_files_by_their_reason(reason: str, kind: str) -> None:
    found = kinds(dataset(plain("cat", 20) + plain("dog", 20), bad=(BadFile("cat/x.jpg", reason),)))
    assert list(found) == [kind]
    assert found[kind].severity == "error"
    assert found[kind].files == (("cat/x.jpg",),)
    assert found[kind].details == (reason,)


@pytest.mark.parametrize(
    ("facts", "path", "kind", "detail"),
    [
        ({"format": "PNG"}, "cat/odd.jpg", "wrong_extension", "PNG as .jpg"),
        ({"animated": True, "format": "GIF"}, "cat/odd.gif", "animated", "GIF"),
        ({"width": 9, "height": 12}, "cat/odd.jpg", "tiny", "9 x 12"),
        ({"width": 900, "height": 100}, "cat/odd.jpg", "extreme_aspect", "900 x 100"),
        ({"contrast": 0.001}, "cat/odd.jpg", "blank", "contrast 0.001"),
        ({"sharpness": 0.001}, "cat/odd.jpg", "blurred", "sharpness 0.0010, usually 0.0500"),
        ({"mode": "CMYK"}, "cat/odd.jpg", "odd_mode", "CMYK"),
        ({"mode": "I;16", "format": "PNG"}, "cat/odd.png", "odd_mode", "I;16"),
        ({"orientation": 6}, "cat/odd.jpg", "rotated", "orientation 6"),
    ],
)
def test_odd_files(facts: dict[str, Any], path: str, kind: str, detail: str) -> None:
    found = kinds(dataset([*plain("cat", 30), *plain("dog", 30), sample(path, "cat", **facts)]))
    assert list(found) == [kind]
    assert found[kind].files == ((path,),)
    assert found[kind].details == (detail,)


def test_a_jpeg_by_any_of_its_names_and_an_mpo_are_right() -> None:
    names = ("a.jpeg", "b.JPG", "c.jpe", "d.jfif")
    odd = [sample(f"cat/{name}", "cat") for name in names] + [sample("cat/e.jpg", "cat", format="MPO")]
    assert audit(dataset(plain("cat", 30) + plain("dog", 30) + odd)) == []


def test_copies_near_copies_leaks_and_conflicts() -> None:
    data = dataset([
        *plain("cat", 20, part="train"), *plain("dog", 20, part="train"),
        *[sample(f"test/{label}{i}.jpg", label, part="test") for label in ("cat", "dog") for i in range(6)],
        sample("copy.jpg", "cat", "cat/000.jpg", part="train"),
        sample("leaked.jpg", "cat", "cat/001.jpg", part="test"),
        sample("near1.jpg", "dog", part="train", twins="n"), sample("near2.jpg", "dog", part="train", twins="n"),
        sample("both1.jpg", "dog", part="train", twins="b"), sample("both2.jpg", "cat", part="test", twins="b"),
    ])  # fmt: skip
    found = kinds(data)
    assert set(found) == {"leak", "conflict", "duplicates", "near_duplicates"}
    assert {frozenset(files) for files in found["leak"].files} == {
        frozenset({"cat/001.jpg", "leaked.jpg"}), frozenset({"both1.jpg", "both2.jpg"}),
    }  # fmt: skip
    assert found["conflict"].files == (("both1.jpg", "both2.jpg"),)
    assert found["conflict"].details == ("nearly the same picture; labels: cat, dog; train, test",)
    assert "2 images are exact copies" in found["duplicates"].title
    assert "2 images show nearly the same" in found["near_duplicates"].title
    assert [finding.severity for finding in audit(data)] == ["error", "error", "warning", "warning"]


def test_features_speak_of_near_duplicates_alone() -> None:
    near = Finding("near_duplicates", "warning", "Two sets.", "x", (("a", "b", "c"), ("d", "e")), ("same", "same"))
    pairs = [Pair("a", "b", 0.99, False, 0.9), Pair("b", "c", 0.99, False, 0.7), Pair("d", "e", 0.99, True, 0.1)]
    told = with_features(near, pairs)
    assert told.details == ("same; features alike to 0.70", "same; features alike to 0.10, look at them")
    assert told.title == "Two sets. To the backbone 1 set looks different."
    assert with_features(near, pairs[:2]).title == "Two sets. The backbone's features confirm it."
    unasked = [dataclasses.replace(pair, features=None) for pair in pairs]
    single = dataclasses.replace(near, files=(("a",), ("b",)))
    assert with_features(near, unasked) == near
    assert with_features(single, pairs) == single


@pytest.mark.parametrize(
    "other", ["Cat", "CAT", "cat ", "c\N{LATIN SMALL LETTER A WITH DIAERESIS}t", "ca_t", FULLWIDTH]
)
def test_classes_that_are_spelled_alike(other: str) -> None:
    found = kinds(dataset(plain("cat", 20) + plain(other, 20)))
    if other in ("c\N{LATIN SMALL LETTER A WITH DIAERESIS}t", "ca_t"):
        assert found == {}
    else:
        assert list(found) == ["class_names"]
        assert repr(other) in found["class_names"].title
    composed, apart = "caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}"
    assert list(kinds(dataset(plain(composed, 20) + plain(apart, 20)))) == ["class_names"]


def test_classes_that_are_empty_few_or_missing() -> None:
    samples = plain("cat", 200, part="train") + plain("dog", 12, part="train")
    samples += [sample(f"test/{i}.jpg", "cat", part="test") for i in range(20)]
    samples += plain("eel", 2, part="train") + plain("fox", 4, part="train", twins="all of them")
    data = dataclasses.replace(dataset(samples), classes=("cat", "dog", "eel", "fox", "gnu"))
    found = kinds(data)
    assert found["empty_class"].title == "1 class has no readable image: gnu."
    assert found["missing_in_part"].title == "3 classes have no image in test: dog, eel, fox."
    assert "eel (2), fox (1)" in found["few_images"].title  # four of one picture are one
    assert found["few_images"].severity == "error"
    assert "'cat' has 110 times as many images as 'eel' (220 and 2)" in found["imbalance"].title


def test_a_fault_of_a_lenient_scan_is_a_finding() -> None:
    (finding,) = audit(dataset(plain("cat", 20), faults=("data has one class",)))
    assert (finding.kind, finding.severity, finding.title) == ("structure", "error", "data has one class")


def test_groups_in_two_parts() -> None:
    samples = plain("cat", 20, part="train") + plain("dog", 20, part="train")
    samples += [sample(f"t/{n}{i}.jpg", n, part="test") for n in ("cat", "dog") for i in range(5)]
    samples[0] = dataclasses.replace(samples[0], group="p1")
    samples[-1] = dataclasses.replace(samples[-1], group="p1")
    assert kinds(dataset(samples))["divided_group"].title.endswith("in more than one part: p1.")


SHORTCUTS: list[tuple[str, Any, str]] = [
    ("image size", {"width": 640, "height": 480}, "error"),
    ("file format", {"format": "PNG"}, "error"),
    ("colour mode", {"mode": "L"}, "error"),
    ("brightness", {"brightness": 0.9}, "warning"),
    ("size of the file", {"bytes": 90_000}, "warning"),
]


@pytest.mark.parametrize(("name", "facts", "severity"), SHORTCUTS, ids=[s[0] for s in SHORTCUTS])
def test_a_shortcut_is_named(name: str, facts: dict[str, Any], severity: str) -> None:
    ending = "png" if "format" in facts else "jpg"
    cats = [sample(f"cat/{i}.{ending}", "cat", **facts) for i in range(50)]
    found = {f.title: f for f in audit(dataset(cats + plain("dog", 50))) if f.kind == "shortcut"}
    (finding,) = (f for title, f in found.items() if f"from the {name}:" in title)
    assert "100 % of each class" in finding.title
    assert "chance gives 50 %" in finding.title
    assert finding.severity == severity
    assert any("cat" in detail for detail in finding.details)


def test_a_file_name_pattern_is_a_shortcut_but_the_class_in_the_name_is_not() -> None:
    named = [sample(f"x/{label}.{i:04d}.jpg", label) for label in ("cat", "dog") for i in range(40)]
    assert audit(dataset(named)) == []
    cameras = [sample(f"cat/IMG_{i:04d}.jpg", "cat") for i in range(40)]
    cameras += [sample(f"dog/DSC{i:05d}.jpg", "dog") for i in range(40)]
    (finding,) = audit(dataset(cameras))
    assert "file-name pattern" in finding.title
    assert "img_#: 100 % cat (40 images)" in finding.details


def test_chance_is_no_shortcut() -> None:
    rng = np.random.default_rng(0)
    noise = [
        dataclasses.replace(s, facts=dataclasses.replace(USUAL, brightness=rng.random(), bytes=int(rng.integers(9e5))))
        for s in plain("cat", 60) + plain("dog", 60) + plain("eel", 12)
    ]
    shortcuts = measure_shortcuts(noise, bundle_ids(noise))
    assert max(s.strength for s in shortcuts) < 0.3
    assert all(s.chance == pytest.approx(1 / 3) for s in shortcuts)


def test_copies_do_not_make_a_shortcut() -> None:
    """The same picture in train and test folds would give its label away by its size on disk."""
    rng = np.random.default_rng(1)
    samples = []
    for label in ("cat", "dog"):
        for i in range(20):
            size = int(rng.integers(1e6))
            samples += [sample(f"{label}/{i}-{j}.jpg", label, twins=f"{label}{i}", bytes=size) for j in range(6)]
    assert max(s.strength for s in measure_shortcuts(samples, bundle_ids(samples))) < 0.45


def test_describe_counts_and_measures() -> None:
    data = dataset([*plain("cat", 3, part="train"), *plain("dog", 2, part="test", width=400)], bad=(BadFile("x", "y"),))
    facts = describe(data)
    assert facts["images"] == 5
    assert facts["unreadable"] == 1
    assert facts["classes"] == {"cat": {"all": 3, "train": 3, "test": 0}, "dog": {"all": 2, "train": 0, "test": 2}}
    assert facts["parts"] == {"train": 3, "test": 2}
    assert facts["quantiles"]["width"][0] == 200
    assert facts["quantiles"]["width"][-1] == 400
    assert facts["formats"] == {"JPEG": 5}
    inspection = Inspection(data, tuple(audit(data)))
    assert inspection.worst == "error"
    assert "1 unreadable" in repr(inspection)
    assert inspection.to_json()["findings"][0]["kind"]
    assert Inspection(data, ()).worst is None


def test_cleaning_keeps_one_of_copies_and_the_test_side_of_a_leak() -> None:
    samples = [
        *plain("cat", 10, part="train"), *plain("dog", 10, part="train"),
        sample("small.jpg", "cat", part="train", twins="n", width=50),
        sample("big.jpg", "cat", part="train", twins="n"),
        sample("copy.jpg", "cat", "cat/000.jpg", part="train"),
        sample("leak.jpg", "cat", "cat/001.jpg", part="test"),
        sample("a.jpg", "cat", part="test", twins="c"), sample("b.jpg", "dog", part="test", twins="c"),
    ]  # fmt: skip
    data = dataset(samples, bad=(BadFile("bad.jpg", "empty file"),))
    findings = audit(data)
    kept, dropped = clean(data, findings, ["near_duplicates", "duplicates", "leak", "empty"])
    gone = {d.path: (d.kind, d.reason) for d in dropped}
    # Of a and b the first stays; of the exact copies, which are all of one size, the first by name.
    assert set(gone) == {"small.jpg", "copy.jpg", "leak.jpg", "b.jpg", "bad.jpg"}
    assert gone["small.jpg"] == ("near_duplicates", "nearly the same picture; train; big.jpg stays")
    assert gone["bad.jpg"] == ("empty", "empty file")
    assert {s.path for s in kept.samples} == {s.path for s in samples} - set(gone)
    _, dropped = clean(data, findings, ["leak", "conflict"])
    assert {d.path: d.kind for d in dropped} == {"cat/001.jpg": "leak", "a.jpg": "conflict", "b.jpg": "conflict"}
    assert clean(data, findings, []) == (data, [])
    with pytest.raises(UsageError, match=r"--drop imbalance: no such finding names files here. Found: conflict, "):
        clean(data, findings, ["imbalance"])
