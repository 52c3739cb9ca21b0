"""Every way of training a model works, or is refused, where an image has any number of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from regraft.config import load_config
from regraft.data.dataset import Dataset, Split
from regraft.data.scan import scan
from regraft.data.split import split as split_dataset
from regraft.errors import UsageError
from regraft.models.classifier import build
from regraft.models.serialization import load_classifier
from regraft.runs.backbone_search import choose_backbone
from regraft.runs.distill import distill, train_and_distill
from regraft.runs.members import TrainedMember
from regraft.runs.resume import resume
from regraft.runs.run import Run
from regraft.runs.tasks.multilabel import without_calibration
from regraft.runs.train import train, train_from
from regraft.training.callbacks import NullReporter
from regraft.training.refit import LinearWeights

QUICK = {
    "data.task": "multilabel",
    "data.val": 0.25,
    "data.test": 0.25,
    "model.weights": "none",
    "model.image_size": 32,
    "training.finetune_epochs": 0,
    "training.head_epochs": 2,
    "training.views": 2,
}


def trained(data: Path, out: Path, **changes: Any) -> Run:
    """A run on these images with quick settings, and the given ones as `section__name`."""
    overrides = QUICK | {name.replace("__", "."): value for name, value in changes.items()}
    return train_from(data, load_config(overrides=overrides), out)


@pytest.mark.parametrize(
    "changes",
    [
        {"model__head": "mlp", "model__head_widths": (8,)},
        {"model__pooling": "attention"},
        {"training__head_optimizer": "adamw", "training__loss": "asymmetric", "augmentation__mixup": 0.3},
        {"training__class_weights": {"red": 3.0}},
        {"model__backbone": "cnn", "training__finetune_epochs": 1, "augmentation__cutmix": 1.0},
    ],
    ids=["mlp", "attention", "asymmetric", "weights", "from scratch"],
)  # fmt: skip
def test_a_head_of_each_kind_trains(several_labels: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    run = trained(several_labels, tmp_path / "run", **changes)
    assert run.task == "multilabel"
    assert run.evaluate_labels().count == 20
    again = load_classifier(run.path)
    assert len(again.thresholds) == 3
    assert again.head.activation == "sigmoid"


def test_the_keras_preset_has_a_sigmoid(several_labels: Path, tmp_path: Path) -> None:
    overrides = QUICK | {"run.preset": "keras"}
    run = train_from(several_labels, load_config(overrides=overrides), tmp_path / "run")
    assert run.classifier.head.activation == "sigmoid"
    with pytest.raises(UsageError, match="softmax gives an image one class"):
        trained(several_labels, tmp_path / "other", training__output_activation="softmax")


def test_several_backbones_share_a_head(several_labels: Path, tmp_path: Path) -> None:
    run = trained(several_labels, tmp_path / "run", model__backbone="ann,cnn", data__val=0.0)
    assert run.metrics["head"]["by"] == "cross-validation"
    assert run.evaluate_labels("test").count == 20


def test_the_score_of_one_backbone_is_its_mean_average_precision() -> None:
    described = {
        "model": {"finetuned_from": None}, "time": {"train_seconds": 1}, "training": {"stopped": None},
        "val": {"mean_average_precision": 0.8, "macro_f1": 0.5},
    }  # fmt: skip
    member = TrainedMember("mobilenetv2", LinearWeights(torch.zeros(2, 3), torch.zeros(2)), described)
    assert str(member) == "mobilenetv2 alone: val mAP 0.800 (its head alone, 1 s)."


def test_the_best_backbone_is_chosen_by_heads_for_several_labels(several_labels: Path) -> None:
    split = split_dataset(scan(several_labels, task="multilabel"), seed=0)
    config = load_config(overrides={"model.backbone": "auto", "model.image_size": 32, "training.finetune_epochs": 0})
    chosen, search = choose_backbone(split, config, NullReporter())
    assert search is not None
    assert chosen.model.backbone == search.chosen
    assert search.candidates[0].accuracy > 0.85
    assert search.candidates[0].loss < 3 * np.log(2)


def test_a_loss_function_gets_the_indicators(several_labels: Path, tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(targets)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)

    parts = split_dataset(scan(several_labels, task="multilabel"), val=0.25, test=0.25)
    model = build("cnn", classes=parts.classes, task="multilabel", image_size=32)
    run = train(model, parts, out=tmp_path / "run", loss=loss, finetune_epochs=1)
    assert run.task == "multilabel"
    counts = torch.cat(seen).sum(dim=1)
    assert counts.min() == 0
    assert counts.max() > 1


def test_a_run_is_a_backbone_for_several_labels(squares_run: Run, several_labels: Path, tmp_path: Path) -> None:
    overrides = {name: value for name, value in QUICK.items() if not name.startswith("model.")}
    config = load_config(overrides=overrides | {"model.backbone": str(squares_run.path)})
    run = train_from(several_labels, config, tmp_path / "run")
    assert run.metrics["model"]["weights"]["source"] == "run"
    assert run.evaluate_labels().mean_average_precision > 0.5


def test_more_epochs_follow_a_killed_training(several_labels: Path, tmp_path: Path) -> None:
    settings = {"model__backbone": "cnn", "training__finetune_epochs": 2}
    whole = trained(several_labels, tmp_path / "whole", **settings)

    class Killed(BaseException):
        pass

    def kill(epoch: int, metrics: dict[str, Any]) -> None:
        if epoch == 2:
            raise Killed

    config = load_config(overrides=QUICK | {name.replace("__", "."): value for name, value in settings.items()})
    with pytest.raises(Killed):
        train_from(several_labels, config, tmp_path / "killed", callbacks=[kill])
    resumed = resume(tmp_path / "killed")
    assert np.array_equal(resumed.label_predictions.probabilities, whole.label_predictions.probabilities)


def test_a_split_of_arrays_with_several_labels_trains(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (40, 24, 24, 3), dtype=np.uint8)
    labels = [[name for name in ("a", "b") if rng.random() < 0.5] for _ in images]
    parts: Split = split_dataset(Dataset.from_arrays(images, labels), val=0.25, test=0.25)
    model = build("ann", classes=parts.classes, task="multilabel", image_size=24)
    assert train(model, parts, out=tmp_path / "run", finetune_epochs=1).task == "multilabel"


def test_a_teacher_of_several_labels_teaches_each_by_itself(several_run: Run, tmp_path: Path) -> None:
    rng, more = np.random.default_rng(9), tmp_path / "more"
    more.mkdir()
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(more / f"{number}.png")
    student = distill(
        several_run, into="efficientnet_lite0", out=tmp_path / "small", image_size=32, finetune_epochs=0, views=1,
        unlabelled=more,
    )  # fmt: skip
    assert student.task == "multilabel"
    assert student.metrics["distillation"]["unlabelled"]["usable"] == 6
    result, plain = student.metrics["distillation"]["result"], Run(student.path / "plain")
    assert result["metric"] == "mean_average_precision"
    for name, run in (("teacher", several_run), ("student", student), ("plain", plain)):
        assert result[name] == run.evaluate_labels().mean_average_precision
    assert plain.metrics["data"]["counts"] == student.metrics["data"]["counts"]
    page = (student.path / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "Mean average precision on" in page
    assert "of the same model trained on the labels alone" in page
    assert "they are 90 % of the target" in page


def test_a_teacher_of_one_class_cannot_teach_several(several_labels: Path, squares_run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has the task classification, and that of the data is multilabel"):
        trained(several_labels, tmp_path / "run", distillation__teacher=str(squares_run.path))


def test_more_epochs_begin_without_what_was_fitted_to_the_val_images(several_labels: Path, tmp_path: Path) -> None:
    run = trained(several_labels, tmp_path / "run", model__backbone="cnn", training__finetune_epochs=1)
    further = resume(run.path, finetune_epochs=2)
    assert len(further.history) == 2
    head, fitted = Run(run.path).classifier.head, further.metrics["calibration"]
    before = head.classifier.weight.detach().clone()
    without_calibration(head, further.metrics)
    slopes = torch.tensor(fitted["slopes"], dtype=torch.float32)[:, None]
    assert torch.allclose(head.classifier.weight * slopes, before, atol=1e-6)


def test_a_small_model_follows_its_teacher(several_labels: Path, tmp_path: Path) -> None:
    config = load_config(
        overrides=QUICK | {"data.task": "auto", "model.backbone": "ann", "distillation.baseline": "none"}
    )
    student = train_and_distill(several_labels, config, "cnn", tmp_path / "small")
    assert student.task == Run(tmp_path / "small/teacher").task == "multilabel"
    numbers = load_config(overrides=QUICK | {"data.task": "regression"})
    with pytest.raises(UsageError, match=r"--into.*images with classes"):
        train_and_distill(several_labels, numbers, "cnn", tmp_path / "numbers")
    assert not (tmp_path / "numbers").exists()


def test_the_best_epoch_is_that_of_the_lowest_loss(several_labels: Path, tmp_path: Path) -> None:
    run = trained(
        several_labels, tmp_path / "run", model__backbone="ann", training__head_optimizer="adamw",
        training__head_lr=0.3, training__head_epochs=8, training__keep_epoch="best", training__schedule="constant",
    )  # fmt: skip
    losses = [row["val_loss"] for row in run.history]
    assert [row["kept"] for row in run.history].index(True) == losses.index(min(losses))
    assert max(row["val_accuracy"] for row in run.history) > run.history[losses.index(min(losses))]["val_accuracy"]
