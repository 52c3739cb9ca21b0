"""Find the images of an evaluation that the run knows from its training: the same files, and near duplicates of them.

The run has the SHA-256 of its images in `split.csv`. Their thumbnails, from which near duplicates are found, are in the
cache, else they are made from the images if these are still where they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from regraft.cache import Cache
from regraft.data.dataset import Dataset, Split
from regraft.data.decode import ImageSource
from regraft.data.index import Progress
from regraft.data.pooling import Groups, groups_of
from regraft.data.quality.near_duplicates import Pictures
from regraft.data.quality.same_pictures import picture_numbers, read_pictures
from regraft.data.samples import PARTS
from regraft.data.strings import in_blocks
from regraft.errors import RegraftError
from regraft.evaluation.tasks import AnyPredictions, evaluate_any
from regraft.evaluation.training_overlap import TrainingOverlap
from regraft.models.serialization import WEIGHTS, read_model_json
from regraft.runs.run import SPLIT, UNLABELED, Run
from regraft.runs.run_images import images_of, read_rows, split_rows

#: Number of images above which near duplicates are not looked for: that would take longer than the evaluation.
_MAX_IMAGES = 30_000


def overlap_with_run(
    run: Run, dataset: Dataset, predictions: AnyPredictions, *, progress: Progress | None = None
) -> TrainingOverlap:
    """Compare images, and the run's predictions of them in the same order, with the run's training and val images.

    Images without labels that the run had are among them, but their near duplicates are not looked for.
    """
    folders = _lineage(run.path)
    rows = (row for path in folders for row in split_rows(path) if row.get("part") in ("train", "val"))
    pairs = [(row["sha256"], row.get("path", "")) for row in rows if row.get("sha256")]
    known = dict(reversed(pairs))
    without_label = {row["sha256"] for path in folders for row in read_rows(path / UNLABELED) if row.get("sha256")}
    seen = without_label | known.keys()
    identical = np.array([sha256 in seen for sha256 in dataset.table.sha256s()], dtype=bool)
    none = np.zeros(len(identical), dtype=bool)
    if not known:
        text = (
            f"Whether the model was trained on these images could not be checked: {run.path} has no hashes in {SPLIT}."
        )
        return _overlap(predictions, none, none, text, groups_of(dataset))
    try:
        near = none if identical.all() else _near_duplicates(run, known, dataset, ~identical, progress)
    except (RegraftError, OSError) as error:
        reason = str(error).rstrip(".")
        text = f"Near duplicates of training images were not looked for: {reason}."
        return _overlap(predictions, identical, none, text, groups_of(dataset))
    return _overlap(predictions, identical, near, "", groups_of(dataset))


def _lineage(path: Path) -> list[Path]:
    """The folders of a run, and of the earlier runs from whose weights it started, if they are still there."""
    folders = [path]
    while True:
        weights = read_model_json(folders[-1]).get("weights") or {}
        earlier = Path(weights.get("name") or "")
        if weights.get("source") != "run" or not (earlier / WEIGHTS).is_file() or earlier in folders:
            return folders
        folders.append(earlier)


def overlap_within(split: Split, predictions: AnyPredictions) -> TrainingOverlap | None:
    """The overlap of the predicted images or groups of a split, by name, with its other parts; None if there is none.

    Only parts that the data brought along overlap; a split never divides copies and near duplicates.
    """
    table, number_of = split.dataset.table, {name: number for number, name in enumerate(predictions.ids)}
    pooled = groups_of(split.dataset)
    names = in_blocks(table.paths) if pooled is None else (pooled.names[number] for number in pooled.numbers.tolist())
    numbers = np.fromiter((number_of.get(name, -1) for name in names), np.int64, len(table))
    others = table.take((numbers < 0) & (table.parts != PARTS.index("test")))
    same = table.take(numbers >= 0)
    copied = np.isin(same.contents, others.contents)
    known = others.near_duplicates.codes
    alike = ~copied & np.isin(same.near_duplicates.codes, known[known >= 0])
    identical, near = np.zeros(len(predictions), bool), np.zeros(len(predictions), bool)
    identical[numbers[numbers >= 0][copied]] = True
    near[numbers[numbers >= 0][alike]] = True
    return _overlap(predictions, identical, near & ~identical, "") if (identical | near).any() else None


def _overlap(
    predictions: AnyPredictions,
    identical: np.ndarray,
    near: np.ndarray,
    unchecked: str,
    groups: Groups | None = None,
) -> TrainingOverlap:
    """Count predictions of images; of groups, each has what one of its images has."""
    if groups is not None:
        identical, near = groups.any(identical), groups.any(near) & ~groups.any(identical)
    unknown = np.flatnonzero(~(identical | near))
    rest = predictions.take(unknown)
    scores = evaluate_any(rest) if len(rest) else None
    accuracy, interval = (scores.accuracy, scores.accuracy_interval) if scores else (None, None)
    headline = scores.headline if scores else {}
    return TrainingOverlap(int(identical.sum()), int(near.sum()), len(rest), accuracy, interval, unchecked, headline)


def _near_duplicates(
    run: Run, known: Mapping[str, str], dataset: Dataset, wanted: np.ndarray, progress: Progress | None
) -> np.ndarray:
    """Which images of the data, bool (N,), show nearly the same picture as a known one; only the wanted ones can."""
    numbers = np.flatnonzero(wanted)
    if len(known) + len(numbers) > _MAX_IMAGES:
        raise RegraftError(f"they are more than {_MAX_IMAGES:,} images with those of the run")
    source = images_of(run)

    def of_run(name: str) -> ImageSource:
        if source is None:
            raise RegraftError("the run's images are not where they were")
        return source(name)

    samples = [dataset.samples[i] for i in numbers.tolist()]
    names, hashes = list(known.values()), [*known, *(sample.sha256 for sample in samples)]

    def content(number: int) -> ImageSource:
        return of_run(names[number]) if number < len(names) else dataset.source(samples[number - len(names)])

    cache = Cache()

    def pictures_of(first: np.ndarray) -> tuple[Pictures, np.ndarray]:
        different = first.tolist()
        return read_pictures(
            [hashes[i] for i in different],
            lambda i: content(different[i]),
            max_pixels=dataset.max_pixels,
            cache=cache,
        )

    pictures = picture_numbers(hashes, pictures_of, cache=cache, progress=progress)
    near = np.zeros(len(wanted), dtype=bool)
    near[numbers] = np.isin(pictures[len(known) :], pictures[: len(known)])
    return near
