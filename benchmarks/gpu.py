"""Training on a CUDA device: regraft and a careful PyTorch loop on the same images and weights, in turns.

    python benchmarks/gpu.py DATA [--size 224] [--epochs 5] [--rounds 3]

DATA holds train/CLASS and test/CLASS. The loop is `benchmarks/peers/loop.py --device cuda`: all images decoded into
memory, channels_last, bfloat16, augmentation on the CPU. Prints the seconds from files to a trained model with an empty
and with a filled cache, the test accuracy, and regraft's peak memory on the device. Exits with 2 without a CUDA device.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

import regraft
from regraft.cache import Cache
from regraft.evaluation.intervals import wilson_interval
from regraft.training.trainer import train


def run_regraft(data: Path, size: int, epochs: int, start: str, cache: Cache, seed: int) -> tuple[float, int, int]:
    """Train regraft; return seconds, number of correct predictions and number of test images."""
    started = time.perf_counter()
    parts = regraft.split(regraft.scan(data), seed=seed)
    model = regraft.build(classes=parts.classes, image_size=size, seed=seed)
    train(model, parts, cache=cache, finetune_epochs=epochs, finetune_from=start, device="cuda", seed=seed)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    predictions = regraft.predict(model.cpu(), [parts.test.source(sample) for sample in parts.test.samples])
    correct = sum(
        prediction.label == sample.label for prediction, sample in zip(predictions, parts.test.samples, strict=True)
    )
    return seconds, correct, len(parts.test)


def run_loop(data: Path, size: int, recipe: str, epochs: int, seed: int, folder: Path) -> tuple[float, int, int]:
    """Run the peer; return the same values."""
    peers = Path(__file__).parent / "peers"
    weights = folder / "weights.safetensors"
    if not weights.exists():
        subprocess.run([sys.executable, str(peers / "prepare.py"), "--out", str(weights)], check=True)
    command = [
        sys.executable,
        str(peers / "loop.py"),
        "--data",
        str(data),
        "--weights",
        str(weights),
        "--device",
        "cuda",
    ]
    command += ["--out", str(folder / "peer"), "--size", str(size), "--seed", str(seed)]
    command += ["--recipe", recipe, "--epochs", str(epochs)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout.strip().rpartition("\n")[2])
    return result["seconds"], result["correct"], result["count"]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("This benchmark needs a CUDA device.", file=sys.stderr)
        return 2
    print(torch.cuda.get_device_name(), f"torch {torch.__version__}")
    prefix_backends = Path(__file__).with_name("prefix_backends.py")
    subprocess.run(
        [sys.executable, str(prefix_backends), "efficientnet_lite0", "--size", str(arguments.size)], check=True
    )
    recipes = {"head only": (0, "auto"), "last two resolutions": (arguments.epochs, "auto")}
    recipes["all stages"] = (arguments.epochs, "all")
    for name, (epochs, start) in recipes.items():
        cold, warm, correct, count = [], [], [], 0
        recipe = {0: "frozen"}.get(epochs, "full" if start == "all" else "frozen+finetune")
        peer = []
        for seed in range(arguments.rounds):
            with tempfile.TemporaryDirectory() as folder:
                for times in (cold, warm):
                    seconds, hits, count = run_regraft(
                        arguments.data, arguments.size, epochs, start, Cache(Path(folder)), seed
                    )
                    times.append(seconds)
                correct.append(hits)
                peer.append(run_loop(arguments.data, arguments.size, recipe, max(1, epochs), seed, Path(folder)))
        low, high = wilson_interval(int(median(correct)), count)
        print(
            f"regraft, {name:<22} {median(correct) / count:.3f} ({low:.3f} to {high:.3f})  "
            f"cold {median(cold):.1f} s ({min(cold):.1f} to {max(cold):.1f}), warm {median(warm):.1f} s, "
            f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB on the device",
            flush=True,
        )
        torch.cuda.reset_peak_memory_stats()
        low, high = wilson_interval(int(median(row[1] for row in peer)), count)
        print(
            f"loop, {recipe:<25} {median(row[1] for row in peer) / count:.3f} ({low:.3f} to {high:.3f})  "
            f"{median(row[0] for row in peer):.1f} s",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
