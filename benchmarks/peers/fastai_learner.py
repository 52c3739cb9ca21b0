"""Peer: fastai's vision_learner and fine_tune on the same backbone.

    python fastai_learner.py --data FOLDER --weights FILE --out FOLDER --epochs 5

The defaults of fastai (its head on concatenated pooling, dropout, one-cycle, discriminative rates, one frozen epoch
first) with the channels-last callback that its documentation recommends for modern CPUs. Its mixed precision only
supports CUDA, so float32 is what the documentation recommends on a CPU; `--bf16` adds a callback that does the same on
a CPU with instructions for it. There is no validation part, which saves fastai the time for it.
"""

# ruff: noqa: E402 (imports are timed apart)
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-call, attr-defined"

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse
import resource
from pathlib import Path
from typing import Any

import torch
from fastai.callback.channelslast import ChannelsLast
from fastai.vision.all import (
    Callback,
    CategoryBlock,
    DataBlock,
    FlipItem,
    ImageBlock,
    RandomResizedCrop,
    Resize,
    ResizeMethod,
    aug_transforms,
    parent_label,
    set_seed,
    vision_learner,
)
from measured import computes_bfloat16, listing, parser_of, peak_megabytes, report
from PIL import Image
from safetensors.torch import load_file

IMPORT_SECONDS = time.perf_counter() - STARTED

requirements = ["fastai>=2.8", "timm>=1.0.20", "safetensors>=0.4.3"]


class ProcessorBfloat16(Callback):  # type: ignore[misc]
    """fastai's MixedPrecision on the CPU."""

    order = 10

    def before_batch(self) -> None:
        """Enter autocast."""
        self.context: Any = torch.autocast("cpu", torch.bfloat16)
        self.context.__enter__()

    def after_pred(self) -> None:
        """Leave autocast; the loss is computed in float32."""
        self.context.__exit__(None, None, None)
        self.learn.pred = self.pred.float()

    def after_fit(self) -> None:
        """Drop the context, which cannot be exported."""
        self.context = None


def get_files(folder: Path) -> list[Path]:
    return listing(folder)[0]


def all_train(items: list[Path]) -> tuple[list[int], list[int]]:
    """Use all images for training."""
    return list(range(len(items))), []


def learner(options: argparse.Namespace) -> Any:
    """Build data and network for fine_tune."""
    square = Resize(
        options.size, method=ResizeMethod.Squish, resamples=(Image.Resampling.BICUBIC, Image.Resampling.NEAREST)
    )
    if options.aug_transforms:
        items, batches = [square], aug_transforms(size=options.size, min_scale=0.35)
    else:
        items, batches = [square, RandomResizedCrop(options.size, min_scale=0.35, val_xtra=0), FlipItem()], []
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=get_files,
        get_y=parent_label,
        splitter=all_train,
        item_tfms=items,
        batch_tfms=batches,
    )
    loaders = block.dataloaders(
        options.data / "train", bs=options.batch_size, num_workers=options.workers, device=torch.device("cpu")
    )
    learn = vision_learner(
        loaders,
        options.architecture,
        cbs=[ChannelsLast(), *([ProcessorBfloat16()] if options.bf16 else [])],
        path=options.out,
        pretrained_cfg_overlay={"file": str(options.weights)},  # timm reads this file instead of the hub's
    )
    check_weights(learn.model[0].model, options)
    return learn


def check_weights(body: Any, options: argparse.Namespace) -> None:
    """Check that every tensor of the file is in the network."""
    wanted, found = load_file(options.weights), body.state_dict()
    wrong = [name for name, tensor in wanted.items() if name not in found or not torch.equal(tensor, found[name])]
    if wrong:
        raise SystemExit(f"weights do not fit: {wrong[:5]}")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--epochs", type=int, default=5, help="epochs of fine_tune, after one with the body frozen")
    parser.add_argument("--lr", type=float, default=2e-3, help="fine_tune's base_lr; 2e-3 is its default")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, help="processes that decode; default: fastai's, one per core")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 by this file's callback, where the CPU has it")
    parser.add_argument(
        "--aug-transforms", action="store_true", help="fastai's aug_transforms in place of crop and flip"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    set_seed(options.seed)
    options.bf16 = options.bf16 and computes_bfloat16()
    options.out.mkdir(parents=True, exist_ok=True)

    started = time.perf_counter()
    learn = learner(options)
    with learn.no_bar():
        learn.fine_tune(options.epochs, base_lr=options.lr)
    learn.export("model.pkl")
    seconds = time.perf_counter() - started
    peak, workers_peak = peak_megabytes(), peak_megabytes(resource.RUSAGE_CHILDREN)

    with learn.no_bar():
        probabilities, _ = learn.get_preds(dl=learn.dls.test_dl(listing(options.data / "test")[0], bs=64))
    marks = f"{' bf16' if options.bf16 else ''}{' aug_transforms' if options.aug_transforms else ''}"
    report(
        "fastai",
        f"fine_tune({options.epochs}){marks}",
        options,
        import_seconds=IMPORT_SECONDS,
        seconds=seconds,
        peak=peak,
        predicted=[str(learn.dls.vocab[i]) for i in probabilities.argmax(1).tolist()],
        packages=("torch", "fastai", "timm"),
        workers=learn.dls.train.fake_l.num_workers,
        largest_worker_peak_megabytes=round(workers_peak, 1),
    )


if __name__ == "__main__":
    main()
