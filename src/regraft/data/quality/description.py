"""Describe a scanned data set by numbers: its classes, parts, sizes, formats and brightness; no image is read."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from regraft.data.dataset import PARTS, Dataset
from regraft.data.quality.numbers import describe_numbers
from regraft.data.taxonomy import Taxonomy

#: Pairs of labels that are listed.
_PAIRS = 100


def has_several(dataset: Dataset) -> bool:
    """Whether an image has any number of classes."""
    return dataset.task == "multilabel"


def _tree(dataset: Dataset, tree: Taxonomy) -> list[dict[str, Any]]:
    """Every node of the tree with its level, 1 at the top, and its images."""
    nodes = tree.totals(dataset.counts())
    return [{"name": name, "level": depth + 1, "images": count} for name, depth, count in nodes]


def describe(dataset: Dataset) -> dict[str, Any]:
    """Counts, and quantiles (0, 5, 25, 50, 75, 95 and 100 %) of sizes, formats and brightness, as JSON values."""
    parts = [part for part in PARTS if part in {s.part for s in dataset.samples}]
    by_part = Counter((name, s.part) for s in dataset.samples for name in dataset.names_of(s))
    stats = [s.image_stats for s in dataset.samples if s.image_stats is not None]
    numbers: dict[str, list[float]] = {
        "width": [f.width for f in stats],
        "height": [f.height for f in stats],
        "aspect_ratio": [f.width / f.height for f in stats],
        "file_bytes": [f.bytes for f in stats],
        **{name: [getattr(f, name) for f in stats] for name in ("brightness", "contrast", "sharpness")},
    }
    return {
        "images": len(dataset),
        "unreadable": len(dataset.bad),
        "other_files": len(dataset.ignored),
        "bytes": sum(numbers["file_bytes"]),
        "classes": {
            c: {"all": count, **{part: by_part[c, part] for part in parts}} for c, count in dataset.counts().items()
        },
        **({"tree": _tree(dataset, dataset.taxonomy)} if dataset.taxonomy else {}),
        "parts": {part: sum(s.part == part for s in dataset.samples) for part in parts},
        **(describe_labels(dataset) if has_several(dataset) else {}),
        **({"numbers": describe_numbers(dataset)} if dataset.task == "regression" else {}),
        "formats": dict(Counter(f.format for f in stats).most_common()),
        "modes": dict(Counter(f.mode for f in stats).most_common()),
        "quantiles": {
            name: [round(float(q), 5) for q in np.quantile(values, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1))]
            for name, values in numbers.items()
            if values
        },
    }


def describe_files(dataset: Dataset) -> dict[str, Any]:
    """What the files of the images are, as JSON values: formats, color modes, sizes, copies and groups.

    `width` and `height` are the least, the median and the largest in pixels, [] where no size is known. `contents` is
    the number of different files, `pictures` that of different pictures, of which near duplicates are one, and `groups`
    that of the groups of the images `in_groups`. It reads the columns of the samples, of which there may be millions.
    """
    table = dataset.table
    stats, sizes, groups = table.stats, table.sizes, table.groups.codes
    stats, sizes = stats[stats["bytes"] > 0], sizes[sizes.min(axis=1, initial=1) > 0]
    return {
        "images": len(table),
        "bytes": int(stats["bytes"].sum()),
        "formats": _most_common(stats["format"]),
        "modes": _most_common(stats["mode"]),
        "width": _least_median_largest(sizes[:, 0]),
        "height": _least_median_largest(sizes[:, 1]),
        "contents": len(np.unique(table.contents)),
        "pictures": len(np.unique(table.pictures)),
        "groups": len(np.unique(groups[groups >= 0])),
        "in_groups": int((groups >= 0).sum()),
    }


def _most_common(names: np.ndarray) -> dict[str, int]:
    """How often each of N names in bytes occurs, the most frequent first."""
    values, counts = np.unique(names, return_counts=True)
    found = zip(values.tolist(), counts.tolist(), strict=True)
    return {name.decode(): count for name, count in sorted(found, key=lambda pair: -pair[1])}


def _least_median_largest(values: np.ndarray) -> list[int]:
    return [int(value) for value in (values.min(), np.median(values), values.max())] if len(values) else []


def describe_labels(dataset: Dataset) -> dict[str, Any]:
    """How many images have how many labels, and two labels together: the most frequent pairs first, as JSON values."""
    has = dataset.indicators
    together = has.T.astype(np.int64) @ has
    pairs = np.argwhere(np.triu(together, 1) > 0).tolist()
    names = dataset.classes
    counted = sorted(((names[i], names[j], int(together[i, j])) for i, j in pairs), key=lambda pair: -pair[2])
    return {
        "labels_per_image": dict(sorted(Counter(has.sum(axis=1).tolist()).items())),
        "label_pairs": [list(pair) for pair in counted[:_PAIRS]],
    }
