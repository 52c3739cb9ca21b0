"""Peer: fastai's vision_learner and fine_tune on the same backbone.

    python fastai_learner.py --data FOLDER --weights FILE --out FOLDER --epochs 5

fastai's own defaults (its head on concatenated pooling, dropout, one-cycle, discriminative rates, one frozen epoch
first) with the channels-last callback that its documentation names for modern processors. Its mixed precision is for
CUDA alone (`autocast('cuda')`), so that float32 is the documented best; `--bf16` adds a callback of ours that does the
same for processors. Nothing is held out of train: there is no validation part, which saves fastai the time for it.
"""

# ruff: noqa: E402 (imports are timed apart)
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-call, attr-defined"

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse
import csv
import json
import os
import resource
import sys
from importlib.metadata import version
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
from PIL import Image
from safetensors.torch import load_file

IMPORT_SECONDS = time.perf_counter() - STARTED

requirements = ["fastai>=2.8", "timm>=1.0.20", "safetensors>=0.4.3"]

ENDINGS = {".png", ".jpg", ".jpeg"}


class ProcessorBfloat16(Callback):  # type: ignore[misc]
    """What fastai's MixedPrecision does, for the processor."""

    order = 10

    def before_batch(self) -> None:
        """Begin to compute in bfloat16."""
        self.context: Any = torch.autocast("cpu", torch.bfloat16)
        self.context.__enter__()

    def after_pred(self) -> None:
        """End it; the loss is computed in float32."""
        self.context.__exit__(None, None, None)
        self.learn.pred = self.pred.float()

    def after_fit(self) -> None:
        """Leave nothing behind that cannot be exported."""
        self.context = None


def listing(folder: Path) -> tuple[list[Path], list[str]]:
    """Image files below class folders, and the class of each."""
    files = sorted(file for file in folder.glob("*/*") if file.suffix.lower() in ENDINGS)
    return files, [file.parent.name for file in files]


def get_files(folder: Path) -> list[Path]:
    return listing(folder)[0]


def all_train(items: list[Path]) -> tuple[list[int], list[int]]:
    """Hold nothing out."""
    return list(range(len(items))), []


def learner(options: argparse.Namespace) -> Any:
    """Data and network, ready for fine_tune."""
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
    """Every tensor of the file is in the network."""
    wanted, found = load_file(options.weights), body.state_dict()
    wrong = [name for name, tensor in wanted.items() if name not in found or not torch.equal(tensor, found[name])]
    if wrong:
        raise SystemExit(f"weights do not fit: {wrong[:5]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/CLASS and test/CLASS")
    parser.add_argument("--weights", type=Path, required=True, help="backbone weights under timm's names")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--architecture", default="tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--epochs", type=int, default=5, help="of fine_tune, after one with the body frozen")
    parser.add_argument("--lr", type=float, default=2e-3, help="fine_tune's base_lr; 2e-3 is its default")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, help="processes that decode; default: fastai's, one a core")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 by a callback of ours")
    parser.add_argument(
        "--aug-transforms", action="store_true", help="fastai's aug_transforms in place of crop and flip"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    set_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)

    started = time.perf_counter()
    learn = learner(options)
    with learn.no_bar():
        learn.fine_tune(options.epochs, base_lr=options.lr)
    learn.export("model.pkl")
    seconds = time.perf_counter() - started
    peak, workers_peak = peak_megabytes(resource.RUSAGE_SELF), peak_megabytes(resource.RUSAGE_CHILDREN)

    files, truth = listing(options.data / "test")
    with learn.no_bar():
        probabilities, _ = learn.get_preds(dl=learn.dls.test_dl(files, bs=64))
    predicted = [str(learn.dls.vocab[i]) for i in probabilities.argmax(1).tolist()]
    marks = f"{' bf16' if options.bf16 else ''}{' aug_transforms' if options.aug_transforms else ''}"
    recipe = f"fine_tune({options.epochs}){marks}"
    extra = {"workers": learn.dls.train.fake_l.num_workers, "largest_worker_peak_megabytes": round(workers_peak, 1)}
    report("fastai", recipe, options, seconds, peak, files, truth, predicted, extra)


def peak_megabytes(who: int) -> float:
    """The largest resident size so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(who).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def report(
    peer: str,
    recipe: str,
    options: argparse.Namespace,
    seconds: float,
    peak: float,
    files: list[Path],
    truth: list[str],
    predicted: list[str],
    extra: dict[str, Any],
) -> None:
    """Write the predictions and print the result as the last line."""
    with (options.out / "predictions.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "predicted"])
        for row in zip(files, truth, predicted, strict=True):
            writer.writerow([row[0].relative_to(options.data).as_posix(), *row[1:]])
    correct = sum(a == b for a, b in zip(truth, predicted, strict=True))
    result = {
        "peer": peer,
        "recipe": recipe,
        "accuracy": correct / len(truth),
        "correct": correct,
        "count": len(truth),
        "seconds": round(seconds, 3),
        "import_seconds": round(IMPORT_SECONDS, 3),
        "peak_megabytes": round(peak, 1),
        "size": options.size,
        "seed": options.seed,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "fastai", "timm")},
        **extra,
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
