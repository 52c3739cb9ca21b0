"""Two processes that divide the weights train as two that do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from regraft.data.dataset import Split
from regraft.errors import UsageError
from regraft.models.classifier import build
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
shares = []
init = PhaseTrainer.__init__

def recording(self, *arguments, **named):
    init(self, *arguments, **named)
    local = [getattr(p, "_local_tensor", p) for p in [*self.parameters, *self.average]]
    shares.append(sum(p.numel() for p in local) / sum(p.numel() for p in [*self.parameters, *self.average]))

PhaseTrainer.__init__ = recording

class Keeper(NullReporter):
    def __init__(self, name):
        self.name = name

    def on_epoch_end(self, row):  # the file still has the state after the epoch before
        file = folder / f"{self.name}.safetensors"
        if rank == 0 and row.epoch == 2 and file.exists():
            shutil.copy(file, folder / f"{self.name}-after-1.safetensors")

def run(name, **more):
    model = build(classes=parts.classes, **backbone)
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
    print(json.dumps(shares))
torch.distributed.destroy_process_group()
"""


def in_two_processes(folder: Path, split: Split, runs: dict[str, dict[str, Any]]) -> list[float]:
    """Train in two processes; returns the shares of the weights and averages that the second one held."""
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
    shares: list[float] = json.loads(done.stdout.splitlines()[-1])
    return shares


def assert_close(folder: Path, name: str, expected: str, atol: float) -> None:
    ours, theirs = (load_file(folder / f"{each}-weights.safetensors") for each in (name, expected))
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=atol, msg=lambda text, key=key: f"{key}: {text}")


def test_divided_weights_train_to_the_same_model(squares_split: Split, tmp_path: Path) -> None:
    sgd = {"optimizer": "sgd", "batch_size": 5}
    shares = in_two_processes(
        tmp_path,
        squares_split,
        {
            "whole": sgd,
            "divided": {**sgd, "sharding": "fsdp"},
            # With one image a step, one of the processes has none.
            "whole-1": {**sgd, "batch_size": 1, "finetune_epochs": 1},
            "divided-1": {**sgd, "batch_size": 1, "finetune_epochs": 1, "sharding": "fsdp"},
            "adamw": {"batch_size": 5, "sharding": "fsdp"},
            "resumed": {"batch_size": 5, "sharding": "fsdp"},
        },
    )
    assert [round(share, 2) for share in shares] == [1, 0.5, 1, 0.5, 0.5, 0.5]
    assert_close(tmp_path, "divided", "whole", 1e-5)
    assert_close(tmp_path, "divided-1", "whole-1", 1e-5)
    assert_close(tmp_path, "resumed", "adamw", 0.0)
    # One process continues what two have divided.
    model = build(classes=squares_split.classes, **BACKBONE)
    checkpoint = tmp_path / "adamw-after-1.safetensors"
    result = train(model, squares_split, checkpoint=checkpoint, **{**OPTIONS, "batch_size": 5})
    assert [row.epoch for row in result.history] == [1, 2]
    expected = load_file(tmp_path / "adamw-weights.safetensors")
    for name, value in model.state_dict().items():
        if name in expected:
            torch.testing.assert_close(value, expected[name], rtol=0, atol=2e-3)


def test_what_cannot_be_divided_is_refused(squares_split: Split) -> None:
    model = build(classes=squares_split.classes, **BACKBONE)
    with pytest.raises(UsageError, match=r"sharding = fsdp and training\.compile = true exclude each other"):
        train(model, squares_split, sharding="fsdp", compile=True)
