"""Examine labelled images before training.

Enters: data as `scan` takes it. Leaves: an `Inspection`. The frozen default backbone's features say how alike near
duplicates are, and heads on them, each solved without the images that it judges, find labels that are likely wrong.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from regraft.data.audit import Finding, Inspection, audit, by_severity, with_features
from regraft.data.dataset import Dataset, Pair, Split
from regraft.data.scan import LOOK, scan
from regraft.data.split import bundle_counts, fold_numbers
from regraft.errors import WeightsError, counted
from regraft.pipeline.listening import told
from regraft.store import Store, name_of
from regraft.training.progress import Listener, Silence

#: Folds in which labels are judged.
_FOLDS = 5
#: They change whenever the same images and labels would give other label errors, and other likenesses.
_LABELS_VERSION, _PAIRS_VERSION = 3, 1


@told
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
        labels: Whether labels that are likely wrong are looked for and near duplicates confirmed, which runs the
            backbone once over every image.
        backbone: Whose features judge.
        weights: Of the backbone, as for `build`.
        group_by: A regular expression on the path, as for `scan`.
        remote: Whether images that a manifest names elsewhere are fetched, as for `scan`.
        store: Where everything that is computed is found and kept; default: this machine's.
        listener: Told how far the work is; default: a notebook or terminal that this is called from.

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
    dataset = replace(dataset, notes=tuple(note for note in dataset.notes if note != LOOK))
    findings, notes = audit(dataset), []
    if not labels:
        notes.append("Labels were not judged.")
    elif len(dataset.classes) < 2:
        notes.append("Labels were not judged: that needs two classes.")
    else:
        seen = _Seen(dataset, backbone, weights, store, listener)
        try:
            dataset = replace(dataset, pairs=seen.pairs())
            findings = [with_features(finding, dataset.pairs) for finding in findings]
            findings += seen.label_errors()
        except WeightsError as error:
            notes.append(f"Labels were not judged, nor near duplicates compared by features: {error}")
        notes += seen.notes
    return Inspection(dataset, tuple(by_severity(findings)), tuple(notes))


class _Seen:
    """What a backbone sees in the images; its features are computed when they are first needed."""

    def __init__(self, dataset: Dataset, backbone: str, weights: str, store: Store, listener: Listener) -> None:
        # Files may have the same bytes and labels: places among the sorted ones are the same for any order of files.
        order = sorted(range(len(dataset)), key=lambda i: (dataset.samples[i].sha256, dataset.samples[i].path))
        self.dataset = dataset.with_samples([dataset.samples[i] for i in order])
        self.named, self.backbone, self.weights = dataset.pairs, backbone, weights
        self.store, self.listener = store, listener
        self.notes: list[str] = []

    @cached_property
    def features(self) -> np.ndarray:
        """Of each image, float32 (N, F)."""
        # These take seconds to import, and a second inspection needs none of them.
        from regraft.models.classifier import build
        from regraft.training.out_of_fold import frozen_features

        dataset = self.dataset
        model = build(self.backbone, classes=dataset.classes, weights=self.weights, shorter_side=dataset.shorter_side)
        return frozen_features(model, dataset, self.store, self.listener).numpy()

    def pairs(self) -> tuple[Pair, ...]:
        """The near duplicates with how alike the backbone finds them."""
        places = {sample.path: place for place, sample in enumerate(self.dataset.samples)}
        ends = np.array([(places[pair.first], places[pair.second]) for pair in self.named], np.int64).reshape(-1, 2)
        key = self._key(_PAIRS_VERSION) | {"pairs": name_of(*map(str, ends.ravel().tolist())).hex()}
        table = self.store.table("twin_features", key, (1,), np.float64)
        rows = table.read_list()
        if rows is None:
            rows = table.write_list(_correlations(self.features, ends) if len(ends) else np.empty((0, 1)))
        return tuple(replace(pair, features=float(row[0])) for pair, row in zip(self.named, rows, strict=True))

    def label_errors(self) -> list[Finding]:
        """Labels that are likely wrong, if any."""
        samples = self.dataset.samples
        counts = bundle_counts(samples)
        judged = np.array([i for i, s in enumerate(samples) if counts[s.label] >= _FOLDS], np.int64)
        classes = sorted({samples[i].label for i in judged})
        if len(classes) < 2:
            self.notes.append(
                f"Labels were not judged: that needs two classes of at least {_FOLDS} images that may be divided."
            )
            return []
        table = self.store.table("label_errors", self._key(_LABELS_VERSION), (4,), np.float64)
        rows = table.read_list()
        if rows is None:
            rows = table.write_list(self._judge(judged, classes))
        if not len(rows):
            return []
        found = [samples[judged[int(row[0])]] for row in rows]
        details = [
            f"labelled {sample.label} ({given:.2f}), looks like {classes[int(suggested)]} ({probability:.2f})"
            for sample, (_, suggested, probability, given) in zip(found, rows.tolist(), strict=True)
        ]
        return [
            Finding(
                "label_error",
                "warning",
                f"{counted(len(rows), 'label is', 'labels are')} likely wrong, the likeliest first.",
                "Look at them and put the wrong ones right. A model that judges them is itself not always right.",
                tuple((sample.path,) for sample in found),
                tuple(details),
            )
        ]

    def _judge(self, judged: np.ndarray, classes: list[str]) -> np.ndarray:
        """Place among the judged, suggested class, its probability, that of the label; (n, 4), the likeliest first."""
        import torch

        from regraft.evaluation.label_errors import find_label_errors
        from regraft.training.out_of_fold import out_of_fold

        dataset = self.dataset.with_samples([self.dataset.samples[i] for i in judged])
        labels = np.array([classes.index(s.label) for s in dataset.samples])
        folds = fold_numbers(dataset, _FOLDS)
        features = torch.from_numpy(self.features[judged])
        probabilities = out_of_fold(features, labels, folds, self.listener, classes=len(classes))
        found = find_label_errors(labels, probabilities)
        return np.array([(e.index, e.suggested, e.probability, e.given) for e in found], np.float64).reshape(-1, 4)

    def _key(self, version: int) -> dict[str, str | int]:
        """What decides the features, and with them all that is found by them."""
        samples = self.dataset.samples
        return {
            "images": name_of(*sorted((s.sha256, s.label, s.group or "", s.twins or "") for s in samples)).hex(),
            "backbone": self.backbone,
            "weights": _mark(self.weights),
            "version": version,
        }


def _correlations(features: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Of standardised features, float32 (N, F), for numbers of images, int64 (n, 2): float64 (n, 1), -1 to 1."""
    spread = features.std(axis=0)
    seen = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    seen /= np.maximum(np.linalg.norm(seen, axis=1, keepdims=True), 1e-12)
    return np.asarray((seen[pairs[:, 0]] * seen[pairs[:, 1]]).sum(axis=1, dtype=np.float64)[:, None])


def _mark(weights: str) -> str:
    """What changes when the weights do: of a file or folder, also sizes and times."""
    path = Path(weights)
    files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    return ";".join([weights, *(f"{s.st_size},{s.st_mtime_ns}" for s in map(Path.stat, files))])
