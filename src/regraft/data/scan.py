"""Find and read the labeled images in a folder, an archive, a table or remote storage, each file once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from regraft.cache import Cache
from regraft.data.band_values import choose_bands, format_numbers
from regraft.data.check_classes import check_classes, check_known, check_numbers
from regraft.data.class_order import ORDERED_TREE, in_order
from regraft.data.dataset import BadFile, Dataset, Pair
from regraft.data.decode import MAX_PIXELS
from regraft.data.ignored import describe_ignored
from regraft.data.index import Progress
from regraft.data.labels import AskedTask, LabelOptions, Task, classes_in, join_labels, split_labels
from regraft.data.pooling import check_entries, pooled_by
from regraft.data.quality.near_duplicates import Pictures
from regraft.data.quality.same_pictures import near_duplicate_pairs
from regraft.data.read_images import ReadImages, open_cache, read_images
from regraft.data.samples import SampleTable
from regraft.data.sources.annotations import SUFFIXES as ANNOTATIONS
from regraft.data.sources.folders import FolderLayout, similar_names
from regraft.data.sources.grouping import refuse_divided_groups, with_groups, with_pooled_groups
from regraft.data.sources.groups import compile_pattern
from regraft.data.sources.numbers import refuse_unasked_numbers, with_numbers
from regraft.data.sources.open import DataSource, open_data
from regraft.data.sources.table import SUFFIXES
from regraft.data.sources.taxonomy_file import read_taxonomy
from regraft.data.sources.urls import absolute, redact, suffix_of
from regraft.data.strings import Names, string_array
from regraft.data.taxonomy import Taxonomy
from regraft.data.union_find import connected_sets
from regraft.errors import DataError, UsageError, as_path, refuse_old_names
from regraft.text import join_truncated, pluralize

OnUnreadable = Literal["skip", "error"]
#: Share of the pictures in several classes from which on it is hardly a mistake.
_USUAL = 0.05


@refuse_old_names(store="cache", on_bad="on_unreadable")
def scan(
    path: Path | str,
    *,
    root: Path | str | None = None,
    group_by: str = "",
    pool_by: str = "",
    remote: bool = False,
    layout: FolderLayout = "auto",
    taxonomy: Path | str | Mapping[str, str | None] | Taxonomy | None = None,
    image_column: str = "",
    label_column: str = "",
    task: AskedTask = "auto",
    order: Sequence[str] = (),
    label_separator: str = "",
    bands: str = "",
    on_unreadable: OnUnreadable = "skip",
    classes: Sequence[str] | None = None,
    max_pixels: int = MAX_PIXELS,
    cache: Cache | None = None,
    near_duplicates: bool = True,
    lenient: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
    compare_progress: Progress | None = None,
) -> Dataset:
    """Find, hash and decode every labeled image.

    Args:
        path: One of these:
            a folder `root/<class>/...` or `root/train|val|test/<class>/...`;
            a folder with `metadata.csv` or `.jsonl` (`file_name`, `label`, optionally `split` and `group`);
            a zip or tar archive of either;
            a CSV or Parquet manifest (`path`, `label`, optionally `split` and `group`);
            annotations of COCO, Label Studio (`.json`) or CVAT (`.xml`);
            a Parquet file with images (`image`, `label`, optionally `split` and `group`), or a folder of them;
            a tar in the WebDataset format, or a folder of them;
            the URL of a folder or manifest, as a string, such as `s3://bucket/photos` (extra `remote`).
        root: Location of a manifest's relative paths: a folder, or anything else that `path` may be; default: the
            manifest's own folder. With the data as root, a run's `split.csv` can be read from the run's folder.
        group_by: A column of a manifest, or a regular expression. Images with the same cell, or in whose paths it
            matches the same text, form a group, which a split keeps in one part. The text is the pattern's named group
            `group`, else all its groups, else the whole match. Empty: only the groups in the data.
        pool_by: As `group_by`, for several pictures of one thing: a group has one label and gets one answer
            (`Dataset.pool_by`), and an image without a group is a thing by itself. A split leaves it whole, and with
            another `group_by` wider groups, too, such as the patients of lesions.
        remote: Whether to fetch images that a manifest names by URL; they are fetched each time they are read.
        layout: Meaning of folders: `classes` makes each folder in `path` a class and `parts` each folder in a part,
            whatever its name; `tree` makes the folders that have images classes, and those around them nodes of a tree
            above the classes (`animal/dog/beagle/1.jpg`); `auto` finds out which of the first two it is, and raises
            where that is unclear.
        taxonomy: A tree above the classes: a JSON file or a table (docs/data.md), or the parent of each name
            (`{"beagle": "dog", "dog": "animal"}`). The tree of an existing model (`Dataset.taxonomy`) also names
            nested folders.
        image_column: Column of a manifest with the paths of the images; default: found by its name or contents.
        label_column: Column of a manifest with the labels, or the names of several columns with 0 and 1, with commas
            between them; default: found by the names or contents.
        task: `classification` gives each image one class, `multilabel` any number of classes, `regression` a number;
            `auto` finds out, but never takes labels for numbers, and says in `Dataset.notes` why images have several.
            With `multilabel`, an image that is in several class folders, or rows of a table, has all their labels. With
            `ordinal`, the classes have an order, such as grades.
        order: The classes of the task `ordinal`, lowest first; default: by the numbers with which their names begin, or
            that follow the same words in all names.
        label_separator: What is between several labels in a cell of a table; default: `|`, `;` or `,`, as found.
        bands: Bands that are the channels, by numbers from 1: `4,3,2` or `1-6`, or `all`. Bands of pictures are gray,
            or red, green, blue and alpha; those of a TIFF with one band are its pages. Default: gray and colors, or all
            bands of files that have others.
        on_unreadable: `skip` lists unreadable images in `Dataset.bad`; `error` raises.
        classes: Classes of an existing model. The data may have any of them, even one alone, but no others.
        max_pixels: Larger images count as unreadable.
        cache: Cache of what was read and decoded before; default: a temporary one.
        near_duplicates: Whether to look for near duplicates (`Dataset.pairs`), which a split keeps in one part.
        lenient: Whether to list problems with the classes in `Dataset.class_problems` instead of raising an error.
        workers: Number of threads or, for many files, processes; default: one for each core, more for a network.
        progress: Called with (files done, all files).
        compare_progress: Called with (candidates compared, all candidates) during the search for near duplicates; for
            more than 65,536 images before that with (images searched, all images).

    Raises:
        UsageError: `path` or `taxonomy` does not exist or is none of these; `root` is given without a manifest; a
            manifest names images by URL and `remote` is not set; `on_unreadable`, `layout` or `task` has another value;
            `group_by` or `pool_by` is no column and no regular expression, or the data has groups of its own, which
            `group_by` does not find or divides; the task is `ordinal` and neither `order` nor the names of the classes
            say their order.
        MissingExtraError: Parquet or a URL needs a package that is not installed.
        DataError: It is unclear which folders are classes; a group that gets one answer has several labels or parts, or
            is in several groups of `group_by`; there are no classes, only one class, an empty class, or a
            class in val or test that is not in train; the taxonomy is damaged or does not have a class; a folder,
            archive or table cannot be read; no path matches `group_by`; an image is unreadable and
            `on_unreadable="error"`; images differ in their bands, or have too few.

    Examples:
        >>> dataset = regraft.scan("photos")
        >>> dataset.counts()
        {'daisy': 12, 'rose': 12, 'tulip': 12}
    """
    if on_unreadable not in get_args(OnUnreadable):
        raise UsageError(f"on_unreadable={on_unreadable!r}; expected skip or error.")
    as_path(path, "The data")
    splits = classes is None  # nothing that a model exists for is split
    if suffix_of(str(path)) not in SUFFIXES:  # else they may name columns
        for pattern, option in ((group_by, "group_by"), (pool_by, "pool_by")):
            compile_pattern(pattern, option)  # before the source is opened
    asked = LabelOptions(task, label_separator, tuple(order))  # likewise
    if layout not in get_args(FolderLayout):
        raise UsageError(f"layout={layout!r}; expected {', '.join(get_args(FolderLayout))}.")
    tree = None if taxonomy is None else read_taxonomy(taxonomy)
    known = tree if isinstance(taxonomy, Taxonomy) else None
    if layout == "tree" and tree is not known:
        raise UsageError("layout=tree takes the tree from the folders; expected it without a taxonomy.")
    if layout == "tree" and known is None and suffix_of(str(path)) in (*SUFFIXES, *ANNOTATIONS):
        raise UsageError(
            f"{redact(str(path))} is no folder, and layout=tree makes nested folders a tree. A file with the tree "
            "gives its classes one: --taxonomy FILE (taxonomy= in Python)."
        )
    if (image_column or label_column) and suffix_of(str(path)) not in (*SUFFIXES, ".json"):
        raise UsageError(
            f"{redact(str(path))} is not a manifest, and image_column and label_column name the columns of one. Pass "
            f"the table itself, a file that ends in {', '.join(SUFFIXES)}."
        )
    source = open_data(
        path, root, remote=remote, layout=layout, known=classes or (), tree=known, image_column=image_column,
        label_column=label_column, task=asked.read_as, label_separator=label_separator, group_by=group_by,
        pool_by=pool_by,
    )  # fmt: skip
    if splits:
        refuse_divided_groups(source, group_by)
    if task == "regression":
        source = with_numbers(source, redact(str(path)))
    elif asked.read_as == "auto" and classes is None and suffix_of(str(path)) in SUFFIXES:
        refuse_unasked_numbers(source, redact(str(path)))
    is_plain = root is None and layout == "auto" and asked.read_as == "auto" and tree is None
    is_plain = is_plain and not (image_column or label_column or label_separator)
    ordered = tuple(classes or ())
    if asked.is_ordinal and (tree is not None or layout == "tree"):
        raise UsageError(ORDERED_TREE)
    if asked.is_ordinal and classes is None:  # before the images are read
        ordered = in_order(sorted({label for _, label in source.layout.classes}), asked.order, redact(str(path)))
    source = with_pooled_groups(with_groups(source, group_by), pool_by, group_by, splits=splits)
    if pool_by:  # before the images are read, whose copies may still unite labels
        found, merges = source.layout.found.sorted_by_path(), source.layout.merges_copies
        check_entries(found, pool_by, with_labels=not merges)
    dataset = scan_source(
        source, path, taxonomy=tree, on_unreadable=on_unreadable, classes=classes,
        max_pixels=max_pixels, cache=cache, near_duplicates=near_duplicates, lenient=lenient, workers=workers,
        progress=progress, compare_progress=compare_progress, scanned=absolute(path) if is_plain else "", bands=bands,
    )  # fmt: skip
    dataset = pooled_by(dataset, pool_by) if pool_by else dataset
    if not asked.is_ordinal:
        return dataset
    dataset = replace(dataset, classes=tuple(name for name in ordered if name in dataset.classes))
    note = f"The classes in their order, lowest first: {join_truncated(dataset.classes, shown=20)}."
    return replace(dataset, ordered=True, notes=(*dataset.notes, note))


def scan_source(
    source: DataSource,
    path: Path | str,
    *,
    taxonomy: Taxonomy | None = None,
    on_unreadable: OnUnreadable = "skip",
    classes: Sequence[str] | None = None,
    max_pixels: int = MAX_PIXELS,
    cache: Cache | None = None,
    near_duplicates: bool = True,
    lenient: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
    compare_progress: Progress | None = None,
    scanned: str = "",
    bands: str = "",
) -> Dataset:
    """Hash and decode every image of an open source, as `scan` does; `path` names it in messages.

    `taxonomy` is the tree for a source whose folders are none.
    """
    name, read = redact(str(path)), source.layout
    found, notes = read.found.sorted_by_path(), tuple(read.notes)
    pairs: tuple[Pair, ...] = ()
    with (
        open_cache(cache) as store,
        read_images(source, found, max_pixels=max_pixels, cache=store, workers=workers, progress=progress) as images,
    ):
        samples, bad = images.samples, images.bad
        if near_duplicates:
            samples, pairs = _with_near_duplicates(images, store, compare_progress)
    merged: list[str] = []
    if read.merges_copies:
        samples, merged = _merge_copies(samples)
        notes = (*notes, *_merge_notes(merged))
    if bad and on_unreadable == "error":
        raise DataError(describe_unreadable(bad))
    problems: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    if taxonomy is not None and read.task != "classification":
        raise UsageError(f"A tree is for images with one class each, and {name} is read as {read.task}. Leave it out.")
    if read.parents is not None:
        taxonomy = Taxonomy((), read.parents, f"The tree of folders in {name}")
    tree: Taxonomy | None = None
    try:
        numbers = choose_bands(bands, samples.paths, samples.stats["mode"], samples.stats["frames"])
        if read.task == "regression":
            check_numbers(name, samples, is_model_known=classes is not None)
            classes = (read.quantity,) if classes is None else classes
        elif classes is None:
            classes = check_classes(name, samples, read.classes, read.task)
        else:
            check_known(name, samples, classes, read.task)
        tree = taxonomy and taxonomy.with_classes(classes)
    except DataError as error:
        if not lenient:
            unread = describe_unreadable(bad) if bad else ""
            skipped = () if samples else describe_ignored(sorted(read.ignored), source.storage.source)
            raise DataError("\n".join([str(error), *filter(None, [unread]), *skipped])) from None
        problems = (str(error),)
        found_classes = {label for _, label in read.classes} | classes_in(samples.labels, read.task)
        classes = [read.quantity] if read.task == "regression" else sorted(found_classes)
    alike = (" and ".join(map(repr, names)) for names in similar_names(classes))
    spelling = (f"The classes {names} differ only in spelling." for names in alike)
    others = describe_ignored(sorted(read.ignored), source.storage.source)
    trees = () if tree is None else (tree.describe(),)
    tree = None if tree is None or tree.depth == 1 else tree
    values = (*_value_notes(samples, numbers), *_duplicate_notes(samples, read.task))
    ignored = tuple(sorted(read.ignored + read.noted + merged))
    return Dataset(
        source.root, samples, tuple(classes), bad, ignored, (*notes, *trees, *others, *spelling, *values), max_pixels,
        source.storage, pairs, problems, scanned, read.task, numbers, tree,
    )  # fmt: skip


def describe_unreadable(bad: Sequence[BadFile]) -> str:
    """List files that cannot be read, with their reasons, or one of them if they have the same."""
    if len(bad) > 1 and len({b.reason for b in bad}) == 1:
        return f"{len(bad):,} images cannot be read, such as {bad[0].path}: {bad[0].reason}"
    reasons = join_truncated((f"{b.path}: {b.reason}" for b in bad), "\n  ")
    return f"{pluralize(len(bad), 'image')} cannot be read:\n  {reasons}"


def _with_near_duplicates(
    images: ReadImages, cache: Cache, progress: Progress | None
) -> tuple[SampleTable, tuple[Pair, ...]]:
    samples = images.samples
    _, first = np.unique(samples.contents, return_index=True)  # sorted by the SHA-256
    unique = samples.take(first)

    def pictures() -> tuple[Pictures, np.ndarray]:
        return images.thumbnails(unique), unique.shorter_sides

    found = near_duplicate_pairs(unique.sha256s(), pictures, cache=cache, progress=progress)
    roots = connected_sets(len(unique), found[:, :2].astype(np.int64))
    sizes = np.bincount(roots, minlength=len(unique))
    groups = np.flatnonzero(sizes > 1)  # the roots are the first images of the groups
    code_of = np.full(len(unique), -1, np.int32)
    code_of[groups] = np.arange(len(groups))
    of_unique = code_of[roots]
    names = string_array(list(unique.take(groups).sha256s()))
    samples = samples.with_near_duplicates(Names(of_unique[samples.contents], names))
    paths = unique.paths
    pairs = (
        Pair(paths[int(first)], paths[int(second)], similarity, bool(mirrored))
        for first, second, similarity, mirrored in found.tolist()
    )
    return samples, tuple(pairs)


def _merge_copies(samples: SampleTable) -> tuple[SampleTable, list[str]]:
    """One sample for all copies of an image in a part, with all their labels, and the paths of the others."""
    keys = np.stack([samples.contents, samples.parts.astype(np.int32)])
    _, first_of, number_of = np.unique(keys, axis=1, return_index=True, return_inverse=True)
    first_of = first_of[number_of.ravel()]
    others = np.flatnonzero(first_of != np.arange(len(samples)))
    labels, united = samples.labels.to_list(), dict[int, set[str]]()
    for row, first in zip(others.tolist(), first_of[others].tolist(), strict=True):
        united.setdefault(first, set(split_labels(labels[first] or ""))).update(split_labels(labels[row] or ""))
    for first, names in united.items():
        labels[first] = join_labels(names)
    kept = np.setdiff1d(np.arange(len(samples)), others)
    return samples.with_labels(Names.of(labels)).take(kept), list(samples.paths[others].tolist())


def _merge_notes(merged: Sequence[str]) -> Iterator[str]:
    if merged:
        files = pluralize(len(merged), "file is a copy of another", "files are copies of others")
        yield f"{files}, such as {merged[0]}: an image in several class folders is one image with all their labels."
    else:
        yield "No image is in several class folders, so that each has one label."


def _value_notes(samples: SampleTable, bands: tuple[int, ...]) -> Iterator[str]:
    stats = samples.stats
    if bands:
        used = pluralize(len(bands), "band of each image is", "bands of each image are")
        yield f"{used} used: {format_numbers(bands)}."
        return
    if several := int((stats["frames"] > 1).sum()):
        what = pluralize(several, "image has", "images have")
        yield f"{what} several frames or pages; only the first is used."
    if more := int(np.isin(stats["mode"], [mode for mode in np.unique(stats["mode"]) if b"+" in mode]).sum()):
        what = pluralize(more, "image has", "images have")
        yield f"{what} more bands than red, green and blue, which are not used. With data.bands = all they are."
    for floats, kind in enumerate(("integers", "floats")):
        wide = stats[(stats["largest"] != 0) & ((stats["mode"] == b"F") == bool(floats))]
        if len(wide):
            least, largest = min(0.0, float(wide["low"].min())), float(wide["largest"].max())
            what = pluralize(len(wide), "image has", "images have")
            yield f"{what} more than 8 bits ({kind} in the range {least:,.6g} to {largest:,.6g})."
    count = int((stats["largest"] != 0).sum())
    if 0 < count < len(stats):
        yield f"{pluralize(len(stats) - count, 'image of 8 bits is', 'images of 8 bits are')} not scaled as the others."


def _duplicate_notes(samples: SampleTable, task: Task) -> Iterator[str]:
    contents, (_, pictures) = np.unique(samples.contents), np.unique(samples.pictures, return_inverse=True)
    if copies := len(samples) - len(contents):
        yield f"{pluralize(copies, 'exact duplicate')} of other images."
    count = int(pictures.max(initial=-1)) + 1
    if task == "classification":
        pairs = np.unique(np.stack([samples.contents, samples.labels.codes]), axis=1)
        shared = int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())
        if shared > 1 and shared >= _USUAL * len(contents):
            yield f"{shared:,} pictures are in several classes. If an image may have several, use --task multilabel."
    if near := len(contents) - count:
        yield f"{pluralize(near, 'near duplicate')} of other images; a split keeps them in one part."
    first = np.full(count, len(samples))
    np.minimum.at(first, pictures, np.arange(len(samples)))
    found = [(samples.parts, "picture is", "pictures are", "in more than one part (a leak)")]
    if task != "regression":  # pictures that are nearly the same may have numbers that are nearly the same
        several = "more than one label" if task == "classification" else "different labels"
        found.append((samples.labels.codes, "picture has", "pictures have", f"{several} (copies or near duplicates)"))
    for values, one, many, what in found:
        differ = np.flatnonzero(values != values[first[pictures]])
        if len(differ):
            mixed = np.unique(pictures[differ])
            example = first[mixed].min()
            other = differ[pictures[differ] == pictures[example]][0]
            paths = f"{samples.paths[example]} and {samples.paths[other]}"
            yield f"{pluralize(len(mixed), one, many)} {what}, for example {paths}."
