"""Peer: a careful hand-written training loop with PyTorch and timm.

    python loop.py --data FOLDER --weights FILE --out FOLDER --recipe frozen+finetune

Images are decoded once and kept in memory; each epoch augments them again (random resized crop, flip). Convolutions run
in bfloat16, where the processor has instructions for it, with channels last on every core; normalization layers of the
backbone stay in inference mode. Recipes:

  frozen           only the head, Adam 1e-3, 8 epochs; the backbone runs without gradients
  frozen+finetune  then also the last two stages, AdamW 1e-4 with a cosine, 10 epochs
  full             all layers at once, AdamW 1e-3 with layer decay 0.9, warm-up and a cosine, TrivialAugment

`--f32` is the loop as it is usually written: float32 and the default memory format, all else equal.
"""

# ruff: noqa: E402 (imports are timed apart)
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-call, attr-defined"

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse
import json
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import timm
import torch
from measured import computes_bfloat16, decode, listing, parser_of, peak_megabytes, report
from safetensors.torch import load_file, save_file
from timm.optim import create_optimizer_v2
from torch import nn
from torchvision.transforms import v2

IMPORT_SECONDS = time.perf_counter() - STARTED

requirements = ["torch>=2.4", "torchvision>=0.19", "timm>=1.0.20", "safetensors>=0.4.3", "pillow>=10.3", "numpy>=1.26"]


class Trainer:
    """The network with its training and prediction."""

    def __init__(self, options: argparse.Namespace, classes: int) -> None:
        """Build the network with the file's backbone and a new head."""
        self.options = options
        self.model = self.build()
        self.model.load_state_dict(load_file(options.weights))
        # PyTorch's initialization of a linear layer; timm's weights, and so the first loss, are ten times larger.
        self.model.reset_classifier(classes)
        self.layout = torch.contiguous_format if options.f32 else torch.channels_last
        self.device = torch.device(options.device)
        self.model.to(device=self.device, memory_format=self.layout)
        config = timm.data.resolve_model_data_config(self.model)
        self.mean = torch.tensor(config["mean"]).view(1, 3, 1, 1).to(self.device) * 255
        self.std = torch.tensor(config["std"]).view(1, 3, 1, 1).to(self.device) * 255
        self.loss = nn.CrossEntropyLoss(label_smoothing=options.label_smoothing)
        self.head_prefix = self.model.default_cfg["classifier"] + "."

    def build(self) -> Any:
        """Create a network without a classifier."""
        return timm.create_model(self.options.architecture, num_classes=0)

    def autocast(self) -> AbstractContextManager[object]:
        """Context of the forward pass."""
        slow = self.device.type == "cpu" and not computes_bfloat16()
        return nullcontext() if self.options.f32 or slow else torch.autocast(self.device.type, torch.bfloat16)

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """Run a batch of uint8 pixels."""
        inputs = ((pixels.to(self.device).float() - self.mean) / self.std).contiguous(memory_format=self.layout)
        with self.autocast():
            logits: torch.Tensor = self.model(inputs)
        return logits.float()

    def batches(self, count: int) -> Iterator[torch.Tensor]:
        """Indices of one epoch in random order; no batch of one image."""
        for rows in torch.randperm(count).split(self.options.batch_size):
            if len(rows) > 1:
                yield rows

    def train(
        self,
        name: str,
        pixels: torch.Tensor,
        labels: torch.Tensor,
        view: v2.Transform,
        optimizer: torch.optim.Optimizer,
        epochs: int,
        warmup: float | None,
    ) -> None:
        """Run one phase; `warmup` is the fraction of steps before the cosine; None means a constant rate."""
        rates = [group["lr"] for group in optimizer.param_groups]
        labels = labels.to(self.device)
        total = epochs * len(list(self.batches(len(pixels))))
        step = 0
        self.model.train()
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(self.options.train_norm)
        for epoch in range(1, epochs + 1):
            started, summed, right, seen = time.perf_counter(), 0.0, 0, 0
            for rows in self.batches(len(pixels)):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * schedule(step, total, warmup)
                inputs = torch.stack([view(pixels[i]) for i in rows])
                logits = self.logits(inputs)
                loss = self.loss(logits, labels[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                step += 1
                summed += float(loss.detach()) * len(rows)
                right += int((logits.detach().argmax(1) == labels[rows]).sum())
                seen += len(rows)
            rate = seen / (time.perf_counter() - started)
            print(f"{name} {epoch}/{epochs} loss {summed / seen:.4f} accuracy {right / seen:.4f} {rate:.0f} images/s")

    def run(self, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        """Train by the recipe."""
        options, model = self.options, self.model
        steps: list[v2.Transform] = [
            v2.RandomResizedCrop(options.size, scale=(options.crop, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
        ]
        if options.recipe == "full":
            optimizer = create_optimizer_v2(
                model, opt="adamw", lr=options.full_lr, weight_decay=options.weight_decay, layer_decay=0.9
            )
            for group in optimizer.param_groups:  # timm leaves the scaling to its own schedulers
                group["lr"] = options.full_lr * group.get("lr_scale", 1.0)
            view = v2.Compose([*steps, v2.TrivialAugmentWide()])
            self.train("full", pixels, labels, view, optimizer, options.epochs, 0.1)
            return
        view = v2.Compose(steps)
        self.unfreeze((self.head_prefix,))
        head: Any = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=options.head_lr)
        self.train("head", pixels, labels, view, head, options.head_epochs, None)
        if options.recipe == "frozen+finetune":
            self.unfreeze((*options.unfreeze, self.head_prefix))
            optimizer = torch.optim.AdamW(
                [p for p in model.parameters() if p.requires_grad],
                lr=options.finetune_lr,
                weight_decay=options.weight_decay,
            )
            self.train("finetune", pixels, labels, view, optimizer, options.epochs, 0.1)

    def unfreeze(self, prefixes: tuple[str, ...]) -> None:
        """Train only the parameters with these prefixes; autograd records nothing below them."""
        names = [name for name, _ in self.model.named_parameters()]
        unknown = [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in names)]
        if unknown:
            raise SystemExit(f"no parameter begins with {', '.join(unknown)}")
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name.startswith(prefixes))

    @torch.inference_mode()
    def predict(self, pixels: torch.Tensor) -> np.ndarray:
        """Class indices."""
        self.model.eval()
        return torch.cat([self.logits(batch).argmax(1) for batch in pixels.split(64)]).cpu().numpy()


def schedule(step: int, total: int, warmup: float | None) -> float:
    """Learning rate at a step as a fraction of the highest."""
    if warmup is None:
        return 1.0
    rising = max(1, round(warmup * total))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--recipe", choices=["frozen", "frozen+finetune", "full"], default="frozen+finetune")
    parser.add_argument("--f32", action="store_true", help="float32 and the default memory format")
    parser.add_argument("--head-epochs", type=int, default=8)
    parser.add_argument("--epochs", type=int, help="fine-tuning epochs; default 10, or 20 for the recipe full")
    parser.add_argument("--head-lr", type=float, default=1e-3)
    parser.add_argument("--finetune-lr", type=float, default=1e-4)
    parser.add_argument("--full-lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--label-smoothing", type=float, default=0.0)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--crop", type=float, default=0.35, help="smallest fraction of the area that a crop keeps")
    parser.add_argument("--train-norm", action="store_true", help="normalize by batch statistics while training")
    parser.add_argument(
        "--unfreeze",
        nargs="+",
        default=["blocks.5.", "blocks.6.", "conv_head.", "bn2."],
        help="prefixes of the parameters that frozen+finetune trains besides the head",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    if options.epochs is None:
        options.epochs = 20 if options.recipe == "full" else 10
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)

    started = time.perf_counter()
    files, names = listing(options.data / "train")
    classes = sorted(set(names))
    labels = torch.tensor([classes.index(name) for name in names])
    trainer = Trainer(options, len(classes))
    trainer.run(decode(files, options.size), labels)
    save_file({k: v.contiguous() for k, v in trainer.model.state_dict().items()}, options.out / "model.safetensors")
    (options.out / "class_names.json").write_text(json.dumps(classes), encoding="utf-8")
    seconds = time.perf_counter() - started
    peak = peak_megabytes()

    test_files, _ = listing(options.data / "test")
    report(
        "loop",
        f"{options.recipe}{' f32' if options.f32 else ''}",
        options,
        import_seconds=IMPORT_SECONDS,
        seconds=seconds,
        peak=peak,
        predicted=[classes[i] for i in trainer.predict(decode(test_files, options.size))],
        packages=("torch", "torchvision", "timm"),
    )


if __name__ == "__main__":
    main()
