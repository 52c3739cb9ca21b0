"""Kill a random process of two at a random moment and resume: is the result that of an undisturbed training?

    python benchmarks/process_kills.py DATA [--kills 30] [--seed 0] [--record] [-- OPTIONS OF regraft train]

The other process must end by itself within a minute and say which one was killed; the resumed run must have the same
losses, answers and images as an undisturbed one, to the last digit. At first it presses Ctrl-C once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from evidence import save, take_flag
from processes import REGRAFT, differences, run_quietly, train


def is_equal(facts: dict[str, float]) -> bool:
    """Whether a run has the same numbers as another one."""
    return facts["head"] == facts["finetuned"] == 0.0 and facts["equal_answers"] == facts["same_images"] == 1.0


def process_of_rank(launcher: int, rank: int) -> int | None:
    """The number of a process that a launcher has started; None if there is none yet."""
    try:
        children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
        for child in children:
            if f"RANK={rank}\0" in Path(f"/proc/{child}/environ").read_text():
                return int(child)
    except OSError:
        pass
    return None


def kill_one(
    data: Path, out: Path, options: list[str], draw: random.Random, duration: float
) -> tuple[str, float | None]:
    """Start two processes, kill one of them at a random moment, and resume.

    Returns what happened in a few words, and the seconds until all processes had ended, if one was killed.
    """
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "REGRAFT_CACHE": cache}
        moment, rank = draw.uniform(0.1, 1.0) * duration, draw.randrange(2)
        command = [*REGRAFT, "train", str(data), *options, "--out", str(out), "--processes"]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        launcher = subprocess.Popen([*command, "2"], env=environment, **quiet)
        outcome, ended = "finished", None
        try:
            launcher.wait(moment)
        except subprocess.TimeoutExpired:
            if number := process_of_rank(launcher.pid, rank):
                os.kill(number, signal.SIGKILL)
            started = time.monotonic()
            _, error = launcher.communicate(timeout=60)  # a bar: the others end within a minute
            ended = time.monotonic() - started
            outcome = f"rank {rank} killed after {moment:5.1f} s, all ended {ended:4.1f} s later"
            if launcher.returncode and "was killed by SIGKILL" not in error:
                raise RuntimeError(f"unexpected end: {error}") from None
        has_started = (out / "source.json").exists() and (out / "config.toml").exists()
        again = [*REGRAFT, "train", "--resume", str(out), "--processes"] if has_started else command
        run_quietly([*again, "2"], environment)
        return outcome, ended


def interrupt_one(data: Path, out: Path, options: list[str]) -> str:
    """Press Ctrl-C while two processes fine-tune, check that the best model is kept, and resume."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "REGRAFT_CACHE": cache}
        command = [*REGRAFT, "train", str(data), *options, "--out", str(out), "--processes", "2"]
        launcher = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while launcher.poll() is None and not (out / "checkpoints" / "last.safetensors").exists():
            time.sleep(0.01)
        launcher.send_signal(signal.SIGINT)
        code = launcher.wait()
        stopped = json.loads((out / "metrics.json").read_text())["training"]["stopped"]
        run_quietly([*REGRAFT, "train", "--resume", str(out), "--processes", "2"], environment)
        return f"Ctrl-C: exit code {code}, stopped: {stopped}"


def main() -> int:
    """Kill, resume and compare; return 1 if a run has another result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    record = take_flag()
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments, options = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
    draw, right, seconds = random.Random(arguments.seed), list[bool](), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        whole, interrupted, started = Path(folder) / "whole", Path(folder) / "interrupted", time.monotonic()
        train(arguments.data, whole, options, 2)
        duration = time.monotonic() - started
        happened = interrupt_one(arguments.data, interrupted, options)
        is_same = is_equal(differences(interrupted, whole))
        print(f"{happened}, then {'right' if is_same else 'DIFFERENT'}", flush=True)
        for number in range(1, arguments.kills + 1):
            run = Path(folder) / f"kill-{number}"
            happened, ended = kill_one(arguments.data, run, options, draw, duration)
            result = differences(run, whole)
            right.append(is_equal(result))
            seconds += [ended] if ended is not None else []
            print(f"{number:3} {happened}: {'right' if right[-1] else f'DIFFERENT: {result}'}", flush=True)
    print(f"{sum(right)} of {len(right)} finish right")
    if record:
        save(
            "process_kills", {"until the other process has ended": seconds}, unit="s",
            title="Killed processes", data=arguments.data,
            facts={"until the other process has ended": {"started": len(right), "finished_right": sum(right)}},
        )  # fmt: skip
    return int(not all(right) or not is_same)


if __name__ == "__main__":
    sys.exit(main())
