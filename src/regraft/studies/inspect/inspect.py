"""Inspect labeled images before training, with a frozen backbone's features for near duplicates and label errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from regraft.cache import Cache, cache_key
from regraft.data.dataset import Dataset, Pair, Split
from regraft.data.labels import AskedTask
from regraft.data.quality.findings import Finding, Inspection, audit, by_severity, with_features
from regraft.data.scan import scan
from regraft.data.sources.folders import FolderLayout
from regraft.data.split import fold_numbers, inseparable_set_counts, inseparable_set_ids
from regraft.errors import WeightsError
from regraft.runs.progress import with_progress
from regraft.text import pluralize
from regraft.training.callbacks import NullReporter, ProgressReporter

#: Folds of the out-of-fold predictions.
_FOLDS = 5
#: Versions of the cached results; raised whenever the same images and labels would give others.
_LABELS_VERSION, _PAIRS_VERSION = 5, 1


@with_progress
def inspect(
    data: Dataset | Split | Path | str,
    *,
    root: Path | str | None = None,
    labels: bool = True,
    backbone: str = "efficientnet_lite0",
    weights: str = "auto",
    group_by: str = "",
    remote: bool = False,
    layout: FolderLayout = "auto",
    taxonomy: Path | str | Mapping[str, str | None] | None = None,
    image_column: str = "",
    label_column: str = "",
    bands: str = "",
    task: AskedTask = "auto",
    order: Sequence[str] = (),
    label_separator: str = "",
    cache: Cache | None = None,
    reporter: ProgressReporter | None = None,
) -> Inspection:
    """Report what is in the data and what is wrong with it.

    Args:
        data: A data set, a split, or a path that `scan` takes. In a path, classes that cannot be trained on are
            findings, not errors.
        root: Folder that a manifest's paths start from, as for `scan`.
        labels: Whether to search for labels that are likely wrong and confirm near duplicates, which runs the backbone
            once over every image.
        backbone: Backbone whose features are used.
        weights: Weights of the backbone, as for `build`.
        group_by: Regular expression on the path, as for `scan`.
        remote: Whether to download images that a manifest names by URL, as for `scan`.
        layout: Meaning of folders, as for `scan`.
        taxonomy: Tree above the classes, as for `scan`.
        image_column: Column of a manifest with the paths, as for `scan`.
        label_column: Column of a manifest with the labels, as for `scan`.
        bands: Bands that are the channels, as for `scan`.
        task: Whether images have one label, several, or a number, as for `scan`.
        order: Classes that have an order, as for `scan`.
        label_separator: What is between several labels in a cell, as for `scan`.
        cache: Cache of all results; default: that of the user.
        reporter: Reporter that gets the progress; default: that of the notebook or terminal.

    Raises:
        UsageError: As `scan`.
        DataError: As `scan`, if the data cannot be read at all.

    Examples:
        >>> inspection = regraft.inspect("photos", labels=False)
        >>> [finding.title for finding in inspection.findings]
        [...]
    """
    reporter, cache = reporter or NullReporter(), cache or Cache()
    if isinstance(data, (Dataset, Split)):
        dataset = data.dataset if isinstance(data, Split) else data
    else:
        dataset = scan(
            data,
            root=root,
            lenient=True,
            group_by=group_by,
            remote=remote,
            layout=layout,
            taxonomy=taxonomy,
            image_column=image_column,
            label_column=label_column,
            bands=bands,
            task=task,
            order=order,
            label_separator=label_separator,
            cache=cache,
            progress=partial(reporter.on_progress, "scan", detail="images"),
            compare_progress=partial(reporter.on_progress, "near duplicates"),
        )
    findings, notes = audit(dataset), dataset.describe_values(dataset.value_range)
    if not labels:
        notes.append("Labels were not checked.")
    elif len(dataset.classes) < 2 and dataset.task != "regression":
        notes.append("Labels were not checked: that needs at least two classes.")
    else:
        checks = _FeatureChecks(dataset, backbone, weights, cache, reporter)
        try:
            dataset = replace(dataset, pairs=checks.pairs())
            findings = [with_features(finding, dataset.pairs) for finding in findings]
            findings += checks.label_errors()
        except WeightsError as error:
            notes.append(f"Labels were not checked, and near duplicates were not compared by features: {error}")
        notes += checks.notes
    return Inspection(dataset, tuple(by_severity(findings)), tuple(notes))


class _FeatureChecks:
    """Checks by the features of a backbone, which are computed when they are first needed."""

    def __init__(self, dataset: Dataset, backbone: str, weights: str, cache: Cache, reporter: ProgressReporter) -> None:
        # Sorted, so that cached results do not depend on the order of the files.
        by_path = np.argsort(dataset.table.paths, kind="stable")
        order = by_path[np.argsort(dataset.table.contents[by_path], kind="stable")]  # by SHA-256, then by path
        self.dataset = dataset.with_samples(dataset.table.take(order))
        self.backbone, self.weights = backbone, weights
        self.cache, self.reporter = cache, reporter
        self.notes: list[str] = []

    @cached_property
    def features(self) -> np.ndarray:
        """Features of the images, float32 (N, F)."""
        # These imports take seconds, and a second inspection does not need them.
        from regraft.models.classifier import build
        from regraft.training.frozen_features import frozen_features

        dataset = self.dataset
        model = build(
            self.backbone, classes=dataset.classes, task=dataset.task, weights=self.weights,
            shorter_side=dataset.shorter_side, bands=dataset.bands,
        )  # fmt: skip
        return frozen_features(model, dataset, self.cache, self.reporter).numpy()

    def pairs(self) -> tuple[Pair, ...]:
        pairs = self.dataset.pairs
        places = {sample.path: place for place, sample in enumerate(self.dataset.samples)}
        ends = np.array([(places[pair.first], places[pair.second]) for pair in pairs], np.int64).reshape(-1, 2)
        key = self._key(_PAIRS_VERSION) | {"pairs": cache_key(*map(str, ends.ravel().tolist())).hex()}
        table = self.cache.table("near_duplicate_features", key, (1,), np.float64)
        rows = table.read_list()
        if rows is None:
            rows = table.write_list(_correlations(self.features, ends) if len(ends) else np.empty((0, 1)))
        return tuple(replace(pair, features=float(row[0])) for pair, row in zip(pairs, rows, strict=True))

    def label_errors(self) -> list[Finding]:
        of_task = {"multilabel": self._label_doubts, "regression": self._number_doubts}
        if (find := of_task.get(self.dataset.task)) is not None:
            return find()
        samples = self.dataset.samples
        counts = inseparable_set_counts(samples)
        checked = np.array([i for i, s in enumerate(samples) if counts[s.label] >= _FOLDS], np.int64)
        classes = sorted(self.dataset.table.take(checked).labels.used())
        if len(classes) < 2:
            self.notes.append(
                f"Labels were not checked: that needs two classes with at least {_FOLDS} images that can be divided."
            )
            return []
        table = self.cache.table("label_errors", self._key(_LABELS_VERSION), (4,), np.float64)
        rows = table.read_list()
        if rows is None:
            rows = table.write_list(self._find_label_errors(checked, classes))
        if not len(rows):
            return []
        if rows[0][0] < 0:
            accuracy, majority = (f"{100 * share:.1f} %" for share in rows[0][1:3])
            self.notes.append(
                "Labels were not checked: on the features of this backbone, a classifier is not clearly better than "
                f"always predicting the most frequent class ({accuracy} accuracy, beside {majority})."
            )
            return []
        suspects = [samples[checked[int(row[0])]] for row in rows]
        details = [
            f"labeled {sample.label} ({100 * given:.0f} %), "
            f"looks like {classes[int(suggested)]} ({100 * probability:.0f} %)"
            for sample, (_, suggested, probability, given) in zip(suspects, rows.tolist(), strict=True)
        ]
        title = f"{pluralize(len(rows), 'label is', 'labels are')} likely wrong; the likeliest come first."
        advice = "Check these images and correct the wrong labels. The model that names them makes mistakes too."
        files = tuple((sample.path,) for sample in suspects)
        return [Finding("label_error", "warning", title, advice, files, tuple(details))]

    def _label_doubts(self) -> list[Finding]:
        """Classes that an image of any number of classes likely has or lacks, contrary to its labels."""
        dataset = self.dataset
        sets, names = inseparable_set_counts(dataset.samples, dataset.task), dataset.classes
        lacking = (~dataset.indicators).sum(axis=0)
        columns = [i for i, name in enumerate(names) if min(sets[name], lacking[i]) >= _FOLDS]
        if not columns:
            self.notes.append(
                f"Labels were not checked: that needs a class with at least {_FOLDS} images that can be divided."
            )
            return []
        table = self.cache.table("label_errors", self._key(_LABELS_VERSION) | {"task": dataset.task}, (3,), np.float64)
        rows = table.read_list()
        if rows is None:
            rows = table.write_list(self._find_label_doubts(columns))
        if not len(rows):
            return []
        details = []
        for index, column, probability in rows.tolist():
            name, sample = names[int(column)], dataset.samples[int(index)]
            what = "labeled" if name in dataset.names_of(sample) else "not labeled"
            details.append(f"{what} {name}, which a model gives {100 * probability:.0f} %")
        title = f"{pluralize(len(rows), 'label is', 'labels are')} likely wrong or missing; the likeliest come first."
        advice = "Check these images and correct the wrong labels. The model that names them makes mistakes too."
        files = tuple((dataset.samples[int(index)].path,) for index, *_ in rows.tolist())
        return [Finding("label_error", "warning", title, advice, files, tuple(details))]

    def _number_doubts(self) -> list[Finding]:
        """Numbers that are far from what a model says that has not seen the image."""
        samples = self.dataset.samples
        if self.dataset.class_problems:  # they are findings
            return []
        if len(np.unique(inseparable_set_ids(samples))) < 2 * _FOLDS:
            self.notes.append(f"Numbers were not checked: that needs {2 * _FOLDS} images that can be divided.")
            return []
        table = self.cache.table("label_errors", self._key(_LABELS_VERSION) | {"task": "regression"}, (2,), np.float64)
        rows = table.read_list()
        if rows is None:
            rows = table.write_list(self._find_number_doubts())
        if not len(rows):
            return []
        if rows[0][0] < 0:
            self.notes.append(
                "Numbers were not checked: on the features of this backbone, a model is not clearly better than "
                "predicting the mean for every image."
            )
            return []
        suspects = [(samples[int(index)], value) for index, value in rows.tolist()]
        title = f"{pluralize(len(rows), 'number is', 'numbers are')} likely wrong; the largest errors come first."
        advice = "Check these images and correct the wrong numbers. The model that names them makes mistakes too."
        details = tuple(f"labeled {sample.label}, predicted {value:.4g}" for sample, value in suspects)
        return [Finding("label_error", "warning", title, advice, tuple((s.path,) for s, _ in suspects), details)]

    def _find_number_doubts(self) -> np.ndarray:
        """Place in the samples and predicted number, float64 (n, 2), the largest error first.

        A model that is not clearly better than the mean accuses nobody: -1, (1, 2).
        """
        import torch

        from regraft.evaluation.regression.label_errors import find_number_doubts
        from regraft.evaluation.regression.metrics import evaluate_numbers
        from regraft.evaluation.regression.predictions import RegressionPredictions
        from regraft.training.cross_val_predict import cross_val_predict

        dataset, features = self.dataset, torch.from_numpy(self.features)
        folds = fold_numbers(dataset, _FOLDS)
        said = cross_val_predict(features, dataset.targets, folds, self.reporter, classes=1, task="regression")[:, 0]
        if evaluate_numbers(RegressionPredictions.from_arrays(dataset.numbers, said)).no_better:
            return np.array([(-1, 0)], np.float64)
        doubts = find_number_doubts(dataset.numbers, said)
        return np.array([(one.index, one.value) for one in doubts], np.float64).reshape(-1, 2)

    def _find_label_doubts(self, columns: list[int]) -> np.ndarray:
        """Place in the samples, number of the class and its probability, float64 (n, 3), the likeliest first."""
        import torch

        from regraft.evaluation.majority import compare_with_majority
        from regraft.evaluation.metrics import confusion_matrix
        from regraft.evaluation.multilabel.label_errors import find_label_doubts
        from regraft.training.cross_val_predict import cross_val_predict

        dataset, has = self.dataset, self.dataset.indicators
        features, folds = torch.from_numpy(self.features), fold_numbers(dataset, _FOLDS)
        targets = has[:, columns].astype(np.float32)
        found = cross_val_predict(features, targets, folds, self.reporter, classes=len(columns))
        probabilities = np.zeros(has.shape)
        probabilities[:, columns] = found
        said = (probabilities > 0.5).astype(np.int64)
        matrices = {i: confusion_matrix(has[:, i].astype(np.int64), said[:, i], 2) for i in columns}
        better = [i for i in columns if compare_with_majority(matrices[i]).is_better]
        if not better:
            self.notes.append("Labels were not checked: for no class is a classifier on these features clearly better.")
        doubts = find_label_doubts(has, probabilities, better) if better else []
        return np.array([(one.index, one.column, one.probability) for one in doubts], np.float64).reshape(-1, 3)

    def _find_label_errors(self, checked: np.ndarray, classes: list[str]) -> np.ndarray:
        """Place in `checked`, suggested class, its probability, that of the label; (n, 4), the likeliest first.

        A model that is not clearly better than the majority class accuses nobody: -1 and both accuracies, (1, 4).
        """
        import torch

        from regraft.evaluation.label_errors import find_label_errors
        from regraft.evaluation.majority import compare_with_majority
        from regraft.evaluation.metrics import confusion_matrix
        from regraft.training.cross_val_predict import cross_val_predict

        dataset = self.dataset.with_samples(self.dataset.table.take(checked))
        labels = np.array([classes.index(s.label) for s in dataset.samples])
        folds = fold_numbers(dataset, _FOLDS)
        features = torch.from_numpy(self.features[checked])
        probabilities = cross_val_predict(features, labels, folds, self.reporter, classes=len(classes))
        majority = compare_with_majority(confusion_matrix(labels, probabilities.argmax(axis=1), len(classes)))
        if not majority.is_better:
            return np.array([(-1, majority.accuracy, majority.majority_accuracy, 0)], np.float64)
        errors = find_label_errors(labels, probabilities)
        return np.array([(e.index, e.suggested, e.probability, e.given) for e in errors], np.float64).reshape(-1, 4)

    def _key(self, version: int) -> dict[str, str | int]:
        samples = self.dataset.samples
        images = sorted((s.sha256, s.label, s.group or "", s.near_duplicate_group or "") for s in samples)
        weights = _weights_key(self.weights)
        return {"images": cache_key(*images).hex(), "backbone": self.backbone, "weights": weights, "version": version}


def _correlations(features: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Correlations of standardized features, (N, F), for pairs of rows, int64 (n, 2): float64 (n, 1), -1..1."""
    spread = features.std(axis=0)
    units = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-12)
    return np.asarray((units[pairs[:, 0]] * units[pairs[:, 1]]).sum(axis=1, dtype=np.float64)[:, None])


def _weights_key(weights: str) -> str:
    """The name of the weights, and for a file or folder also sizes and times."""
    path = Path(weights)
    files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    return ";".join([weights, *(f"{s.st_size},{s.st_mtime_ns}" for s in map(Path.stat, files))])
