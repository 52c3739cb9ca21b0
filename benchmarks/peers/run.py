"""regraft's peers, timed: each in its own virtual environment, on the same images, parts and backbone weights.

    python benchmarks/peers/run.py --data FOLDER                      every recipe of RECIPES once
    python benchmarks/peers/run.py --data FOLDER --only loop --repeats 3
    python benchmarks/peers/run.py --data FOLDER --recipe "loop --recipe full --epochs 30" --recipe "sklearn_features"

FOLDER holds train/CLASS and test/CLASS. The first run makes the environments (several gigabytes each, as every one has
its own PyTorch) and exports the weights with regraft, which must be importable unless `--weights` is given. Rounds are
interleaved: every recipe once with seed 0, then every recipe with seed 1. Each result is one line of JSON in
`results.jsonl` of the work folder, or of `--results`; what fails is recorded with its error, and the rest goes on.

On Linux the peers can be given what regraft's `keep_freed_memory` does, without a change to them:

    --environment MALLOC_MMAP_THRESHOLD_=1073741824 --environment MALLOC_TRIM_THRESHOLD_=2147483647
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shlex
import subprocess
import sys
import time
import venv
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OURS = "regraft_train"
PEERS = (OURS, "loop", "fastai_learner", "hf_trainer", "sklearn_features")

#: What is run by default: a peer and its options.
RECIPES = (
    "regraft_train --epochs 0",
    "regraft_train --epochs 0 --warm",
    "regraft_train --epochs 3 --start last --views 1",
    "regraft_train --epochs 2 --start last --views 1 --val 0",
    "regraft_train --epochs 3 --start last --views 1 --val 0",
    "regraft_train --epochs 5",
    "regraft_train --epochs 10",
    "regraft_train --epochs 20",
    "sklearn_features",
    "loop --recipe frozen",
    "loop --recipe frozen+finetune",
    "loop --recipe frozen+finetune --f32",
    "loop --recipe full --epochs 5",
    "loop --recipe full --epochs 10",
    "loop --recipe full --epochs 20",
    "fastai_learner --epochs 5 --bf16",
    "hf_trainer --epochs 3 --lr 5e-5 --schedule linear",
    "hf_trainer --epochs 10 --lr 5e-4",
    "hf_trainer --epochs 10 --lr 5e-4 --fixed-norm",
)


class PeerError(Exception):
    """A peer could not be installed or did not give a result."""


def requirements_of(peer: str) -> list[str]:
    """The constant `requirements` of a peer, read without running it."""
    for node in ast.parse((HERE / f"{peer}.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "requirements":
            return [str(line) for line in ast.literal_eval(node.value)]
    raise PeerError(f"{peer}.py has no constant requirements")


def environment(peer: str, work: Path) -> Path:
    """Make the peer's environment unless it is there with the same requirements; give its interpreter."""
    folder = work / "venv" / peer
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp, wanted = folder / "requirements.json", requirements_of(peer)
    if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == wanted:
        return python
    print(f"{peer}: installing {', '.join(wanted)}", flush=True)
    try:
        venv.create(folder, clear=True, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PeerError(f"no environment: {error}") from error
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (work / "venv" / f"{peer}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        raise PeerError(f"pip failed ({done.returncode}): {tail(done.stderr)}")
    stamp.write_text(json.dumps(wanted), encoding="utf-8")
    return python


def weights_file(given: Path | None, work: Path) -> Path:
    """The file that was given, or regraft's export, which is made once."""
    file = given or work / "weights.safetensors"
    if given is None and not file.is_file():
        subprocess.run([sys.executable, str(HERE / "prepare.py"), "--out", str(file)], check=True)
    return file.resolve()


def environments(recipes: list[str], work: Path) -> dict[str, Path | PeerError]:
    """The interpreter of each peer that is needed, or why there is none."""
    found: dict[str, Path | PeerError] = {}
    for peer in dict.fromkeys(recipe.split()[0] for recipe in recipes):
        try:
            if peer not in PEERS:
                raise PeerError(f"no peer {peer!r}; expected one of {', '.join(PEERS)}")
            found[peer] = Path(sys.executable) if peer == OURS else environment(peer, work)
        except PeerError as error:
            found[peer] = error
    return found


def run_one(
    recipe: str, seed: int, python: Path | PeerError, weights: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Run a recipe once and give its result.

    Raises:
        PeerError: It failed; the end of what it wrote is the message.
    """
    if isinstance(python, PeerError):
        raise python
    peer, *options = shlex.split(recipe)
    out = arguments.work / "runs" / "_".join([peer, *(o.strip("-") for o in options), str(arguments.size), str(seed)])
    common = {"--data": arguments.data.resolve(), "--weights": weights, "--out": out, "--size": arguments.size}
    common |= {"--seed": seed} | ({"--threads": arguments.threads} if arguments.threads else {})
    command = [str(python), str(HERE / f"{peer}.py")]
    command += [str(word) for pair in common.items() for word in pair] + options
    out.mkdir(parents=True, exist_ok=True)
    surroundings = os.environ | dict(pair.split("=", 1) for pair in arguments.environment)
    surroundings.pop("PYTHONPATH", None)
    started = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=arguments.timeout, env=surroundings
        )
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"not ready after {arguments.timeout:g} s") from error
    process_seconds = time.perf_counter() - started
    (out / "log.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        raise PeerError(f"exit code {done.returncode}: {tail(done.stderr)}")
    try:
        result: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    except json.JSONDecodeError as error:
        raise PeerError(f"the last line is no result: {tail(done.stdout)}") from error
    return result | {"process_seconds": round(process_seconds, 3)}


def tail(text: str, lines: int = 6) -> str:
    """The end of what a program wrote."""
    return " | ".join(" ".join(line.split()) for line in text.strip().splitlines()[-lines:]) or "it wrote nothing"


def main() -> int:
    """Run everything; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/CLASS and test/CLASS")
    parser.add_argument("--weights", type=Path, help="backbone weights under timm's names; default: regraft's export")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / ".bench", help="environments, runs and results")
    parser.add_argument("--results", type=Path, help="default: results.jsonl in the work folder; lines are appended")
    parser.add_argument("--recipe", action="append", help="a peer and its options, in place of RECIPES; repeatable")
    parser.add_argument("--only", action="append", choices=PEERS, help="the recipes of this peer alone; repeatable")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--size", type=int, default=160, help="pixels a side")
    parser.add_argument("--threads", type=int, help="default: every core")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one run")
    parser.add_argument(
        "--environment", action="append", default=[], metavar="NAME=VALUE", help="for the peers; repeatable"
    )
    arguments = parser.parse_args()
    arguments.work = arguments.work.resolve()
    arguments.work.mkdir(parents=True, exist_ok=True)
    (arguments.work / ".gitignore").write_text("*\n", encoding="utf-8")
    weights = weights_file(arguments.weights, arguments.work)
    recipes = [
        recipe
        for recipe in arguments.recipe or RECIPES
        if not arguments.only or recipe.partition(" ")[0] in arguments.only
    ]
    interpreters = environments(recipes, arguments.work)
    results = arguments.results or arguments.work / "results.jsonl"
    failed = False
    for seed in range(arguments.repeats):
        for recipe in recipes:
            row: dict[str, Any] = {"command": recipe, "round": seed, "data": arguments.data.name}
            row["started"] = datetime.now(UTC).isoformat(timespec="seconds")
            if arguments.environment:
                row["environment"] = arguments.environment
            row["load_before"] = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
            try:
                row |= run_one(recipe, seed, interpreters[recipe.split()[0]], weights, arguments)
                print(
                    f"{recipe:<52} {row['accuracy']:.4f} ({row['correct']}/{row['count']}) {row['seconds']:8.1f} s"
                    f" {row['peak_megabytes']:7.0f} MB",
                    flush=True,
                )
            except PeerError as error:
                failed = True
                row["error"] = str(error)
                print(f"{recipe:<52} failed: {error}", flush=True)
            with results.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
