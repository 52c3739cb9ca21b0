"""Peer: AutoGluon's MultiModalPredictor with its timm_image model on the same backbone.

    python autogluon_multimodal.py --data FOLDER --weights FILE --out FOLDER --preset medium_quality

AutoGluon's own recipe: AdamW with layer decay and a cosine, at most 20 epochs with early stopping on a part of train
that it holds out, TrivialAugment, a greedy soup of the three best checkpoints. It gets the network by name from a hub
cache, which this script makes from the weights, and the image size. The presets name other backbones, which cannot be
had offline; of the rest, medium_quality has a larger learning rate, and best_quality computes one image at a time.
Networks with normalization over the batch suffer from that, so `--batch-size 8`, AutoGluon's default, helps it.
"""

# ruff: noqa: E402 (imports are timed apart)
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-call"

from __future__ import annotations

import time

STARTED = time.perf_counter()

import json
import os
import resource
import shutil
from pathlib import Path

from measured import listing, parser_of, peak_megabytes, report

# torch below 2.13, since torchvision must be of the same channel and 2.13 has processor-only wheels on some machines.
requirements = ["autogluon.multimodal>=1.6", "torch>=2.10,<2.13", "safetensors>=0.4.3"]


def hub_cache(weights: Path, folder: Path, architecture: str) -> str:
    """Lay out the weights in a folder as the hub's cache does; return the name to load them by."""
    name = f"{architecture}.in1k"
    repository = folder / f"models--timm--{name}"
    snapshot = repository / "snapshots" / "local"
    snapshot.mkdir(parents=True, exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text("local", encoding="utf-8")
    shutil.copy(weights, snapshot / "model.safetensors")
    (snapshot / "config.json").write_text(json.dumps({"architecture": architecture}), encoding="utf-8")
    return name


def check_weights(name: str, weights: Path) -> None:
    """Check that timm, by which AutoGluon loads its networks, finds every tensor of the file under the name."""
    import timm
    import torch
    from safetensors.torch import load_file

    wanted, found = load_file(weights), timm.create_model(name, pretrained=True, num_classes=2).state_dict()
    wrong = [key for key, tensor in wanted.items() if key not in found or not torch.equal(tensor, found[key])]
    if wrong:
        raise SystemExit(f"weights do not fit: {wrong[:5]}")


def main() -> None:
    parser = parser_of(__doc__)
    presets = ["medium_quality", "high_quality", "best_quality"]
    parser.add_argument("--preset", default=presets[0], choices=presets)
    parser.add_argument("--epochs", type=int, help="at most; default: AutoGluon's, 20")
    parser.add_argument("--batch-size", type=int, help="images that are computed at once; default: the preset's")
    parser.add_argument("--time-limit", type=int, help="seconds; default: none")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    name = hub_cache(options.weights, options.out / "hub", options.architecture)
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(options.out / "hub")}

    import pandas as pd
    import torch
    from autogluon.multimodal import MultiModalPredictor

    import_seconds = time.perf_counter() - STARTED
    check_weights(name, options.weights)
    torch.set_num_threads(options.threads)
    model = options.out / "model"
    shutil.rmtree(model, ignore_errors=True)  # of an earlier call; AutoGluon refuses a folder with a model

    started = time.perf_counter()
    files, labels = listing(options.data / "train")
    settings = {
        "model.names": ["timm_image"],
        "model.timm_image.checkpoint_name": name,
        "model.timm_image.image_size": options.size,
    }
    settings |= {"optim.max_epochs": options.epochs} if options.epochs else {}
    settings |= {"env.per_gpu_batch_size": options.batch_size} if options.batch_size else {}
    predictor = MultiModalPredictor(
        label="label", problem_type="multiclass", eval_metric="accuracy", presets=options.preset, path=str(model)
    )
    predictor.fit(
        pd.DataFrame({"image": [str(file) for file in files], "label": labels}),
        hyperparameters=settings,
        column_types={"image": "image_path"},
        time_limit=options.time_limit,
        seed=options.seed,
    )
    seconds = time.perf_counter() - started
    peak, workers_peak = peak_megabytes(), peak_megabytes(resource.RUSAGE_CHILDREN)

    test = pd.DataFrame({"image": [str(file) for file in listing(options.data / "test")[0]]})
    given = {"epochs": options.epochs, "batch": options.batch_size, "limit": options.time_limit}
    report(
        "autogluon",
        options.preset + "".join(f" {word}={value}" for word, value in given.items() if value),
        options,
        import_seconds=import_seconds,
        seconds=seconds,
        peak=peak,
        predicted=[str(label) for label in predictor.predict(test, as_pandas=False)],
        packages=("torch", "autogluon.multimodal", "timm"),
        largest_worker_peak_megabytes=round(workers_peak, 1),
    )


if __name__ == "__main__":
    main()
