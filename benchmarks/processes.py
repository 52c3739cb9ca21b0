"""Do several processes train as one does, and as fast as its threads?

    python benchmarks/processes.py DATA [--record] [-- OPTIONS OF regraft train]

It trains in 1, 2 and 4 processes, each with one thread, and compares the head's losses, the fine-tuned validation
losses, the answers on the test images and the images that the metrics are of. Then it compares images per second of the
prefix and of fine-tuning steps of two processes with one thread each with those of one process with two threads, and
the time of a step whose gradients travel in one buffer after the backward pass with one of `DistributedDataParallel`.
Beside the numbers of processes it shows what a second thread changes in one process: sums in another order, which
fine-tuning amplifies.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from evidence import save, take_flag
from torch import nn

REGRAFT = [sys.executable, "-m", "regraft"]
PROCESSES = (1, 2, 4)
#: Largest differences from one process: of the head's losses and of the fine-tuned validation loss.
HEAD, FINETUNED = 1e-6, 1e-3
#: Smallest share of equal answers on the test images.
ANSWERS = 0.995


def rows(file: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def differences(run: Path, expected: Path) -> dict[str, float]:
    """How far a run is from another: losses of the head and of fine-tuning, and the share of equal answers."""
    facts: dict[str, float] = {}
    for label, table in (("head", "head_path.csv"), ("finetuned", "history.csv")):
        pairs = list(zip(rows(run / table), rows(expected / table), strict=True))
        facts[label] = max(abs(float(a["val_loss"]) - float(b["val_loss"])) for a, b in pairs)
    got, wanted = rows(run / "predictions.csv"), rows(expected / "predictions.csv")
    facts["same_images"] = float([row["id"] for row in got] == [row["id"] for row in wanted])
    pairs = [(a, b) for a, b in zip(got, wanted, strict=True) if a["part"] == "test"]
    facts["equal_answers"] = sum(a["predicted"] == b["predicted"] for a, b in pairs) / len(pairs)
    return facts


def is_right(facts: dict[str, float]) -> bool:
    """Whether a run is another one up to rounding."""
    losses = facts["head"] <= HEAD and facts["finetuned"] <= FINETUNED
    return losses and facts["equal_answers"] >= ANSWERS and facts["same_images"] == 1.0


def run_quietly(command: list[str], environment: dict[str, str]) -> None:
    """Run a command; raise `RuntimeError` with what it printed if it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")


def train(data: Path, out: Path, options: list[str], processes: int, *, threads: int | None = None) -> None:
    """Train with an empty cache; `threads` are those of all processes together."""
    with tempfile.TemporaryDirectory() as cache:
        limit = ["--threads", str(threads)] if threads else []
        command = [*REGRAFT, *limit, "train", str(data), *options, "--out", str(out), "--processes", str(processes)]
        run_quietly(command, {**os.environ, "REGRAFT_CACHE": cache})


def speeds(run: Path) -> dict[str, float]:
    """Images per second of the prefix, every view counted, and of the fastest epoch of fine-tuning."""
    metrics = json.loads((run / "metrics.json").read_text())
    views = next(
        int(line.partition("=")[2])
        for line in (run / "config.toml").read_text().splitlines()
        if line.startswith("views")
    )
    images = metrics["data"]["counts"]
    passes = views * sum(images["train"].values()) + sum(images["val"].values())
    tail = max(float(row["images_per_second"]) for row in rows(run / "history.csv") if row["phase"] == "finetune")
    return {"prefix": passes / metrics["time"]["steps"]["prefix"], "tail": tail}


def step_seconds(way: str, steps: int = 20) -> float:
    """Seconds of a training step of the tail in this group: `flat`, or `ddp`."""
    import regraft
    from regraft.models.staged import StageOutput
    from regraft.training.gradient_sum import GradientSum

    model = regraft.build("efficientnet_lite0", classes=list("abcdefghij"), image_size=160, weights="none")
    model.boundary = boundary = model.resolve("blocks.3.0")
    model.freeze(boundary)
    model.eval()
    size = model.stages[boundary - 1].shape
    taps = torch.zeros(16, model.taps_below(boundary))
    inputs, labels = StageOutput(torch.rand(16, *size), taps), torch.randint(10, (16,))

    class Tail(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: StageOutput) -> torch.Tensor:
            return model.head(model.forward_tail(inputs, boundary))

    tail: nn.Module = Tail()
    tail = nn.parallel.DistributedDataParallel(tail, gradient_as_bucket_view=True) if way == "ddp" else tail
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer, add_up = torch.optim.AdamW(parameters, fused=True), GradientSum(parameters)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(tail(inputs), labels).backward()
        if way == "flat":
            add_up(torch.zeros(4))
        optimizer.step()

    for _ in range(3):
        step()
    dist.barrier()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    dist.barrier()
    return (time.perf_counter() - started) / steps


def measure_steps() -> None:
    """Print the seconds of the steps, in turns: one of the processes that `compare_steps` starts."""
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {"flat": [], "ddp": []}
    for _ in range(3):
        for way in seconds:
            seconds[way].append(step_seconds(way))
    if dist.get_rank() == 0:
        print(json.dumps(seconds))
    dist.destroy_process_group()


def compare_steps() -> dict[str, list[float]]:
    """Milliseconds of a step with one buffer and with `DistributedDataParallel`, in two processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*torchrun, __file__, "steps"], check=True, capture_output=True, text=True)
    seconds = json.loads(done.stdout.splitlines()[-1])
    return {way: [1000 * value for value in values] for way, values in seconds.items()}


def main() -> int:
    """Compare and measure; return 1 if a run has another result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    record = take_flag()
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments, options = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
    right, facts = True, dict[str, dict[str, float]]()
    measured: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in PROCESSES:
            run, started = Path(folder) / f"of-{count}", time.monotonic()
            train(arguments.data, run, options, count, threads=count)
            duration = time.monotonic() - started
            facts[str(count)] = differences(run, Path(folder) / "of-1")
            right = right and is_right(facts[str(count)])
            print(f"{count} processes, {duration:.0f} s: {facts[str(count)]}", flush=True)
        train(arguments.data, Path(folder) / "two-threads", options, 1, threads=2)
        two_threads = differences(Path(folder) / "two-threads", Path(folder) / "of-1")
        print(f"1 process with 2 threads: {two_threads}", flush=True)
        ratios: dict[str, list[float]] = {"prefix": [], "tail": []}
        for number in range(3):
            by_count = {}
            for count in (1, 2):
                run = Path(folder) / f"speed-{number}-{count}"
                train(arguments.data, run, options, count, threads=2)
                by_count[count] = speeds(run)
            for step in ratios:
                ratios[step].append(by_count[2][step] / by_count[1][step])
            print(f"images/s of 1 and 2 processes: {by_count}", flush=True)
        measured |= {f"{step} of two processes, as a multiple of two threads": ratios[step] for step in ratios}
        steps = compare_steps()
        print(f"ms of a step: {steps}", flush=True)
        measured |= {f"{way} / flat": [a / b for a, b in zip(steps[way], steps["flat"], strict=True)] for way in steps}
    if record:
        named = {f"{count} processes": values for count, values in facts.items()}
        named["1 process with 2 threads"] = two_threads
        save(
            "processes", measured | {label: [values["equal_answers"]] for label, values in named.items()}, unit="ratio",
            title="Several processes", facts=named, data=arguments.data,
        )  # fmt: skip
    return int(not right)


if __name__ == "__main__":
    if sys.argv[1:] == ["steps"]:
        measure_steps()
    else:
        sys.exit(main())
