"""Peer: the Trainer of Hugging Face's transformers on the same backbone, with its wrapper of timm's networks.

    python hf_trainer.py --data FOLDER --weights FILE --out FOLDER --epochs 10 --lr 5e-4

All layers are fine-tuned, as in the image classification guide of transformers: AdamW, warm-up in the first tenth of
the steps, gradient clipping at 1. To help the peer, images are decoded once and kept in memory, it computes in bfloat16
where the processor has instructions for it, with channels last, and learning rate, epochs and schedule are options;
those of the guide are 5e-5, 3 and linear.
Normalization layers are trained with batch statistics, as by default, unless `--fixed-norm` is given.
"""

# ruff: noqa: E402 (imports are timed apart)
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-call, attr-defined"

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from measured import computes_bfloat16, decode, listing, parser_of, peak_megabytes, report
from safetensors.torch import load_file
from torch import nn
from torchvision.transforms import v2
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification, Trainer, TrainingArguments, set_seed

IMPORT_SECONDS = time.perf_counter() - STARTED

requirements = [
    "torch>=2.4",
    "torchvision>=0.19",
    "transformers>=5.0",
    "accelerate>=1.1",
    "timm>=1.0.20",
    "safetensors>=0.4.3",
    "pillow>=10.3",
    "numpy>=1.26",
]


class Images(torch.utils.data.Dataset[dict[str, Any]]):
    """Decoded images in memory; each access gives a normalized view."""

    def __init__(self, files: list[Path], labels: list[int], size: int, view: v2.Transform) -> None:
        """Decode the files."""
        self.labels, self.view = labels, view
        self.pixels = decode(files, size)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One view and its label."""
        return {"pixel_values": self.view(self.pixels[index]), "labels": self.labels[index]}


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Make a batch, channels last."""
    pixels = torch.stack([row["pixel_values"] for row in rows])
    return {
        "pixel_values": pixels.contiguous(memory_format=torch.channels_last),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


class FixedNorm(Trainer):  # type: ignore[misc]
    """Trainer with normalization in inference mode; Trainer switches all layers to training mode at each step."""

    def compute_loss(self, model: nn.Module, *arguments: Any, **named: Any) -> Any:
        """Switch normalization back to inference mode."""
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return super().compute_loss(model, *arguments, **named)


def build(options: argparse.Namespace, classes: list[str]) -> Any:
    """The wrapped network with the file's backbone and a new head, as by from_pretrained."""
    config = TimmWrapperConfig(
        architecture=options.architecture,
        id2label=dict(enumerate(classes)),
        label2id={name: i for i, name in enumerate(classes)},
    )
    model: Any = TimmWrapperForImageClassification(config)
    network = model.timm_model
    network.reset_classifier(0)
    network.load_state_dict(load_file(options.weights))
    network.reset_classifier(len(classes))
    model._init_weights(network.get_classifier())
    return model.to(memory_format=torch.channels_last)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--schedule", choices=["linear", "cosine"], default="cosine")
    parser.add_argument("--weight-decay", type=float, default=0.0, help="Trainer's default is 0")
    parser.add_argument("--label-smoothing", type=float, default=0.0)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=0, help="processes that augment; Trainer's default is 0")
    parser.add_argument("--fixed-norm", action="store_true", help="normalization in inference mode while training")
    parser.add_argument("--f32", action="store_true", help="float32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    set_seed(options.seed)
    bfloat16 = computes_bfloat16() and not options.f32
    options.out.mkdir(parents=True, exist_ok=True)

    started = time.perf_counter()
    files, names = listing(options.data / "train")
    classes = sorted(set(names))
    model = build(options, classes)
    config = timm.data.resolve_model_data_config(model.timm_model)
    normalize = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(config["mean"], config["std"])]
    crop = v2.RandomResizedCrop(options.size, scale=(0.35, 1.0), antialias=True)
    view = v2.Compose([crop, v2.RandomHorizontalFlip(), *normalize])
    train = Images(files, [classes.index(name) for name in names], options.size, view)
    steps = -(-len(train) // options.batch_size) * options.epochs
    trainer = (FixedNorm if options.fixed_norm else Trainer)(
        model=model,
        args=TrainingArguments(
            output_dir=str(options.out),
            use_cpu=True,
            bf16=bfloat16,
            per_device_train_batch_size=options.batch_size,
            per_device_eval_batch_size=64,
            num_train_epochs=options.epochs,
            learning_rate=options.lr,
            weight_decay=options.weight_decay,
            label_smoothing_factor=options.label_smoothing,
            lr_scheduler_type=options.schedule,
            warmup_steps=round(0.1 * steps),
            seed=options.seed,
            dataloader_num_workers=options.workers,
            dataloader_persistent_workers=options.workers > 0,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            save_strategy="no",
            eval_strategy="no",
            logging_strategy="epoch",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=train,
        data_collator=collate,
    )
    trainer.train()
    trainer.save_model(str(options.out))
    seconds = time.perf_counter() - started
    peak = peak_megabytes()

    test_files, _ = listing(options.data / "test")
    test = Images(test_files, [0] * len(test_files), options.size, v2.Compose(normalize))
    marks = f"{' fixed-norm' if options.fixed_norm else ''}{'' if bfloat16 else ' f32'}"
    report(
        "transformers",
        f"full lr={options.lr:g} epochs={options.epochs} {options.schedule}{marks}",
        options,
        import_seconds=IMPORT_SECONDS,
        seconds=seconds,
        peak=peak,
        predicted=[classes[i] for i in np.asarray(trainer.predict(test).predictions).argmax(1)],
        packages=("torch", "transformers", "timm"),
    )


if __name__ == "__main__":
    main()
