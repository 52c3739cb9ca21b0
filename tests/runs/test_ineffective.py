from __future__ import annotations

import pytest

from regraft.config import load_config
from regraft.data.dataset import Dataset
from regraft.data.split import split
from regraft.models.classifier import build
from regraft.runs.ineffective import describe_ineffective

HEAD_ONLY = ["training.finetune_epochs=0"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], ""),
        (["model.head_widths=[8]"], "model.head_widths has no effect: the head is linear"),
        (["model.head=mlp", "model.head_widths=[8]"], ""),
        (["training.plateau_factor=2"], "training.plateau_factor has no effect: training.reduce_on_plateau is 0"),
        (["training.plateau_factor=2", "training.reduce_on_plateau=2"], ""),
        (
            [*HEAD_ONLY, "training.finetune_lr=1e-3", "training.optimizer=sgd"],
            "finetune_lr, training.optimizer have no",
        ),
        ([*HEAD_ONLY, "training.batch_size=8"], "training.batch_size has no effect: the head is fitted by L-BFGS"),
        ([*HEAD_ONLY, "training.batch_size=8", "training.head_optimizer=sgd"], ""),
        ([*HEAD_ONLY, "augmentation.rotation=20"], "augmentation.rotation has no effect: the head trains on the plain"),
        ([*HEAD_ONLY, "augmentation.rotation=20", "training.views=4"], ""),
        (["distillation.soft_share=0.3"], "distillation.soft_share has no effect: there is no teacher"),
        (["training.head_lr=0.1"], "training.head_lr has no effect: the head is fitted by L-BFGS"),
        (["training.finetune_from=all", "training.views=4"], "training.views has no effect: nothing is frozen"),
        (["training.early_stopping=3"], "training.early_stopping has no effect: there are no validation images"),
        (["training.head_epochs=3"], "training.head_epochs has no effect: the head is fitted by L-BFGS"),
        (["model.weights=none", "training.head_epochs=3"], "training.head_epochs has no effect: a network with random"),
        (["model.weights=none", "training.keep_finetuned=if_clear"], "training.keep_finetuned has no effect"),
        (["training.head_epochs=0", "training.head_lr=0.1"], "training.head_lr has no effect: training.head_epochs is"),
    ],
    ids=str,
)
def test_settings_without_effect_are_named(settings: list[str], expected: str, squares: Dataset) -> None:
    config = load_config(None, settings)
    options = {"head": config.model.head, "head_widths": config.model.head_widths}
    model = build(classes=("a", "b"), image_size=32, weights=config.model.weights, **options)
    val = 0.0 if "early_stopping" in str(settings) else 0.25
    sentences = list(describe_ineffective(model, split(squares, train=0.75 - val, val=val, test=0.25), config))
    assert len(sentences) == bool(expected)
    assert expected in "".join(sentences)
