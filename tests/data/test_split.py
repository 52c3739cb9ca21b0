import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.data.dataset import PARTS, Dataset, Part, Sample, Split
from regraft.data.labels import Task
from regraft.data.split import fold_numbers, folds, inseparable_set_ids, split
from regraft.errors import UsageError


def dataset_of(samples: list[Sample]) -> Dataset:
    return Dataset(Path(), tuple(samples), tuple(sorted({s.label for s in samples})))


def images(label: str, count: int, *, group: str | None = None, part: Part | None = None) -> list[Sample]:
    """Samples of one class, no two with the same bytes."""
    names = [f"{label}/{part}-{group}-{i:04d}.png" for i in range(count)]
    return [Sample(name, label, hashlib.sha256(name.encode()).hexdigest(), part, group) for name in names]


def sizes(parts: Split, label: str | None = None) -> tuple[int, ...]:
    return tuple(sum(label in (None, s.label) for s in parts[part].samples) for part in PARTS)


@st.composite
def fractions(draw: st.DrawFn) -> dict[str, float]:
    weights = draw(st.tuples(st.integers(1, 20), st.integers(0, 10), st.integers(0, 10)))
    return {part: weight / sum(weights) for part, weight in zip(PARTS, weights, strict=True)}


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    """Up to 60 samples of up to four classes, with groups, copies and near duplicates that run across classes."""
    count = draw(st.integers(1, 60))
    label = st.sampled_from("abcd")
    group = st.one_of(st.none(), st.sampled_from([f"g{i}" for i in range(12)]))
    copies = st.integers(0, 3 * count)
    near_duplicates = st.one_of(st.none(), st.integers(0, 3 * count).map(str))
    rows = draw(st.lists(st.tuples(label, group, copies, near_duplicates), min_size=count, max_size=count))
    return dataset_of(
        [
            Sample(f"{i:03d}.png", label, str(content), None, group, near_duplicate_group=near_duplicates)
            for i, (label, group, content, near_duplicates) in enumerate(rows)
        ]
    )


@given(datasets(), fractions(), st.integers(0, 2**40))
@settings(max_examples=50, deadline=None)
def test_parts_are_disjoint_exhaustive_whole_and_repeatable(dataset, shares, seed):
    parts = split(dataset, **shares, seed=seed)
    # Exhaustive and disjoint: the same samples in the same order, each with one part.
    assert [(s.path, s.label, s.sha256, s.group) for s in parts.dataset.samples] == [
        (s.path, s.label, s.sha256, s.group) for s in dataset.samples
    ]
    assert sum(sizes(parts)) == len(dataset)
    # Whole: no group and no image in two parts.
    of_group, of_bytes, of_pictures = defaultdict(set), defaultdict(set), defaultdict(set)
    for sample in parts.dataset.samples:
        of_bytes[sample.sha256].add(sample.part)
        of_pictures[sample.near_duplicate_group or sample.path].add(sample.part)
        if sample.group is not None:
            of_group[sample.group].add(sample.part)
    assert all(len(found) == 1 for found in (*of_group.values(), *of_bytes.values(), *of_pictures.values()))
    # Every class can be learnt, and a part of which nothing was asked is empty.
    assert {s.label for s in parts.train.samples} == set(dataset.classes)
    assert all(shares[part] > 0 for part in parts)
    assert parts.classes == dataset.classes
    assert split(dataset, **shares, seed=seed) == parts


@given(st.lists(st.integers(1, 80), min_size=1, max_size=4), fractions(), st.integers(0, 1000))
@settings(max_examples=37, deadline=None)
def test_single_images_are_stratified_within_one_image_a_class(counts, shares, seed):
    dataset = dataset_of([s for i, count in enumerate(counts) for s in images("abcd"[i], count)])
    parts = split(dataset, **shares, seed=seed)
    for i, count in enumerate(counts):
        # A part that is due less than an image may get one, and what it lacks comes from the others.
        lacks = {part: 1 - count * share for part, share in shares.items() if 0 < count * share < 1}
        for size, part in zip(sizes(parts, "abcd"[i]), PARTS, strict=True):
            bound = 1 if part in lacks else 1 + sum(lacks.values()) if shares[part] else 0
            assert abs(size - count * shares[part]) <= bound + 1e-6
        assert sizes(parts, "abcd"[i])[0] >= 1


@given(
    st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=12), min_size=1, max_size=3),
    fractions(),
    st.integers(0, 1000),
)
@settings(max_examples=37, deadline=None)
def test_groups_within_classes_miss_by_less_than_a_group(groups, shares, seed):
    dataset = dataset_of(
        [
            s
            for label, group_sizes in zip("abc", groups, strict=False)
            for i, size in enumerate(group_sizes)
            for s in images(label, size, group=f"{label}{i}")
        ]
    )
    parts = split(dataset, **shares, seed=seed)
    for label, group_sizes in zip("abc", groups, strict=False):
        for size, part in zip(sizes(parts, label), PARTS, strict=True):
            exact = sum(group_sizes) * shares[part]
            assert size <= max(exact, 1) + max(group_sizes) + 1e-6
            # Enough groups: no part goes without that was due an image.
            if len(group_sizes) >= 3 and exact >= 1:
                assert size > 0


@given(datasets(), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_a_class_with_three_separable_images_is_in_every_part(dataset, seed):
    """Where each set of images that belong together is of one class; else a set may serve only one of its classes."""
    sets = defaultdict(set)
    for sample, number in zip(dataset.samples, inseparable_set_ids(dataset.samples).tolist(), strict=True):
        sets[number].add(sample.label)
    counts = Counter(label for labels in sets.values() for label in labels)
    parts = split(dataset, seed=seed)
    for label, count in counts.items():
        if count >= 3 and all(len(labels) == 1 for labels in sets.values() if label in labels):
            assert min(sizes(parts, label)) > 0


def test_the_usual_fractions():
    parts = split(dataset_of(images("cat", 100) + images("dog", 37) + images("eel", 1)))
    assert sizes(parts, "cat") == (80, 10, 10)
    assert sizes(parts, "dog") == (29, 4, 4)
    assert sizes(parts, "eel") == (1, 0, 0)


@pytest.mark.parametrize(
    ("group_sizes", "expected"),
    [
        ([300, 200, 150, 100, 50, 50, 50, 50, 50], (800, 100, 100)),
        ([20] * 5, (60, 20, 20)),
        ([33, 33, 33], (33, 33, 33)),
        ([60, 40], (60, 40, 0)),
        ([100], (100, 0, 0)),
        ([500, 300] + [1] * 100, (800, 50, 50)),
    ],
)
def test_large_groups_go_where_there_is_room(group_sizes, expected):
    samples = [s for i, size in enumerate(group_sizes) for s in images("cat", size, group=f"g{i}")]
    assert sizes(split(dataset_of(samples))) == expected


def test_groups_and_copies_are_followed_through_one_another():
    samples = [s for label in ("cat", "dog") for s in images(label, 40)]
    chain = [
        Sample("1.png", "cat", "same-1", None, "g"),
        Sample("2.png", "dog", "same-2", None, "g"),
        Sample("3.png", "dog", "same-2", None, "h"),
        Sample("4.png", "cat", "other", None, "h"),
        Sample("5.png", "cat", "same-1", None, None),
    ]
    for seed in range(20):
        parts = split(dataset_of(samples + chain), seed=seed)
        assert len({s.part for s in parts.dataset.samples if "/" not in s.path}) == 1


def test_seeds_differ_and_bytes_decide_not_the_class_beside():
    cats, dogs = images("cat", 60), images("dog", 60)

    def held_out(parts: Split) -> set[str]:
        return {s.path for s in parts.test.samples if s.label == "cat"}

    first = held_out(split(dataset_of(cats + dogs), seed=1))
    assert first == held_out(split(dataset_of(cats + dogs), seed=1))
    assert len({frozenset(held_out(split(dataset_of(cats + dogs), seed=seed))) for seed in range(10)}) == 10
    assert first == held_out(split(dataset_of(cats), seed=1))


def test_every_image_is_held_out_by_some_seed():
    dataset = dataset_of(images("cat", 20))
    held_out = Counter(s.path for seed in range(200) for s in split(dataset, seed=seed).test.samples)
    assert len(held_out) == 20
    assert min(held_out.values()) >= 5  # 20 are expected of each; chance alone leaves that range once in 10,000


def test_given_parts_are_kept():
    samples = images("cat", 5, part="train") + images("cat", 3, part="val") + images("cat", 2, part="test")
    dataset = dataset_of(samples)
    assert split(dataset).dataset == dataset


@pytest.mark.parametrize("shares", [{"train": 0.2, "val": 0.4, "test": 0.4}, {"test": 0.1}, {"val": 0.0}])
def test_shares_of_parts_that_the_data_has_are_refused(shares):
    dataset = dataset_of([s for part in PARTS for s in images("cat", 5, part=part)])
    with pytest.raises(UsageError, match=r"divided already, into train, val, test, so .* would have no effect"):
        split(dataset, **shares)


@pytest.mark.parametrize(("given_part", "expected"), [("test", (72, 8, 7)), ("val", (72, 7, 8)), (None, (64, 8, 8))])
def test_a_missing_part_is_taken_from_train(given_part, expected):
    given = images("cat", 7, part=given_part) if given_part else []
    dataset = dataset_of(images("cat", 80, part="train") + images("dog", 10, part="train") + given)
    parts = split(dataset)
    assert sizes(parts, "cat") == expected
    assert sizes(parts, "dog")[0] in (8, 9)
    before = {s.path for s in given}
    assert before <= {s.path for s in parts.dataset.samples if s.part == given_part}


def test_a_part_of_which_nothing_is_asked_is_not_taken():
    dataset = dataset_of(images("cat", 8, part="train") + images("cat", 2, part="test"))
    assert sizes(split(dataset, val=0.0)) == (8, 0, 2)


@pytest.mark.parametrize(
    "shares",
    [
        {"train": 0.8, "val": 0.1, "test": 0.2},
        {"train": 0.5, "val": 0.1, "test": 0.1},
        {"train": 1.2, "val": -0.1, "test": -0.1},
        {"train": 0.0, "val": 0.5, "test": 0.5},
        {"train": 80, "val": 10, "test": 10},
        {"train": float("nan"), "val": 0.1, "test": 0.1},
        {"train": 0.8, "val": float("nan"), "test": 0.1},
    ],
)
def test_fractions_add_up_to_one(shares):
    with pytest.raises(UsageError, match=r"train=.+, val=.+, test=.+; expected fractions from 0 to 1 that add up to 1"):
        split(dataset_of(images("cat", 10)), **shares)


def test_thirds_add_up_to_one():
    assert sizes(split(dataset_of(images("cat", 9)), train=1 / 3, val=1 / 3, test=1 / 3)) == (3, 3, 3)
    assert sizes(split(dataset_of(images("cat", 9)), train=0.334, val=0.333, test=0.333)) == (3, 3, 3)


def test_everything_may_be_train():
    assert sizes(split(dataset_of(images("cat", 9)), train=1, val=0, test=0)) == (9, 0, 0)


@pytest.mark.parametrize(
    ("each", "expected"), [(2, (80, 10, 10)), (3, (50, 50, 50)), (5, (150, 50, 50)), (14, (560, 70, 70))]
)
def test_many_small_classes_fill_all_parts(each, expected):
    samples = [s for i in range(50) for s in images(f"class{i:02d}", each)]
    assert sizes(split(dataset_of(samples))) == expected


@given(st.lists(st.integers(3, 40), min_size=1, max_size=6), st.integers(0, 99))
def test_each_part_has_an_image_of_every_class_of_three_or_more(counts, seed):
    samples = [s for i, count in enumerate(counts) for s in images(f"class{i}", count)]
    parts = split(dataset_of(samples), seed=seed)
    for part in parts:
        assert set(parts[part].counts().values()).isdisjoint({0}), part
    two = split(dataset_of(samples), train=0.9, val=0.1, test=0, seed=seed)
    assert set(two) == {"train", "val"}


def test_a_data_set_that_moves_keeps_its_split():
    samples = images("cat", 60) + images("dog", 60)
    moved = [dataclasses.replace(s, path=f"/elsewhere/{s.path}") for s in samples]
    first, second = (split(dataset_of(rows)) for rows in (samples, moved))
    assert [s.part for s in first.dataset.samples] == [s.part for s in second.dataset.samples]


def test_group_ids_connect_groups_and_copies():
    samples = [
        Sample("1.png", "cat", "a", None, "g"),
        Sample("2.png", "dog", "b", None, "g"),
        Sample("3.png", "dog", "b", None, None),
        Sample("4.png", "cat", "c", None, None),
    ]
    assert inseparable_set_ids(samples).tolist() == [0, 0, 0, 1]


@given(datasets(), datasets(), fractions(), st.integers(0, 1000))
@settings(max_examples=37, deadline=None)
def test_what_was_in_a_split_keeps_its_part_when_images_are_added(old, new, shares, seed):
    before = split(old, **shares, seed=seed)
    # The two know neither each other's groups nor pictures, except where these say so by a common name.
    added = [
        dataclasses.replace(
            s,
            path=f"new/{s.path}",
            sha256=f"n{s.sha256}",
            near_duplicate_group=s.near_duplicate_group and f"n{s.near_duplicate_group}",
        )
        for s in new.samples
    ]
    together = dataset_of([*old.samples, *added])
    after = split(together, **shares, seed=seed, keep=before)
    part_of = {s.path: s.part for s in after.dataset.samples}
    assert all(part_of[s.path] == s.part for s in before.dataset.samples)
    # What joins a group that was there joins its part.
    group_part = {s.group: s.part for s in before.dataset.samples if s.group}
    assert all(part_of[s.path] == group_part[s.group] for s in added if s.group in group_part)


@given(st.integers(1, 300), st.integers(1, 100), fractions(), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_added_single_images_keep_the_classes_within_one_image(count, more, shares, seed):
    before = split(dataset_of(images("cat", count)), **shares, seed=seed)
    after = split(dataset_of(images("cat", count + more)), **shares, seed=seed, keep=before)
    for size, part in zip(sizes(after), PARTS, strict=True):
        assert abs(size - (count + more) * shares[part]) <= 2 + 1e-6  # rounding, before and after


@given(st.integers(20, 300), fractions(), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_without_an_earlier_split_one_more_image_moves_three_at_most(count, shares, seed):
    before = split(dataset_of(images("cat", count)), **shares, seed=seed)
    after = split(dataset_of(images("cat", count + 1)), **shares, seed=seed)
    part_of = {s.path: s.part for s in before.dataset.samples}
    assert sum(part_of.get(s.path, s.part) != s.part for s in after.dataset.samples) <= 3


def test_given_parts_are_stronger_than_kept_ones():
    old = split(dataset_of(images("cat", 20)))
    data = dataset_of(
        [dataclasses.replace(s, part="test" if i < 4 else "train") for i, s in enumerate(images("cat", 20))]
    )
    after = split(data, keep=old)
    assert [s.part == "test" for s in after.dataset.samples] == [i < 4 for i in range(20)]


@given(datasets(), st.integers(2, 6), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_every_image_is_held_out_once_in_each_repeat(dataset, k, seed):
    ids = inseparable_set_ids(dataset.samples)
    if len(set(ids.tolist())) < k:
        with pytest.raises(UsageError, match=f"k={k}; expected 2 to"):
            list(folds(dataset, k, seed=seed))
        return
    held = Counter(s.path for fold in folds(dataset, k, repeats=2, seed=seed) for s in fold.test.samples)
    assert set(held.values()) == {2}
    assert len(held) == len(dataset)
    numbers = fold_numbers(dataset, k, seed=seed)
    assert all(len(set(numbers[ids == b].tolist())) == 1 for b in set(ids.tolist()))
    assert set(numbers.tolist()) == set(range(k))


def test_folds_are_stratified_and_repeats_differ():
    dataset = dataset_of(images("cat", 50) + images("dog", 23))
    parts = list(folds(dataset, 5, repeats=3))
    assert len(parts) == 15
    for fold in parts:
        assert sizes(fold, "cat") == (40, 0, 10)
        assert sizes(fold, "dog")[2] in (4, 5)
    held = [frozenset(s.path for s in fold.test.samples) for fold in parts]
    assert len(set(held)) == 15
    with pytest.raises(UsageError, match="repeats=0"):
        next(folds(dataset, repeats=0))


def pooled(labels: dict[str, int], size_of: Callable[[int], int], *, task: Task = "classification") -> Dataset:
    """Groups of images with one label each, as many as `labels` says, for which there is one answer each."""
    samples = [
        sample
        for label, count in labels.items()
        for number in range(count)
        for sample in images(label, size_of(number), group=f"{label}-{number}")
    ]
    samples = [
        dataclasses.replace(sample, path=f"{i}.jpg", sha256=hashlib.sha256(f"pooled {i}".encode()).hexdigest())
        for i, sample in enumerate(samples)
    ]
    classes = tuple(sorted({name for label in labels for name in label.split("|")}))
    return Dataset(Path(), samples, classes, task=task, pool_by="patient")


def part_of_groups(parts: Split) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for sample in parts.dataset.samples:
        found[str(sample.group)].add(str(sample.part))
    return found


@pytest.mark.parametrize(
    ("task", "labels"),
    [("classification", {"a": 80, "b": 50, "c": 50}), ("multilabel", {"a": 80, "a|b": 50, "b": 50})],
)
def test_groups_with_one_answer_are_split_by_their_number_whatever_their_sizes(task, labels):
    dataset = pooled(labels, lambda number: 1 + number % 8, task=task)
    for seed in range(3):
        parts = split(dataset, seed=seed)
        found = part_of_groups(parts)
        for name in dataset.classes:
            where_of_class = [where for group, where in found.items() if name in group]
            assert abs(where_of_class.count({"test"}) - len(where_of_class) / 10) <= 1
        assert sum(map(len, found.values())) == 180
        sizes_of = {part: Counter(Counter(s.group for s in parts[part].samples).values()) for part in ("val", "test")}
        assert all(15 <= sizes.total() <= 20 and max(sizes) > 4 for sizes in sizes_of.values()), sizes_of
    folded = fold_numbers(dataset, 3)
    groups = {(sample.group, number) for sample, number in zip(dataset.samples, folded.tolist(), strict=True)}
    assert len(groups) == 180
    assert max(Counter(number for _, number in groups).values()) <= 65


def test_wider_groups_are_whole_and_parts_are_of_the_groups_with_one_answer():
    dataset = pooled({"a": 60, "b": 60}, lambda number: 1 + number % 3)
    patient_of = {name: f"p{i // 4}" for i, name in enumerate(dict.fromkeys(s.group for s in dataset.samples))}
    samples = [dataclasses.replace(s, pooled_group=s.group, group=patient_of[s.group]) for s in dataset.samples]
    wide = dataclasses.replace(dataset, samples=samples)
    for seed in range(5):
        parts = split(wide, seed=seed)
        assert len(part_of_groups(parts)) == 30
        assert all(len(where) == 1 for where in part_of_groups(parts).values())
        for label in "ab":
            tested = {s.pooled_group for s in parts.test.samples if s.label == label}
            assert 4 <= len(tested) <= 8
    folded = fold_numbers(wide, 3)
    assert len({(s.group, number) for s, number in zip(samples, folded.tolist(), strict=True)}) == 30
    kept = part_of_groups(split(wide, seed=1))
    fewer = Split(dataclasses.replace(split(wide, seed=1).dataset, samples=split(wide, seed=1).dataset.samples[::2]))
    assert part_of_groups(split(wide, seed=9, keep=fewer)) == kept


def test_groups_with_one_answer_stay_together_where_their_images_are_alike():
    dataset = pooled({"a": 12, "b": 12}, lambda number: 3)
    samples = [
        dataclasses.replace(sample, near_duplicate_group="alike" if sample.group in {"a-3", "a-7"} and i % 3 else None)
        for i, sample in enumerate(dataset.samples)
    ]
    for seed in range(10):
        found = part_of_groups(split(dataclasses.replace(dataset, samples=samples), seed=seed))
        assert found["a-3"] == found["a-7"]
        assert all(len(where) == 1 for where in found.values())


def test_groups_with_one_answer_keep_their_part_and_are_in_one():
    dataset = pooled({"a": 10, "b": 10}, lambda number: 2)
    before = split(dataset, seed=1)
    more = dataclasses.replace(dataset, samples=[*dataset.samples, *pooled({"c": 9}, lambda number: 60).samples[400:]])
    after = part_of_groups(split(more, seed=2, keep=before))
    assert {name: after[name] for name in part_of_groups(before)} == part_of_groups(before)
    parts = [dataclasses.replace(s, part="train" if i else "test") for i, s in enumerate(before.dataset.samples)]
    with pytest.raises(UsageError, match=r"the group 'a-0' \(patient\) in several parts"):
        split(dataset, keep=Split(dataclasses.replace(dataset, samples=parts)))
