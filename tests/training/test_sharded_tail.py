"""Two processes that divide the weights train as two that do not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.training.test_scaling import CPU

from regraft.data.dataset import Split
from regraft.errors import UsageError
from regraft.models.classifier import build
from regraft.training.options import TrainingOptions
from regraft.training.scaling import Cluster, plan_scale
from regraft.training.trainer import train

BACKBONE: dict[str, Any] = {"backbone": "test_efficientnet", "weights": "none", "image_size": 32}
OPTIONS: dict[str, Any] = {
    "finetune_from": "blocks.3.0",
    "finetune_epochs": 2,
    "views": 2,
    "precision": "off",
    "prefix_backend": "torch",
    "keep_finetuned": "always",
}
SCRIPT = """
import json, shutil, sys
from pathlib import Path
import numpy as np, torch
from safetensors.torch import save_file
from regraft.cache import Cache
from regraft.data.dataset import Dataset
from regraft.data.split import split
from regraft.models.classifier import build
from regraft.training.callbacks import NullReporter
from regraft.training.phase import PhaseTrainer
from regraft.training.trainer import train

folder, options, backbone = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
torch.distributed.init_process_group("gloo")
torch.set_num_threads(1)
rank = torch.distributed.get_rank()
pixels = np.load(folder / "squares.npz")
dataset = Dataset.from_arrays(list(pixels["images"]), pixels["labels"].tolist())
parts = split(dataset, train=0.5, val=0.25, test=0.25)
shares, sent = [], []
init = PhaseTrainer.__init__

def recording(self, *arguments, **named):
    init(self, *arguments, **named)
    local = [getattr(p, "_local_tensor", p) for p in [*self.parameters, *self.average]]
    shares.append(sum(p.numel() for p in local) / sum(p.numel() for p in [*self.parameters, *self.average]))

    sent.append(0)

PhaseTrainer.__init__ = recording

def counting(collective):
    def counted(*arguments, **named):
        whole = max(value.nbytes for value in (*arguments, *named.values()) if isinstance(value, torch.Tensor))
        sent[-1] += whole // 2  # to the other process
        return collective(*arguments, **named)
    return counted

# The collectives of the steps, by their names in newer versions of PyTorch, or in older ones.
is_new = hasattr(torch.distributed, "all_gather_single")
names = ["all_gather_single", "reduce_scatter_single"]
for name in names if is_new else ["all_gather_into_tensor", "reduce_scatter_tensor"]:
    setattr(torch.distributed, name, counting(getattr(torch.distributed, name)))

class Keeper(NullReporter):
    def __init__(self, name):
        self.name = name

    def on_epoch_end(self, row):  # the file still has the state after the epoch before
        file = folder / f"{self.name}.safetensors"
        if rank == 0 and row.epoch == 2 and file.exists():
            shutil.copy(file, folder / f"{self.name}-after-1.safetensors")

def run(name, model=None, **more):
    model = build(classes=parts.classes, **{**backbone, **(model or {})})
    train(model, parts, cache=Cache(folder / "cache"), scratch=folder / "scratch", reporter=Keeper(name),
          checkpoint=folder / f"{name}.safetensors", **{**options, **more})
    if rank == 0:
        weights = {key: value.contiguous() for key, value in model.state_dict().items() if not key.startswith("ood")}
        save_file(weights, folder / f"{name}-weights.safetensors")

for name, more in json.loads(sys.argv[4]).items():
    if name == "resumed" and rank == 0:
        shutil.copy(folder / "adamw-after-1.safetensors", folder / "resumed.safetensors")
    run(name, **more)
torch.distributed.barrier()
if rank == 1:
    print(json.dumps([shares, sent]))
torch.distributed.destroy_process_group()
"""


SGD = {"optimizer": "sgd", "batch_size": 5}
#: All of a transformer trains: its positions and its class token lie outside of the modules that FSDP divides.
VIT: dict[str, Any] = {
    **SGD, "model": {"backbone": "test_vit"}, "finetune_from": "all", "finetune_epochs": 1, "finetune_lr": 0.1,
}  # fmt: skip
#: The same draws of the dropout in both, so the same weights up to rounding.
DROPOUT: dict[str, Any] = {
    **SGD, "model": {"head": "mlp", "dropout": 0.5}, "finetune_epochs": 1, "head_epochs": 1, "finetune_lr": 0.1,
}  # fmt: skip


@dataclass
class Trained:
    """Where the weights are, and of each phase, what the second process held of weights and averages, and sent."""

    folder: Path
    shares: list[float]
    sent: list[int]


def in_two_processes(folder: Path, split: Split, runs: dict[str, dict[str, Any]]) -> Trained:
    """Train in two processes."""
    samples = split.dataset.samples
    np.savez(
        folder / "squares.npz",
        images=np.stack([split.dataset.source(sample) for sample in samples]),
        labels=np.array([sample.label for sample in samples]),
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    words = [str(folder), json.dumps(OPTIONS), json.dumps(BACKBONE), json.dumps(runs)]
    done = subprocess.run(
        [*torchrun, sys.executable, "-c", SCRIPT, *words],
        check=False, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[done.stderr.find("Traceback") :][:3000]
    return Trained(folder, *json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def trained(squares_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """All trainings in two processes, started once."""
    fsdp = {"sharding": "fsdp"}
    return in_two_processes(
        tmp_path_factory.mktemp("sharded"),
        squares_split,
        {
            "whole": SGD,
            "divided": {**SGD, **fsdp},
            # With one image a step, one of the processes has none.
            "whole-1": {**SGD, "batch_size": 1, "finetune_epochs": 1},
            "divided-1": {**SGD, "batch_size": 1, "finetune_epochs": 1, **fsdp},
            "adamw": {"batch_size": 5, **fsdp},
            "resumed": {"batch_size": 5, **fsdp},
            "vit": {**VIT, **fsdp},
            "whole-dropout": DROPOUT,
            "dropout": {**DROPOUT, **fsdp},
        },
    )


def assert_close(folder: Path, name: str, expected: str, atol: float) -> None:
    ours, theirs = (load_file(folder / f"{each}-weights.safetensors") for each in (name, expected))
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=atol, msg=lambda text, key=key: f"{key}: {text}")


def test_divided_weights_train_to_the_same_model(trained: Trained) -> None:
    folder = trained.folder
    # The head trains in epochs before fine-tuning where it has a hidden layer, and then nothing is divided.
    of_phases = [1, 0.5, 1, 0.5, 0.5, 0.5, 0.5, 1, 1, 1, 0.5]
    assert trained.shares == pytest.approx(of_phases, abs=0.02)
    assert_close(folder, "divided", "whole", 1e-5)
    assert_close(folder, "divided-1", "whole-1", 1e-5)
    assert_close(folder, "resumed", "adamw", 0.0)


def test_one_process_continues_what_two_have_divided(squares_split: Split, trained: Trained, tmp_path: Path) -> None:
    model = build(classes=squares_split.classes, **BACKBONE)
    checkpoint = Path(shutil.copy(trained.folder / "adamw-after-1.safetensors", tmp_path))
    result = train(model, squares_split, checkpoint=checkpoint, **{**OPTIONS, "batch_size": 5})
    assert [row.epoch for row in result.history] == [1, 2]
    expected = load_file(trained.folder / "adamw-weights.safetensors")
    for name, value in model.state_dict().items():
        if name in expected:
            torch.testing.assert_close(value, expected[name], rtol=0, atol=2e-3)


def test_parameters_outside_of_modules_train_as_in_one_process(squares_split: Split, trained: Trained) -> None:
    options = dict(VIT)
    model = build(classes=squares_split.classes, **{**BACKBONE, **options.pop("model")})
    before = {name: model.state_dict()[name].clone() for name in ("backbone.cls_token", "backbone.pos_embed")}
    train(model, squares_split, **{**OPTIONS, **options})
    expected, divided = model.state_dict(), load_file(trained.folder / "vit-weights.safetensors")
    for name, value in before.items():
        assert (expected[name] - value).abs().max() > 1e-3, "it trains"
    for name, value in divided.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-4, msg=lambda text, name=name: name + text)


def test_dropout_is_on_in_divided_weights(trained: Trained) -> None:
    assert_close(trained.folder, "dropout", "whole-dropout", 1e-5)


def test_a_step_sends_what_the_plan_says(squares_split: Split, trained: Trained) -> None:
    model = build(classes=squares_split.classes, **BACKBONE)
    options = TrainingOptions(**{**OPTIONS, **SGD, "sharding": "fsdp"})
    plan = plan_scale(model, {"train": 24, "val": 12}, options, CPU, Cluster(2, cpus=2))
    assert plan.steps == 2 * 5
    assert trained.sent[1] == pytest.approx(plan.steps * plan.step_bytes, rel=0.05)


def test_what_cannot_be_divided_is_refused(squares_split: Split) -> None:
    model = build(classes=squares_split.classes, **BACKBONE)
    with pytest.raises(UsageError, match=r"sharding = fsdp and training\.compile = true exclude each other"):
        train(model, squares_split, sharding="fsdp", compile=True)
