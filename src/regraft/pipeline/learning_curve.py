"""Learning curve: what more images would bring, of all classes and of each.

Enters: labelled images. Leaves: a `LearningCurve`, and a folder with it as numbers and as a picture. The frozen prefix
runs once; heads are solved on nested parts of the images, and judged by images that they did not see.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regraft.config import Config
from regraft.data.dataset import Dataset
from regraft.data.split import bundle_counts, bundle_ids, fold_numbers
from regraft.errors import DataError, RunError, UsageError, counted, listed
from regraft.evaluation.learning_curve import (
    FACTORS,
    ClassCurve,
    Curve,
    Draws,
    alone,
    carry_on,
    draw_scores,
    draw_weights,
    judge_gain,
)
from regraft.files import write_csv, write_json
from regraft.models.classifier import build
from regraft.pipeline.crossval import scanned
from regraft.pipeline.listening import told
from regraft.report.learning_curve import plot_learning_curve
from regraft.shown import Shown
from regraft.store import Store
from regraft.training.out_of_fold import frozen_features
from regraft.training.progress import Listener, Silence
from regraft.training.subsets import Judged, judge_by_parts

#: Folds, and images of each class (bundles of them) that a curve needs.
FOLDS, LEAST = 5, 8
#: Parts of the images of each class, and images of a class that parts below a quarter need on average.
_SHARES, _LEAST_MEAN = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0), 3
#: Classes up to which each is also halved alone.
_HALVED_CLASSES = 12
#: Images above which folds are drawn once instead of twice.
_ONCE = 2000


@dataclass(frozen=True, eq=False)
class LearningCurve(Shown, by="regraft.pipeline.notebook.learning_curve"):
    """What came of it.

    Attributes:
        images: In all.
        accuracy: By images of all classes together.
        macro_f1: Likewise.
        classes: Of each class, in class order.
        heads: That were solved.
        repeats: Divisions into five folds.
        seconds: Wall-clock time: `scan`, `features`, `heads`, `curves`, `total`.
    """

    images: int
    accuracy: Curve
    macro_f1: Curve
    classes: tuple[ClassCurve, ...]
    heads: int
    repeats: int
    seconds: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "images": self.images,
            "folds": FOLDS,
            "repeats": self.repeats,
            "heads": self.heads,
            "accuracy": self.accuracy.to_json(),
            "macro_f1": self.macro_f1.to_json(),
            "classes": [row.to_json() for row in self.classes],
            "seconds": self.seconds,
        }


@told
def learning_curve(
    data: Dataset | Path | str,
    *,
    repeats: int | None = None,
    each: bool | None = None,
    config: Config | None = None,
    out: Path | str | None = None,
    listener: Listener | None = None,
) -> LearningCurve:
    """Measure the head on nested parts of the images, and say what twice as many would bring.

    Five folds are held out in turn; of the other four, heads are solved on 1/16, 1/8, 1/4, 1/2 and all of the images
    of each class. An inverse power law carries the curve on (`evaluation.learning_curve`). Images that show the same,
    and groups, are never divided. Fine-tuning has no part in it.

    Args:
        data: A data set, or a path that `scan` takes; parts that it has are put together.
        repeats: Divisions into folds, at least 1. Default: 2, and 1 above 2,000 images.
        each: Whether to halve each class alone too, which needs a head for each class and fold. Default: up to 12
            classes.
        config: Of it, the settings of the data, of the model and the seed count.
        out: A folder for `learning_curve.json`, `.csv` and `.png`; it must not be there yet. Default: nothing is
            written.
        listener: Told how far the work is; default: a notebook or terminal that this is called from.

    Raises:
        UsageError: `repeats` is too small, or the folder is there.
        DataError: As `scan`, there is one class only, or a class has too few images.
    """
    config, listener = config or Config(), listener or Silence()
    if repeats is not None and repeats < 1:
        raise UsageError(f"{repeats} repeats; expected at least 1.")
    if out is not None and Path(out).exists():
        raise UsageError(f"{out} exists already, and nothing is overwritten. Choose another --out.")
    clock = [time.perf_counter()]
    store = Store()
    dataset = data if isinstance(data, Dataset) else scanned(data, config, store, listener)
    _refuse_few(dataset)
    clock.append(time.perf_counter())
    seed, classes = config.training.seed, len(dataset.classes)
    options = asdict(config.model)
    model = build(
        options.pop("backbone"), classes=dataset.classes, shorter_side=dataset.shorter_side, seed=seed, **options
    )
    features = frozen_features(model, dataset, store, listener)
    clock.append(time.perf_counter())
    repeats = repeats or (1 if len(dataset) > _ONCE else 2)
    each = classes <= _HALVED_CLASSES if each is None else each
    if not each:
        listener.note(
            f"{counted(classes, 'class', 'classes')}: what doubling one of them alone would bring is left out, since "
            f"it takes {FOLDS * classes} heads more (--each)."
        )
    labels, bundles = dataset.labels, bundle_ids(dataset.samples)
    judged = judge_by_parts(
        features,
        labels,
        bundles,
        [fold_numbers(dataset, FOLDS, seed=f"{seed}/{repeat}" if repeat else seed) for repeat in range(repeats)],
        shares_for(len(dataset), classes),
        listener,
        classes=classes,
        halves=each,
        seed=seed,
    )
    clock.append(time.perf_counter())
    accuracy, macro_f1, of_classes = curves(judged, labels, bundles, dataset.classes, seed=seed)
    clock.append(time.perf_counter())
    steps = dict(zip(("scan", "features", "heads", "curves"), np.diff(clock).tolist(), strict=True))
    result = LearningCurve(
        len(dataset), accuracy, macro_f1, of_classes, judged.solved, repeats, steps | {"total": clock[-1] - clock[0]}
    )
    if out is not None:
        _write(result, Path(out))
    return result


def shares_for(images: int, classes: int) -> tuple[float, ...]:
    """Parts of the images of each class that heads are solved on: those that leave a few of a class."""
    inside = images * (1 - 1 / FOLDS) / classes
    return tuple(share for share in _SHARES if share >= 1 / 4 or share * inside >= _LEAST_MEAN)


def curves(
    judged: Judged, labels: np.ndarray, bundles: np.ndarray, names: Sequence[str], *, seed: int = 0
) -> tuple[Curve, Curve, tuple[ClassCurve, ...]]:
    """Curves of accuracy and macro-F1, and of each class, from what was said of held-out images.

    Args:
        judged: What `judge_by_parts` returned.
        labels: int64 (N,).
        bundles: int64 (N,); drawn as a whole by the bootstrap.
        names: Of the classes.
        seed: Of the draws.
    """
    classes = len(names)
    weights = draw_weights(bundles, seed=seed)
    drawn = draw_scores(judged.predicted, labels, classes, weights)
    sizes, support = judged.counts.sum(axis=1), np.bincount(labels, minlength=classes)
    count = len(labels)
    accuracy, fits = carry_on(sizes, drawn.accuracy, count, count, seed=seed)
    macro_f1, _ = carry_on(sizes, drawn.macro_f1, count, count, seed=seed)
    full: Draws | None = None
    if judged.halved is not None:
        full = draw_scores(judged.predicted[:1, -1:], labels, classes, weights)
    rows = []
    for label, name in enumerate(names):
        own = judged.counts[:, label]
        joint, _ = carry_on(own, drawn.recalls[:, :, label], support[label], support[label], seed=seed)
        gains = {}
        if full is not None and judged.halved is not None and judged.half_counts is not None:
            less = draw_scores(judged.halved[None, label : label + 1], labels, classes, weights)
            ends = (judged.half_counts[label], own[-1], support[label])
            gains = {
                "alone": alone(
                    less.recalls[:, 0, label], full.recalls[:, 0, label], fits, *ends, images=support[label]
                ),
                "alone_macro_f1": alone(less.macro_f1[:, 0], full.macro_f1[:, 0], fits, *ends, images=count),
            }
        verdict = judge_gain(gains["alone"]) if gains else None
        rows.append(ClassCurve(name, int(support[label]), joint, alone_verdict=verdict, **gains))
    return accuracy, macro_f1, tuple(rows)


def _refuse_few(dataset: Dataset) -> None:
    if len(dataset.classes) < 2:
        raise DataError(f"{counted(len(dataset.classes), 'class', 'classes')}; expected at least 2 to tell apart.")
    counts = bundle_counts(dataset.samples)
    few = [f"{name} ({counts[name]})" for name in dataset.classes if counts[name] < LEAST]
    if few:
        raise DataError(
            f"{counted(len(few), 'class has', 'classes have')} fewer than {LEAST} images that may be divided: "
            f"{listed(few)}. A curve needs at least {LEAST} of each: add images, or leave the class out."
        )


def _write(result: LearningCurve, out: Path) -> None:
    try:
        out.mkdir(parents=True)
    except FileExistsError as error:
        raise RunError(f"{out} was made meanwhile by another process. Choose another --out.") from error
    write_csv(
        out / "learning_curve.csv",
        ("score", "class", "images", "kind", "value", "low", "high"),
        [
            row
            for score, name, curve in (
                ("accuracy", "", result.accuracy),
                ("macro_f1", "", result.macro_f1),
                *(("recall", row.name, row.joint) for row in result.classes),
            )
            for row in _rows(score, name, curve)
        ],
    )
    plot_learning_curve(result.accuracy, result.classes, out / "learning_curve.png")
    write_json(out / "learning_curve.json", result.to_json())  # last: where it is, all is


def _rows(score: str, name: str, curve: Curve) -> list[tuple[Any, ...]]:
    measured = zip(curve.sizes, curve.measured, ["measured"] * len(curve.sizes), strict=True)
    ahead = zip(curve.ahead_sizes, curve.ahead, ["extrapolated"] * len(FACTORS), strict=True)
    return [(score, name, n, kind, r.value, r.low, r.high) for n, r, kind in (*measured, *ahead)]
