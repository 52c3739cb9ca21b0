from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from regraft.data.augmentation_options import Augmentation
from regraft.data.dataset import Dataset, Split
from regraft.data.split import split
from regraft.errors import DataError, UsageError
from regraft.models.classifier import Classifier
from regraft.training.options import TrainingOptions
from regraft.training.phase_plan import plan_phases, with_enough_steps
from regraft.training.task_options import output_activation
from regraft.training.trainer import train

MakeModel = Callable[..., Classifier]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("blocks.3.0", True, "lbfgs", 8)),
        ({"views": 3}, ("blocks.3.0", True, "lbfgs", 3)),
        ({"head_optimizer": "sgd"}, ("blocks.3.0", True, "epochs", 8)),
        ({"head_epochs": 0}, ("blocks.3.0", True, "none", 8)),
        ({"finetune_from": "none"}, ("head", False, "lbfgs", 1)),
        ({"finetune_epochs": 0, "views": 2}, ("head", False, "lbfgs", 2)),
    ],
    ids=str,
)
def test_options_decide_the_phases(make_model: MakeModel, options: dict[str, Any], expected: tuple[Any, ...]) -> None:
    phases = plan_phases(make_model(backbone="efficientnet_lite0"), TrainingOptions(**options))
    assert (phases.boundary_name, phases.finetunes, phases.head, phases.views) == expected
    assert phases.cut == phases.boundary


@pytest.mark.parametrize(
    ("images", "options", "expected"),
    [
        (1000, {}, (10, 1.0)),  # 32 steps in an epoch
        (170, {}, (34, 10.2)),  # 6
        (40, {}, (100, 30.0)),  # 2
        (5, {}, (100, 30.0)),  # 1, and no more than 100 epochs
        (170, {"batch_size": 64}, (67, 20.1)),
        (5, {"steps_per_epoch": 20}, (10, 1.0)),
        (170, {"finetune_min_steps": 0}, (10, 1.0)),
        (170, {"finetune_epochs": 0}, (0, 1.0)),
        (170, {"finetune_epochs": 50}, (50, 1.0)),
        (170, {"ema_epochs": 0}, (34, 0.0)),
        (170, {"ema_epochs": 15}, (34, 15.0)),
        (0, {}, (10, 1.0)),
    ],
    ids=str,
)
def test_few_images_get_enough_steps(images: int, options: dict[str, Any], expected: tuple[int, float]) -> None:
    enough = with_enough_steps(TrainingOptions(**options), images)
    assert (enough.finetune_epochs, enough.ema_epochs) == expected


def test_without_a_frozen_prefix_the_head_trains_on_features_of_the_plain_images(make_model: MakeModel) -> None:
    model = make_model()
    phases = plan_phases(model, TrainingOptions(finetune_from="all"))
    assert (phases.boundary, phases.cut, phases.views) == (0, len(model.stages), 1)


def test_random_weights_train_as_a_whole_without_a_fitted_head(make_model: MakeModel) -> None:
    model = make_model(backbone="cnn")
    phases = plan_phases(model, TrainingOptions())
    assert (phases.boundary, phases.head, phases.from_scratch) == (0, "none", True)
    for options in ({"finetune_from": "last"}, {"finetune_epochs": 0}):  # as asked
        phases = plan_phases(model, TrainingOptions(**options))
        assert (phases.head, phases.from_scratch) == ("lbfgs", False)
    assert not plan_phases(make_model(), TrainingOptions(finetune_from="all")).from_scratch


def test_views_that_do_not_differ_are_cached_once(make_model: MakeModel) -> None:
    assert plan_phases(make_model(), TrainingOptions(views=5), changes_views=False).views == 1


def test_an_mlp_head_trains_in_epochs(make_model: MakeModel) -> None:
    assert plan_phases(make_model(head="mlp"), TrainingOptions()).head == "epochs"


def test_a_linear_head_with_dropout_trains_in_epochs(make_model: MakeModel) -> None:
    assert plan_phases(make_model(dropout=0.2), TrainingOptions()).head == "epochs"


def test_the_loss_chooses_the_last_activation_unless_it_is_given() -> None:
    def chosen(**options: Any) -> str:
        return output_activation(TrainingOptions(**options), "classification")

    assert chosen() == "softmax"
    assert chosen(loss="binary_cross_entropy") == "sigmoid"
    assert chosen(loss="binary_cross_entropy", output_activation="softmax") == "softmax"
    with pytest.raises(UsageError, match=r"add up to 1.*loss = binary_cross_entropy"):
        chosen(output_activation="sigmoid")


def test_wrong_arguments_are_refused_before_any_work(
    make_model: MakeModel, squares_split: Split, squares: Dataset
) -> None:
    with pytest.raises(UsageError, match="Build the model with the data's"):
        train(make_model(classes=("x", "y")), squares_split)
    empty = Split(squares_split.dataset.with_samples([s for s in squares_split.dataset.samples if s.part != "train"]))
    with pytest.raises(DataError, match="no image"):
        train(make_model(), empty)
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        train(make_model(), squares_split, precision="fp16", device="cpu")
    with pytest.raises(UsageError, match="nothing would be trained"):
        train(make_model(), squares_split, head_epochs=0, finetune_epochs=0)
    with pytest.raises(UsageError, match=r"finetune_lr = 0 .* no val part"):
        train(make_model(), split(squares, train=0.7, val=0, test=0.3), finetune_lr=0)
    with pytest.raises(UsageError, match=r"batch_size = 1 .* BatchNorm needs several"):
        train(make_model(weights="none"), squares_split, batch_size=1)
    vit = make_model(backbone="vit_tiny_patch16_224", weights="none")
    with pytest.raises(UsageError, match=r"CutMix needs feature maps.*Use mixup"):
        train(vit, squares_split, augmentation=Augmentation(cutmix=1.0), finetune_from="last")


def test_a_model_for_another_task_is_refused(make_model: MakeModel, squares_split: Split) -> None:
    with pytest.raises(UsageError, match="built for the task multilabel, and that of the data is classification"):
        train(make_model(task="multilabel"), squares_split)
