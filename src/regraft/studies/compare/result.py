"""The result of a comparison: a row for each model, a test for each pair, and conclusions in words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from regraft.atomic_io import write_csv, write_json, write_text
from regraft.evaluation.comparison import SIGNIFICANT
from regraft.evaluation.tasks import AnyDifference
from regraft.models.registry import BASELINES
from regraft.notebook_repr import NotebookRepr
from regraft.report.model_score import ModelScore, score_of
from regraft.studies.compare.page import markdown_of, plot_comparison
from regraft.text import join_truncated, one_line, pluralize


@dataclass(frozen=True)
class ComparedModel:
    """One row of the table; scores are in 0..1 but for errors, intervals 95 % as (low, high)."""

    name: str
    run: str
    weights: str  # source of the initial weights: `file`, `wheel`, `hub`, or `none` (random)
    trained: str  # which layers, in words
    parameters: int
    image_size: int | str  # a side, or height x width: 384x128
    megabytes: float  # 10^6 bytes, as `peak_megabytes`
    peak_megabytes: float
    train_seconds: float  # without decoding, which only the first model of a size does
    finetune_epochs: int
    predict_ms_1: float  # the network's time for an image alone
    predict_ms_32: float  # per image, in batches of 32
    predict_ms_file: float | None  # per image file in batches, decoding included
    train_accuracy: float | None  # None where an image does not have one class, as the two others
    val_accuracy: float | None
    test_accuracy: float | None
    test_accuracy_interval: tuple[float, float] | None
    test_macro_f1: float | None  # None where an image has a number
    test_macro_f1_interval: tuple[float, float] | None
    test_loss: float  # of numbers the mean squared error
    test_images: int
    stopped: str | None = None
    val_mean_average_precision: float | None = None  # mAP; None unless an image has any number of classes
    test_mean_average_precision: float | None = None
    test_mean_average_precision_interval: tuple[float, float] | None = None
    test_quadratic_kappa: float | None = None  # quadratic weighted kappa of classes with an order; None of others
    test_quadratic_kappa_interval: tuple[float, float] | None = None
    val_mae: float | None = None  # mean absolute error, in the unit of the numbers; None unless an image has a number
    test_mae: float | None = None
    test_mae_interval: tuple[float, float] | None = None
    test_rmse: float | None = None
    test_rmse_interval: tuple[float, float] | None = None
    test_r2: float | None = None  # at most 1; None also where all numbers are equal
    test_r2_interval: tuple[float, float] | None = None

    @property
    def measure(self) -> ModelScore:
        """What models are ordered by: test accuracy, mAP of several labels, or the mean absolute error of numbers."""
        return score_of(vars(self))

    @property
    def score(self) -> float:
        """The value of this score."""
        return float(getattr(self, f"test_{self.measure.key}"))

    @property
    def merit(self) -> float:
        """The score, negative if it is an error: larger is better."""
        return self.measure.merit(self.score)

    @property
    def val_merit(self) -> float:
        """The same of the validation images; if there are none, the worst."""
        return self.measure.merit(getattr(self, f"val_{self.measure.key}"))

    def describe_score(self) -> str:
        """The score with its interval."""
        bounds = self.measure.bounds(getattr(self, f"test_{self.measure.key}_interval"))
        return f"{self.measure.text(self.score)} (95 % interval {bounds})"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


@dataclass(frozen=True)
class ModelPair:
    """The difference of two models on the same test images, and its p-value corrected for all pairs."""

    first: str
    second: str
    difference: AnyDifference
    p_corrected: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = {"first": self.first, "second": self.second}
        return names | self.difference.to_json() | {"p_corrected": self.p_corrected}


@dataclass(frozen=True)
class Comparison(NotebookRepr):
    """Models that were compared on the same test images.

    Attributes:
        models: Models by test accuracy, of several labels by mAP, of numbers by the mean absolute error, the best
            first; of equal ones the one with the lower test loss.
        pairs: Every two of them that have the same test images.
        conclusion: Conclusions, in sentences.
        failed: Name -> why the model could not be trained.
        path: Folder of the table and the new runs.
        seconds: Wall-clock time of the comparison.
        untested: Names of the classes without a test image.
    """

    models: tuple[ComparedModel, ...]
    pairs: tuple[ModelPair, ...]
    conclusion: tuple[str, ...]
    failed: dict[str, str]
    path: Path
    seconds: float
    untested: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Comparison({', '.join(f'{m.name} {m.score:.3f}' for m in self.models)})"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "models": [model.to_json() for model in self.models],
            "pairs": [pair.to_json() for pair in self.pairs],
            "conclusion": list(self.conclusion),
            "failed": self.failed,
            "path": str(self.path),
            "seconds": self.seconds,
            "untested": list(self.untested),
        }

    @property
    def caption(self) -> str:
        """What the table does not have: the classes that were not tested; "" if all were."""
        if not self.untested:
            return ""
        names = join_truncated(map(one_line, self.untested))
        return f"Not tested, because no test image has this class: {names}. Macro-F1 is over the tested classes."

    def write(self) -> None:
        """Write `comparison.csv`, `.md`, `.png` and `.json` into the folder."""
        rows = [model.to_json() for model in self.models]
        flat = [dict[str, Any]() for _ in rows]
        for cells, row in zip(flat, rows, strict=True):
            for name, value in row.items():
                ends = [name.replace("interval", end) for end in ("low", "high")]
                cells.update(zip(ends, value, strict=True) if isinstance(value, list) else {name: value})
        write_csv(self.path / "comparison.csv", list(flat[0]), [list(cells.values()) for cells in flat])
        text = markdown_of(rows, [pair.to_json() for pair in self.pairs], self.conclusion, self.caption)
        write_text(self.path / "comparison.md", text)
        plot_comparison(rows, self.path / "comparison.png", caption=self.caption)
        write_json(self.path / "comparison.json", self.to_json())  # last: where it is, all is


def conclude(models: Sequence[ComparedModel], pairs: Sequence[ModelPair], failed: Collection[str] = ()) -> list[str]:
    """What the comparison of these models, the best first, shows and does not show, in sentences.

    `failed` are the names of the models that are not among them, because they could not be trained.
    """
    best, *others = models
    score, name = f"{best.describe_score()} on {pluralize(best.test_images, 'image')}", best.measure.name
    sentences = [f"Not compared, because it could not be trained: {join_truncated(failed)}."] if failed else []
    if others:
        among = f"Of the {len(models)} other models, " if failed else ""
        sentences.append(f"{among}{best.name} has the {best.measure.best} test {name}: {score}.")
    else:
        sentences.append(f"Nothing is compared: {best.name} is the only model. Its test {name}: {score}.")
    if ties := [model.name for model in others if model.score == best.score]:
        have = "has" if len(ties) == 1 else "have"
        sentences.append(f"{join_truncated(ties)} {have} the same test {name}, but not a lower test loss.")
    by_names = {frozenset((pair.first, pair.second)): pair for pair in pairs}
    tested = [(model, by_names.get(frozenset((best.name, model.name)))) for model in others]
    worse = [model for model, pair in tested if pair and pair.p_corrected < SIGNIFICANT]
    similar = [model for model, pair in tested if pair and pair.p_corrected >= SIGNIFICANT]
    if worse:
        sentences.append(f"It is significantly better than {join_truncated(m.name for m in worse)}.")
    if similar:
        group = [best, *similar]
        fastest = min(group, key=lambda m: m.train_seconds)
        quickest, smallest = min(group, key=lambda m: m.predict_ms_1), min(group, key=lambda m: m.parameters)
        facts = [
            f"{fastest.name} trained fastest ({fastest.train_seconds:.0f} s)",
            f"{quickest.name} predicts fastest ({quickest.predict_ms_1:.1f} ms per image)",
        ]
        if any(model.parameters != smallest.parameters for model in group):
            facts.append(f"{smallest.name} is the smallest ({smallest.parameters / 1e6:.1f} M parameters)")
        sentences += [
            f"Its difference from {join_truncated(m.name for m in similar)} is not significant.",
            f"Among these, {', '.join(facts[:-1])} and {facts[-1]}.",
        ]
    if others:
        sentences.append(
            "The best of several models on the same test images looks slightly better than it is. Each was trained "
            "once: another seed may change the order of models that are close."
        )
    if early := [f"{model.name} ({model.stopped})" for model in models if model.stopped]:
        sentences.append(f"Training ended early for {join_truncated(early)}.")
    if random := [model.name for model in models if model.weights == "none" and model.name not in BASELINES]:
        sentences.append(
            f"{join_truncated(random)} started from random weights: the {name} says nothing about the pretrained "
            "weights."
        )
    return sentences
