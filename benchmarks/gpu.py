"""Training on a CUDA device, regraft beside a careful PyTorch loop on the same images and weights, in turns.

    python benchmarks/gpu.py DATA [--size 224] [--epochs 5] [--rounds 3]

DATA holds train/CLASS and test/CLASS. The loop is `benchmarks/peers/loop.py --device cuda`: all images decoded into
memory, channels_last, bfloat16, augmentation on the CPU. Prints seconds from files to a trained model, with an empty
store and with a filled one, test accuracy, and regraft's peak memory on the device. Exit code 2 without a CUDA device.
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
from regraft.evaluation.intervals import wilson_interval
from regraft.store import Store
from regraft.training.train import train


def ours(data: Path, size: int, epochs: int, start: str, store: Store, seed: int) -> tuple[float, int, int]:
    """Seconds, right answers, images."""
    started = time.perf_counter()
    parts = regraft.split(regraft.scan(data), seed=seed)
    model = regraft.build(classes=parts.classes, image_size=size, seed=seed)
    train(model, parts, store=store, finetune_epochs=epochs, finetune_from=start, device="cuda", seed=seed)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    answers = regraft.predict(model.cpu(), [parts.test.source(sample) for sample in parts.test.samples])
    right = sum(answer.label == sample.label for answer, sample in zip(answers, parts.test.samples, strict=True))
    return seconds, right, len(parts.test)


def loop(data: Path, size: int, recipe: str, epochs: int, seed: int, folder: Path) -> tuple[float, int, int]:
    """The same of the peer."""
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
        print("No CUDA device; this benchmark is for one.", file=sys.stderr)
        return 2
    print(torch.cuda.get_device_name(), f"torch {torch.__version__}")
    engines = Path(__file__).with_name("engines.py")
    subprocess.run([sys.executable, str(engines), "efficientnet_lite0", str(arguments.size)], check=True)
    ways = {"head alone": (0, "auto"), "last two resolutions": (arguments.epochs, "auto")}
    ways["everything"] = (arguments.epochs, "all")
    for name, (epochs, start) in ways.items():
        cold, warm, right, count = [], [], [], 0
        recipe = {0: "frozen"}.get(epochs, "full" if start == "all" else "frozen+finetune")
        peer = []
        for seed in range(arguments.rounds):
            with tempfile.TemporaryDirectory() as folder:
                for times in (cold, warm):
                    seconds, good, count = ours(
                        arguments.data, arguments.size, epochs, start, Store(Path(folder)), seed
                    )
                    times.append(seconds)
                right.append(good)
                peer.append(loop(arguments.data, arguments.size, recipe, max(1, epochs), seed, Path(folder)))
        low, high = wilson_interval(int(median(right)), count)
        print(
            f"regraft, {name:<22} {median(right) / count:.3f} ({low:.3f} to {high:.3f})  "
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
