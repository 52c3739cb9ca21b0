"""Examine labelled images before training.

Enters: data as `scan` takes it. Leaves: an `Inspection`. Labels that are likely wrong are found by heads on the frozen
default backbone's features, each solved without the images that it judges.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from regraft.data.audit import Finding, Inspection, audit, by_severity
from regraft.data.dataset import Dataset, Sample, Split
from regraft.data.scan import scan
from regraft.data.split import bundle_counts, fold_numbers
from regraft.errors import WeightsError, counted
from regraft.store import Store, name_of
from regraft.training.progress import Listener, Silence

#: Folds in which labels are judged.
_FOLDS = 5
#: Changes whenever the same images and labels would give other label errors.
_VERSION = 2


def inspect(
    data: Dataset | Split | Path | str,
    *,
    root: Path | str | None = None,
    labels: bool = True,
    backbone: str = "efficientnet_lite0",
    weights: str = "auto",
    group_by: str = "",
    remote: bool = False,
    store: Store | None = None,
    listener: Listener | None = None,
) -> Inspection:
    """Find out what is in the data and what is wrong with it.

    Args:
        data: A data set, a split, or a path that `scan` takes; classes that cannot be trained on are findings and raise
            nothing when it is a path.
        root: What a manifest's paths start from, as for `scan`.
        labels: Whether labels that are likely wrong are looked for, which runs the backbone once over every image.
        backbone: Whose features judge the labels.
        weights: Of the backbone, as for `build`.
        group_by: A regular expression on the path, as for `scan`.
        remote: Whether images that a manifest names elsewhere are fetched, as for `scan`.
        store: Where everything that is computed is found and kept; default: this machine's.
        listener: Told how far the work is.

    Raises:
        UsageError: As `scan`.
        DataError: As `scan`, where the data cannot be read at all.
    """
    listener, store = listener or Silence(), store or Store()
    if isinstance(data, (Path, str)):
        dataset = scan(
            data,
            root=root,
            lenient=True,
            group_by=group_by,
            remote=remote,
            store=store,
            progress=lambda done, total: listener.work("scan", done, total, "images"),
            compare=lambda done, total: listener.work("near duplicates", done, total, "pairs"),
        )
    else:
        dataset = data.dataset if isinstance(data, Split) else data
    findings, notes = audit(dataset), []
    if labels:
        judged = dataset.with_samples(_judged(dataset))
        if len({s.label for s in judged.samples}) < 2:
            notes.append(
                f"Labels were not judged: that needs two classes of at least {_FOLDS} images that may be divided."
            )
        else:
            try:
                findings += _label_errors(judged, backbone, weights, store, listener)
            except WeightsError as error:
                notes.append(f"Labels were not judged: {error}")
    else:
        notes.append("Labels were not judged.")
    return Inspection(dataset, tuple(by_severity(findings)), tuple(notes))


def _judged(dataset: Dataset) -> list[Sample]:
    """Samples of the classes that have enough of them for every fold."""
    counts = bundle_counts(dataset.samples)
    return [s for s in dataset.samples if counts[s.label] >= _FOLDS]


def _label_errors(dataset: Dataset, backbone: str, weights: str, store: Store, listener: Listener) -> list[Finding]:
    classes = sorted({s.label for s in dataset.samples})
    key = {
        "images": name_of(*sorted((s.sha256, s.label, s.group or "", s.twins or "") for s in dataset.samples)).hex(),
        "backbone": backbone,
        "weights": _mark(weights),
        "version": _VERSION,
    }
    table = store.table("label_errors", key, (4,), np.float64)
    # Two files may have the same bytes and labels: places among the sorted ones are the same for any order of files.
    order = sorted(range(len(dataset)), key=lambda i: (dataset.samples[i].sha256, dataset.samples[i].path))
    rows = table.read_list()
    if rows is None:
        rows = table.write_list(_judge(dataset.with_samples([dataset.samples[i] for i in order]), classes, backbone,
                                       weights, store, listener))  # fmt: skip
    if not len(rows):
        return []
    samples = [dataset.samples[order[int(row[0])]] for row in rows]
    details = [
        f"labelled {sample.label} ({given:.2f}), looks like {classes[int(suggested)]} ({probability:.2f})"
        for sample, (_, suggested, probability, given) in zip(samples, rows.tolist(), strict=True)
    ]
    return [
        Finding(
            "label_error",
            "warning",
            f"{counted(len(rows), 'label is', 'labels are')} likely wrong, the likeliest first.",
            "Look at them and put the wrong ones right. A model that judges them is itself not always right.",
            tuple((sample.path,) for sample in samples),
            tuple(details),
        )
    ]


def _mark(weights: str) -> str:
    """What changes when the weights do: of a file or folder, also sizes and times."""
    path = Path(weights)
    files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    return ";".join([weights, *(f"{s.st_size},{s.st_mtime_ns}" for s in map(Path.stat, files))])


def _judge(
    dataset: Dataset, classes: list[str], backbone: str, weights: str, store: Store, listener: Listener
) -> np.ndarray:
    """Number of the image, suggested class, its probability and that of the label, (n, 4), the likeliest first."""
    # These take seconds to import, and a second inspection needs none of them.
    from regraft.evaluation.label_errors import find_label_errors
    from regraft.models.classifier import build
    from regraft.training.out_of_fold import frozen_features, out_of_fold

    model = build(backbone, classes=classes, weights=weights, shorter_side=dataset.shorter_side)
    features = frozen_features(model, dataset, store, listener)
    labels = np.array([classes.index(s.label) for s in dataset.samples])
    folds = fold_numbers(dataset, _FOLDS)
    probabilities = out_of_fold(features, labels, folds, listener, classes=len(classes))
    found = find_label_errors(labels, probabilities)
    return np.array([(e.index, e.suggested, e.probability, e.given) for e in found], np.float64).reshape(-1, 4)
